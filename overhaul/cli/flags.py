"""The flags of a command: their names, what each takes, and how they are told apart on a command line."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal, get_args

from overhaul import catalogue
from overhaul.cli.values import SWITCH, accept, is_switch, kinds_of, loaded, of_origin, words
from overhaul.options import Run
from overhaul.recipe import Net, Setup, named
from overhaul.system.messages import UserError, nearest
from overhaul.usual import HIDDEN

ROLES = ("student", "teacher")
METHOD, SETTINGS = "method", "method_settings"  # the flags --method.temperature, the argument method_settings


class Flags:
    """The flags of a command by their names, without dashes, and what each takes."""

    def __init__(self, command: str, kinds: dict[str, Any]) -> None:
        self.command, self.kinds = f"overhaul {command}", kinds

    def kind(self, name: str) -> Any:
        """What a flag takes, `kwargs.depth` being one of a flag `kwargs` that takes names and values; None: unknown."""
        if name in self.kinds:
            return self.kinds[name]
        several = of_origin(self.kinds.get(name.rpartition(".")[0]), dict)
        return several and get_args(several)[1]

    def split(self, argv: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
        """The flags and their texts, in order, and what stands without a flag; - in a flag's name counts as _."""
        flags, alone, rest = [], [], list(argv)
        while rest:
            word = rest.pop(0)
            if word == "--":
                return flags, alone + rest
            if not word.startswith("-") or re.match(r"-[\d.]", word):
                alone.append(word)
                continue
            typed, equals, text = word.partition("=")
            name = typed[2:].replace("-", "_")
            if not typed.startswith("--") or self.kind(name) is None:
                hint = nearest(typed.replace("-", "_"), [f"__{each}" for each in self.kinds], 0.5).replace("__", "--")
                raise UserError(f"unknown flag {typed}{hint}; {self.command} --help lists them")
            flags.append((name, text if equals else self.text(name, rest)))
        return flags, alone

    def text(self, name: str, rest: list[str]) -> str:
        """What stands behind a flag, taken from the rest; a switch alone means true, --compile alone "default"."""
        kind, last = self.kind(name), not rest or rest[0].startswith("--")
        if is_switch(kind) and (last or rest[0].lower() not in SWITCH):
            return "true"
        if last and "default" in get_args(of_origin(kind, Literal)):
            return "default"
        if last:
            raise UserError(f"--{name} needs a value: {words(kind)}")
        return rest.pop(0)

    def flat(self, name: str, value: Any, before: str = "--") -> dict[str, Any]:
        """An entry as flat names and values of their types: {"student": {"family": ...}} as {"student.family": ...}.

        before: what stands before a name where a value is wrong.
        """
        kind = self.kind(name)
        if kind is None:
            raise UserError(f"{before}{name} is unknown{nearest(name, self.kinds, 0.5)}")
        several = value if kind is Net and isinstance(value, str) and "{" not in value[:1] else loaded(value)
        if (kind is Net or of_origin(kind, dict)) and isinstance(several, Mapping):
            entries = [self.flat(f"{name}.{str(key).replace('-', '_')}", each, before) for key, each in several.items()]
            return {key: each for entry in entries for key, each in entry.items()}
        if kind is Net and name == "teacher" and value is None:
            return {name: None}
        if kind is Net and isinstance(value, str) and value.strip():
            said = named(value)
            return {f"{name}.{field}": each for field in ("family", "weights") if (each := getattr(said, field))}
        return {name: accept(f"{before}{name}", kind, value)}


def flags_of(function: Callable) -> dict[str, Any]:
    """The keyword-only parameters of a function, but whether it shows what it does, and their types."""
    named = [each for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
    kinds = {each.name: each.annotation for each in named if each.name != "show"}
    nets = [name for name, kind in kinds.items() if Net in kinds_of(kind)]
    return kinds | dict.fromkeys(nets, Net) | flags_of_nets(nets)


def flags_of_nets(roles: Iterable[str]) -> dict[str, Any]:
    return {f"{role}.{each.name}": each.type for role in roles for each in fields(Net)}


def training_flags() -> Flags:
    recipe = {each.name: each.type for each in fields(Setup) if each.name not in (*HIDDEN, *ROLES, SETTINGS)}
    nets = dict.fromkeys(ROLES, Net) | flags_of_nets(ROLES)
    own = {"setup": str, "config": str, "print_config": bool}
    runs = {each.name: each.type for each in fields(Run)}
    return Flags("train", own | recipe | settings_of_methods() | nets | runs)


def settings_of_methods() -> dict[str, Any]:
    """The flags of the methods' settings, alone and by their method, and their types."""
    found = {}
    for method in catalogue.methods():
        for name, (kind, _) in catalogue.method(method).settings.items():
            known = found.get(f"{METHOD}.{name}", kind)
            found |= {f"{METHOD}.{name}": known if known is kind else known | kind, f"{METHOD}.{method}.{name}": kind}
    return found
