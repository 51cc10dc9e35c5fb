"""From the command line and YAML to the arguments of a function of the API, whose signature is the list of flags."""

import inspect
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from overhaul import api
from overhaul.cli.flags import METHOD, ROLES, SETTINGS, Flags, flags_of, training_flags
from overhaul.cli.values import NO_YAML, Reader, accept, of_origin
from overhaul.recipe import Net, Setup
from overhaul.setups import SETUPS, get
from overhaul.system.messages import UserError, nearest
from overhaul.usual import as_entries, is_of_method

MOST_BYTES = 100_000  # of a --config file
ONLY_FLAGS = ("config", "print_config")  # no entries of a --config file


def parse(function: Callable, argv: list[str], command: str, as_json: bool) -> dict:
    """The arguments of a function of the API that are named, and "json" where --json is a flag of its command.

    Raises UserError for an unknown flag or value.
    """
    parameters = inspect.signature(function).parameters
    flags = Flags(command, flags_of(function) | ({"json": bool} if as_json else {}))
    given, alone = flags.split(argv)
    values = {name: each for flag, text in given for name, each in flags.flat(flag, text).items()}
    for name, each in parameters.items():
        if each.kind is not each.KEYWORD_ONLY and alone:
            several = of_origin(each.annotation, list) is not None
            taken = alone if several else alone[:1]
            texts = [accept(name, str if several else each.annotation, text) for text in taken]
            values[name], alone = texts if several else texts[0], alone[len(taken) :]
    if alone:
        raise UserError(f"unknown argument {alone[0]}; {flags.command} --help says which there are")
    required = [name for name, each in parameters.items() if each.default is each.empty and name not in values]
    if required:
        names = (f"--{name}" if name in flags.kinds else name for name in required)
        raise UserError(f"{flags.command} needs {', '.join(names)}; {flags.command} --help says more")
    nets = [role for role, kind in flags.kinds.items() if kind is Net and any(is_of(role, name) for name in values)]
    return gathered(values) | {role: network(role, None, [values]) for role in nets}


def is_of(role: str, name: str) -> bool:
    return name.split(".")[0] == role


def gathered(values: dict[str, Any]) -> dict[str, Any]:
    """Flat names as arguments: {"kwargs.depth": 16} as {"kwargs": {"depth": 16}}."""
    found = {}
    for name, value in values.items():
        head, _, argument = name.partition(".")
        found[head] = {**(found.get(head) or {}), argument: value} if argument else value
    return found


def parse_training(argv: list[str]) -> dict:
    """The arguments of api.train that `overhaul train` is asked for: a row of SETUPS, --config files and flags.

    Raises UserError for an unknown setup, flag or value; --print_config exits.
    """
    flags = training_flags()
    given, alone = flags.split(argv)
    setup = next((text for name, text in reversed(given) if name == "setup"), None)
    sources = [{}]
    for name, text in given:
        if name == "config":
            entries = read_config(accept("--config", str, text), flags)
            if setup and entries.setdefault("setup", setup) != setup:
                theirs = entries["setup"]
                raise UserError(f"--config {text} is of the setup {theirs}, not of {setup}; drop one of them")
            setup = setup or entries.get("setup")
            sources += [entries, {}]
        else:
            sources[-1] |= flags.flat(name, text)
    if alone:
        raise UserError(f"unknown argument {alone[0]}; {flags.command} --help lists the flags")
    setup = setup or usual_setup(name for source in sources for name in source)
    row, printed = get(setup), [source.pop("print_config", False) for source in sources]
    values = changes(row, sources)
    if any(printed):
        print(configuration(values), end="")
        raise SystemExit(0)
    return values


def usual_setup(names: Iterable[str]) -> str:
    """The setup that is meant where none is named: that for one's own images where there is a student."""
    if not names_student(names):
        raise UserError(f"name a setup with --setup ({', '.join(SETUPS)}), or a student with --student")
    return "own"


def names_student(names: Iterable[str]) -> bool:
    return any(is_of("student", name) for name in names)


def changes(row: Setup, sources: list[dict]) -> dict:
    """A row's name and what the sources, the later before the earlier, would have in place of its values."""
    values, sources = {}, of_one_method(sources)
    for name, each in (entry for source in sources for entry in source.items()):
        head, _, rest = name.partition(".")
        head = SETTINGS if rest and head == METHOD else head
        if head not in ROLES:
            several = values.get(head) if isinstance(values.get(head), dict) else {}
            values[head] = {**several, rest: each} if rest else each
    for role in ROLES:
        if any(is_of(role, name) for source in sources for name in source):
            values[role] = network(role, getattr(row, role), sources)
    return {**values, "setup": row.name}


def of_one_method(sources: list[dict]) -> list[dict]:
    """The sources without what is said, beside another method than the last one, of that method."""
    last = next((source[METHOD] for source in reversed(sources) if METHOD in source), None)
    others = [source.get(METHOD, last) != last for source in sources]
    return [
        {name: each for name, each in source.items() if not (other and is_of_method(name))}
        for source, other in zip(sources, others, strict=True)
    ]


def network(role: str, net: Net | None, sources: list[dict]) -> Net | None:
    """The row's network with what the sources say of it; one of another family keeps its number of classes alone."""
    found = net
    for source in sources:
        given = {name: each for name, each in source.items() if is_of(role, name)}
        if not given:
            continue
        if (mine := gathered(given)[role]) is None:
            found = None
            continue
        found = found or Net()
        found = found.of(mine.get("family", found.family))
        kwargs = {name.removeprefix("kwargs."): each for name, each in mine.items() if name.startswith("kwargs.")}
        others = {name: each for name, each in mine.items() if not name.startswith("kwargs.")}
        found = replace(found, **others, kwargs=found.kwargs | kwargs)
    if found and found.is_any and not (net and net.is_any):
        raise UserError(
            f"--{role}.family takes a name (see `overhaul models`), unless --{role} SOURCE says where weights are"
        )
    return found


def read_yaml(file: str, said: str) -> dict:
    """A YAML file's entries, plain values; said: the file, in a message."""
    if not os.path.isfile(file):  # Path.is_file raises for names that no file can have
        raise UserError(f"{said}: there is no such file")
    if (size := os.path.getsize(file)) > MOST_BYTES:
        raise UserError(f"{said} holds no settings: it has {size:,} bytes, and {MOST_BYTES:,} are the most")
    try:
        config = yaml.load(Path(file).read_text("utf-8"), Reader)
    except OSError as error:
        raise UserError(f"{said} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{said} is not YAML of settings: it is nested too deeply") from None
    except NO_YAML as error:
        why = " ".join(str(error).split()).replace(' in "<unicode string>"', "").partition("; use sys.")[0]
        raise UserError(f"{said} is not YAML: {why}") from None
    if not isinstance(config, dict) or not config:
        raise UserError(f"{said} holds no settings")
    return config


def read_config(file: str, flags: Flags) -> dict[str, Any]:
    """The entries of a YAML file, by their flat names."""
    config = read_yaml(file, f"--config {file}")
    entries = {}
    for key, value in config.items():
        name = str(key).replace("-", "_")
        if flags.kind(name) is None or name in ONLY_FLAGS:
            names = [each for each in flags.kinds if each not in ONLY_FLAGS]
            raise UserError(f"--config {file} has the unknown entry {key}{nearest(name, names, 0.5)}")
        more = flags.flat(name, value, f"--config {file}: ")
        if twice := [each for each in more if each in entries]:
            raise UserError(f"--config {file} has {twice[0]} twice; name it once")
        entries |= more
    return entries


def configuration(values: dict) -> str:
    """All settings of what is asked for, as YAML that --config takes."""
    setup, run = api.settings(values["setup"], {name: each for name, each in values.items() if name != "setup"})
    config = {"setup": setup.name, **as_entries(setup), **asdict(run)}
    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False)
