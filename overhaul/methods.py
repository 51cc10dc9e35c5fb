"""What is asked of methods: a name or a sum of them, their settings, and what is usual in a setup; without torch."""

import math
from collections.abc import Mapping
from typing import Any

from overhaul import catalogue
from overhaul.system.messages import UserError, choose, nearest

RECIPE = {"label_weight": 1.0, "ramp_epochs": 0}  # of a method that says nothing of them


def parts(method: str) -> tuple[str, ...]:
    """The methods that are summed up: ("overhaul", "kd") of "overhaul+kd"."""
    return tuple(method.split("+"))


def check(method: str) -> None:
    """UserError for a method that is not known, or a sum that is none."""
    if not isinstance(method, str):
        raise UserError(f"--method takes a name, or several as in overhaul+kd, not {method!r}")
    names = parts(method)
    for name in names:
        choose("--method", name, catalogue.methods())
    if len(names) > 1 and "original" in names:
        raise UserError(f"--method {method}: original is the student alone, with nothing to sum up; leave it out")
    if len({*names}) < len(names):
        raise UserError(f"--method {method} names a method twice")


def needs(method: str) -> set[str]:
    """What is compared: "features", "logits", "embedding", several of them, or nothing."""
    return {each for name in parts(method) if (each := catalogue.method(name).needs)}


def settings(method: str, given: Mapping) -> dict[str, dict]:
    """What is given of a method's settings, by method: {"kd": {"temperature": 2.0}}.

    given: so, or with flat names, "temperature" or "kd.temperature". Raises UserError for an unknown setting, one of
    another method, one that several methods of a sum have, and for values of another type.
    """
    found = {name: {} for name in parts(method)}
    for key, value in flat(given).items():
        owner, name = owner_of(method, key)
        found[owner][name] = fitted(f"--method.{key}", catalogue.method(owner).settings[name][0], value)
    return {name: values for name, values in found.items() if values}


def filled(method: str, given: Mapping[str, dict]) -> dict[str, dict]:
    """All settings of the methods, by method: those given, and else CIFAR's, which the classes have."""
    usual = {name: catalogue.method(name).settings for name in parts(method)}
    return {name: {key: each for key, (_, each) in usual[name].items()} | given.get(name, {}) for name in usual}


def flat(given: Mapping) -> dict[str, Any]:
    """Settings by their flat names, see settings; UserError for what is no mapping."""
    if not isinstance(given, Mapping):
        raise UserError(f"method_settings takes names and values, as in {{'temperature': 2}}, not {given!r}")
    found = {}
    for key, value in given.items():
        found |= {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def owner_of(method: str, key: str) -> tuple[str, str]:
    """Which method of a sum a setting is of, and its name there."""
    named, _, name = str(key).rpartition(".")
    own = {part: catalogue.method(part).settings for part in parts(method)}
    owners = [part for part in own if name in own[part] and named in ("", part)]
    if len(owners) == 1:
        return owners[0], name
    if owners:
        ways = " or ".join(f"--method.{part}.{name}" for part in owners)
        raise UserError(f"--method.{name} is a setting of {' and of '.join(owners)}: say which, {ways}")
    others = having(name)
    elsewhere = f", but of {', '.join(others)}" if others and not {*others} & {*own} else ""
    valid = [each if len(own) == 1 else f"{part}.{each}" for part in own for each in own[part]]
    has = f"it has {', '.join(valid)}" if valid else "it has none"
    raise UserError(f"--method.{key} is no setting of {method}{elsewhere}{nearest(str(key), valid)}; {has}")


def having(setting: str) -> list[str]:
    """The methods that have a setting of that name."""
    return [name for name in catalogue.methods() if setting in catalogue.method(name).settings]


def fitted(what: str, kind: type, value: Any) -> Any:
    """The value as a setting has it; UserError where it is of another type, or no number to compute with."""
    number = is_number(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and number and value == int(value if math.isfinite(value) else 0.5):
        return int(value)
    least = "above 0" if what.endswith("temperature") else "0 or more"
    if kind is float and number and (0 < value < 1e30 or (value == 0 and least != "above 0")):
        return float(value)
    words = {bool: "true or false", int: "a whole number", float: f"a number, finite and {least}"}
    raise UserError(f"{what} takes {words[kind]}, not {value!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def alone_or_by(what: str, method: str, value: Any) -> Any:
    """A value for all methods, or a dict of values by the names of those that are summed up."""
    names = parts(method)
    if not isinstance(value, Mapping):
        return value
    if wrong := [str(name) for name in value if name not in names]:
        raise UserError(f"{what}.{wrong[0]}: {wrong[0]} is no method of --method {method}{nearest(wrong[0], names)}")
    if missing := [name for name in names if name not in value]:
        raise UserError(f"{what} of --method {method} lacks {', '.join(missing)}: name {what}.{missing[0]}")
    return value[method] if len(names) == 1 else dict(value)


def usual(name: str, kind: str, row: str, given: Mapping) -> dict[str, Any]:
    """The values of a method in a setup, of the recipe and of its settings, with those that are given among them.

    kind: of the setup, see recipe.Setup.like; row: its name. "distill_weight" is absent where the setup's own counts.
    """
    told = catalogue.method(name)
    found = {**RECIPE, "teacher_norm": told.teacher_norm, **{key: each[1] for key, each in told.settings.items()}}
    for key in ("cifar", kind, row, *(key for key, value in given.items() if value is True)):
        found |= told.defaults.get(key, {})
    return found | given
