"""Numbers that fit: those that a field of a dataclass takes, and sizes that this machine's memory can hold."""

import os
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args

from overhaul.system.messages import UserError

MOST_LETTERS, LONGEST_PART = 4000, 255  # of a path, and bytes of one of its names


def check_numbers(row: Any, most: Mapping[str, int], flags: str = "--") -> None:
    """UserError for a value of a dataclass that is not of its field's type, or is above the most for its name.

    Numbers, texts and what holds them are looked at; True is no number. Of a float that is no finite number the row
    itself says what it may be. flags: what the names begin with.
    """
    for each in fields(row):
        kinds, value = atoms(each.type), getattr(row, each.name)
        several = isinstance(value, (tuple, list, dict)) and not {int, float}.isdisjoint(kinds)
        for one in (value.values() if isinstance(value, dict) else value) if several else [value]:
            check_one(f"{flags}{each.name}", kinds, one, most.get(each.name))


def check_one(name: str, kinds: set, value: Any, most: int | None) -> None:
    if isinstance(value, str):
        check_text(name, value)
    if {int, float}.isdisjoint(kinds) or {bool, str} & kinds or (value is None and NoneType in kinds):
        return
    numbers = (int, float) if float in kinds else (int,)
    if not isinstance(value, numbers) or isinstance(value, bool):
        raise UserError(f"{name} takes a {'' if float in kinds else 'whole '}number, not {str(value)[:80]!r}")
    if most is not None and value > most:
        raise UserError(f"{name} must be at most {most:,}")


def check_text(name: str, text: str) -> None:
    """UserError for a text that no file can have for its path, nor a run's configuration for a value."""
    if "\0" in text or text.encode("utf-8", "ignore").decode() != text:
        raise UserError(f"{name} takes a text without NUL or bytes that are no UTF-8, not {text[:80]!a}")
    if len(text) > MOST_LETTERS or any(len(part.encode()) > LONGEST_PART for part in text.split("/")):
        raise UserError(f"{name} takes a text no longer than a file's name can be, not {text[:9]!r}...")
    if text.startswith("~") and os.path.expanduser(text) == text:
        raise UserError(f"{name} takes a text; {text.split('/')[0]} in {text} is the home of no user here")


def atoms(kind: Any) -> set:
    """The plain types in a type: int and NoneType of `tuple[int, ...] | None`."""
    inner = get_args(kind)
    return set().union(*map(atoms, inner)) if inner else {kind}


def memory() -> float:
    """Bytes of this machine."""
    known = hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else float("inf")


def check_memory(what: str, size: int) -> None:
    """UserError where so many bytes, of what is named, are more than this machine has."""
    if size > memory():
        gib = f"{size / 2**30:,.0f} GiB, and this machine has {memory() / 2**30:,.0f}"
        raise UserError(f"{what} would take {gib}; name a smaller size")
