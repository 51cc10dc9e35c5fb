"""From the command line and YAML to a Setup and a Run; the flags are the fields of those two dataclasses."""

import argparse
import dataclasses
import difflib
import re
from pathlib import Path

import jsonargparse
import yaml

from overhaul.options import Run
from overhaul.setups import SETUPS, Setup, get

HIDDEN = {"name", "published"}
SWITCHES = {
    f"--{field.name}": "true" for cls in (Setup, Run) for field in dataclasses.fields(cls) if field.type is bool
}
SWITCHES["--compile"] = "default"


def parse_training(argv: list[str]) -> tuple[Setup, Run]:
    """What `overhaul train` is asked for: a row of SETUPS, changed by --config files and flags, and a Run.

    Raises ValueError for an unknown setup, flag or value; --help and --print_config exit.
    """
    argv = tidy(argv)
    row = get(setup_name(argv))
    parser = training_parser(row)
    try:
        values = vars(parser.instantiate(parser.parse_args(argv)))
    except (jsonargparse.ArgumentError, argparse.ArgumentError, TypeError) as error:
        raise ValueError(explain(str(error), parser)) from None
    changes = {field.name: values[field.name] for field in dataclasses.fields(Setup) if field.name not in HIDDEN}
    run = Run(**{field.name: values[field.name] for field in dataclasses.fields(Run)})
    return dataclasses.replace(row, **changes), run


def training_parser(row: Setup) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog="overhaul train",
        description="Train a setup; the flags below change it.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--setup", default=row.name, help=f"one of {', '.join(SETUPS)}")
    parser.add_argument("--config", action="config", help="a YAML file of these settings, as --print_config writes it")
    parser.add_class_arguments(Setup, None, skip=HIDDEN)
    parser.add_class_arguments(Run, None)
    parser.set_defaults({key: value for key, value in dataclasses.asdict(row).items() if key not in HIDDEN})
    return parser


def tidy(argv: list[str]) -> list[str]:
    """--teacher SOURCE means --teacher.weights SOURCE; a switch without a value means true, --compile "default"."""
    tidied = []
    for i, argument in enumerate(argv):
        value = argv[i + 1] if i + 1 < len(argv) else "--"
        if re.fullmatch(r"--teacher(=.*)?", argument):
            argument = argument.replace("--teacher", "--teacher.weights", 1)
        tidied.append(argument)
        if argument in SWITCHES and value.startswith("--"):
            tidied.append(SWITCHES[argument])
    return tidied


def setup_name(argv: list[str]) -> str:
    """The setup that the flags or a --config file name."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--setup")
    finder.add_argument("--config", action="append", default=[])
    try:
        known = finder.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    setup = known.setup
    for file in known.config:
        named = setup_of_config(file)
        if setup and named and named != setup:
            raise ValueError(f"--config {file} is of the setup {named}, not of {setup}; drop one of them")
        setup = setup or named
    if setup:
        return setup
    if {"-h", "--help"} & set(argv):
        return next(iter(SETUPS))
    raise ValueError(f"name a setup with --setup: {', '.join(SETUPS)}")


def setup_of_config(file: str) -> str | None:
    if not Path(file).is_file():
        raise ValueError(f"--config {file}: there is no such file")
    try:
        config = yaml.safe_load(Path(file).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise ValueError(f"--config {file} holds no settings")
    return config.get("setup")


def explain(message: str, parser: argparse.ArgumentParser) -> str:
    """A parser's message as one line, with the nearest flag where one is unknown."""
    message = " ".join(message.split())
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    if unknown := re.search(r"unrecognized arguments: (\S+)", message):
        name = unknown[1].split("=")[0]
        near = difflib.get_close_matches(name, flags, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}; {parser.prog} --help lists them"
    if not_accepted := re.search(r"Option '(\w+)' is not accepted", message):
        near = difflib.get_close_matches(f"--{not_accepted[1]}", flags, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0][2:]}?)" if near else ""
        return f"the --config file has the unknown entry {not_accepted[1]}{hint}"
    if "Namespace(" in message:
        return (
            "--teacher: this setup has no teacher network; name a setup that has one, or say which network it is with "
            "--teacher.family and --teacher.kwargs"
        )
    message = re.sub(r'^Parser key "([\w.]+)":', r"--\1:", message)
    message = re.sub(
        r"Does not validate against any of the Union subtypes.* Given value: (.*)", r"\1 is not valid", message
    )
    return re.sub(r"<class '(\w+)'>", r"\1", message)
