"""What `--help` says of a command: an example first, then its flags in groups, in plain words."""

import inspect
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Literal, get_args

from overhaul import api, catalogue, methods
from overhaul.cli.arguments import names_student
from overhaul.cli.flags import METHOD, ROLES, flags_of, training_flags
from overhaul.cli.values import is_names, is_switch, kinds_of, of_origin
from overhaul.options import DataOptions, Run
from overhaul.recipe import BY_METHOD, Net
from overhaul.setups import HIDDEN, SETUPS, get
from overhaul.system.messages import UserError
from overhaul.system.signatures import helps_in

NONE = inspect.Parameter.empty
INDENT = 27  # columns before a flag's help
OWN = {
    "setup": f"a row of `overhaul setups`: {', '.join(SETUPS)}; own where a student is named and no setup",
    "config": "a YAML file of these settings, as --print_config writes it; what stands later on the line counts",
    "print_config": "write all settings as YAML and stop",
    "method": "how the student is taught, see `overhaul methods`: overhaul, original (the student alone), another, or "
    "several summed up, as in overhaul+kd, with --distill_weight.kd, and --method.kd.temperature where two have one",
    "json": "print JSON",
    **{f"{role}.kwargs": f"the family's arguments, or one of them: --{role}.kwargs.depth 16" for role in ROLES},
}
METAVARS = {
    "setup": "NAME",
    "method": "NAME",
    "config": "FILE",
    "class_names": "FILE",
    "data_config": "NAME",
    "weights": "SOURCE",
    "resume_with": "epochs=N",
    "push_to_hub": "USER/REPO",
}


def of_command(function: Callable, command: str, words: str, examples: tuple[str, ...], as_json: bool) -> str:
    """The help of a command that is a function of the API."""
    kinds = flags_of(function) | ({"json": bool} if as_json else {})
    helps = helps_of_nets() | OWN | helps_of(function)
    parameters = inspect.signature(function).parameters
    alone = [(placed(each), helps[name]) for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY]
    defaults = {name: parameters[name].default if name in parameters else False for name in kinds}
    needed = [f"--{name} {metavar(name, kinds[name])}" for name, each in defaults.items() if each is NONE]
    more = ["[--FLAG VALUE ...]"] if len(kinds) > len(needed) else []
    usage = " ".join(["usage: overhaul", command, *(place for place, _ in alone), *needed, *more])
    flags = [row(name, kind, helps, defaults[name]) for name, kind in kinds.items()]
    return page(usage, words, examples, {"arguments": alone, "flags": flags})


def of_training(argv: list[str], words: str, examples: tuple[str, ...]) -> str:
    """The help of `overhaul train`, with the values of the setup that is named."""
    kinds, setup = training_flags().kinds, setup_in(argv)
    helps = helps_of(api.train) | helps_of_nets() | helps_of_settings(setup) | OWN
    values, titles = values_of(setup), {}
    for name in kinds:
        if name.count(".") < 2 or not name.startswith(METHOD):
            titles.setdefault(title_of(name), []).append(row(name, kinds[name], helps, values.get(name)))
    whose = "`--setup NAME --help` shows that setup's values"
    if setup:
        whose = f"defaults are those of {setup}, whose method is {get(setup).method}"
    words = f"{words}. Flags change the setup; {whose}; `overhaul models` lists the networks"
    return page("usage: overhaul train [--setup NAME] [--FLAG VALUE ...]", words, examples, titles)


def helps_of_nets() -> dict[str, str]:
    return {f"{role}.{name}": text for role in ROLES for name, text in helps_of(Net).items()}


def helps_of_settings(setup: str | None) -> dict[str, str]:
    """What the settings of the methods are, whose, and what they are in a setup."""
    texts = {}
    for method, name in ((each, name) for each in catalogue.methods() for name in catalogue.method(each).settings):
        text = catalogue.method(method).helps.get(name, "see its class")
        value = methods.usual(method, get(setup).like, setup, {})[name] if setup else None
        texts.setdefault(f"{METHOD}.{name}", {}).setdefault((text, value), []).append(method)
    return {
        flag: "; ".join(f"of {', '.join(names)}: {text}{default(value)}" for (text, value), names in each.items())
        for flag, each in texts.items()
    }


def default(value: Any) -> str:
    """What stands behind the help of a flag that has a value where it is not named."""
    is_told = value is not None and value is not False and value is not NONE and value != {}
    return f" (default: {as_typed(value)})" if is_told else ""


def title_of(name: str) -> str:
    """The group of a flag of `overhaul train`."""
    if name.split(".")[0] in ROLES:
        return f"the {name.split('.')[0]}"
    if name.split(".")[0] in (METHOD, "label_weight", *BY_METHOD):
        return "the method"
    if name in OWN:
        return "the setup"
    if name in DataOptions.__dataclass_fields__:
        return "the data"
    return "where and how" if name in Run.__dataclass_fields__ else "what is trained: everything that moves a number"


def setup_in(argv: list[str]) -> str | None:
    """The setup that a command line names, whatever else is wrong with it."""
    try:
        given = dict(training_flags().split([word for word in argv if word not in ("-h", "--help")])[0])
    except UserError:
        return None
    if "setup" in given:
        return get(given["setup"]).name
    return "own" if names_student(given) else None


def values_of(setup: str | None) -> dict[str, Any]:
    """What the flags of `overhaul train` have where they are not named, by their names."""
    values = {"print_config": False} | {each.name: each.default for each in fields(Run)}
    if setup:
        row = get(setup)
        values |= {name: each for name, each in asdict(row).items() if name not in (*HIDDEN, *ROLES)}
        nets = {role: getattr(row, role) for role in ROLES}
        values |= {f"{role}.{name}": each for role, net in nets.items() if net for name, each in asdict(net).items()}
    return values


def helps_of(documented: Any) -> dict[str, str]:
    """What a docstring says under Args, by names."""
    return helps_in(inspect.getdoc(documented))


def placed(parameter: inspect.Parameter) -> str:
    """An argument without a flag, as the usage has it."""
    name = parameter.name.upper()
    if of_origin(parameter.annotation, list):
        return f"{name.removesuffix('S')} [...]"
    return name if parameter.default is parameter.empty else f"[{name}]"


def metavar(name: str, kind: Any) -> str:
    """What stands behind a flag."""
    if choices := of_origin(kind, Literal):
        return "|".join(get_args(choices))
    if kind is Net:
        return "SOURCE"
    if several := of_origin(kind, tuple):
        return '"[NAME, ...]"' if is_names(several) else '"[X, ...]"'
    if of_origin(kind, dict) and not {int, float} & {*kinds_of(kind)}:
        return "'{\"NAME\": VALUE}'"
    if is_switch(kind):
        return "true|false"
    last = name.rpartition(".")[2]
    numbers = [letter for each, letter in ((int, "N"), (float, "X")) if each in kinds_of(kind)]
    return next(iter(numbers), None) or METAVARS.get(last, last.rpartition("_")[2].upper())


def row(name: str, kind: Any, helps: dict[str, str], value: Any) -> tuple[str, str]:
    """A flag as it is typed, and what it does. value: what it has where it is not named."""
    usage = f"--{name}" if is_switch(kind) and value in (False, NONE) else f"--{name} {metavar(name, kind)}"
    return usage, f"{helps[name]}{default(value)}"


def as_typed(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(each if isinstance(each, str) else f'{each:.4g}' for each in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{name}": {as_typed(each)}' for name, each in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def page(usage: str, words: str, examples: tuple[str, ...], groups: dict[str, list[tuple[str, str]]]) -> str:
    """The whole text, in lines that fit the terminal."""
    width = min(max(shutil.get_terminal_size().columns, 60), 120)
    about = textwrap.wrap(f"{words[0].upper()}{words[1:]}.", width, break_on_hyphens=False)
    lines = [usage, "", *about, "", "examples:", *(f"  {each}" for each in examples)]
    for title, rows in groups.items():
        lines += ["", f"{title}:"] if rows else []
        for flag, text in rows:
            wrapped = textwrap.wrap(text, width - INDENT, break_on_hyphens=False)
            beside = len(flag) < INDENT - 3
            first = f"  {flag}".ljust(INDENT) + (wrapped[0] if beside else "")
            lines += [first.rstrip(), *(" " * INDENT + each for each in wrapped[beside:])]
    return "\n".join(lines)
