"""From the command line and YAML to the arguments of a function of the API, whose signature is the list of flags."""

import argparse
import inspect
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import get_origin

import docstring_parser
import jsonargparse
import yaml

from overhaul import api
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.setups import SETUPS, get
from overhaul.system.messages import UserError, choose, nearest


def parse(function: Callable, argv: list[str], command: str, description: str, as_json: bool) -> dict:
    """The arguments of a function of the API, and "json" where --json is a flag of its command.

    Raises UserError for an unknown flag or value; --help exits.
    """
    parser = parser_of(command, description)
    parameters = inspect.signature(function).parameters
    several = [name for name, each in parameters.items() if get_origin(each.annotation) is list]
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip={*several, "show"})
    helps = {each.arg_name: each.description for each in docstring_parser.parse(function.__doc__).params}
    for name in several:
        parser.add_argument(name, nargs="+", help=helps[name])
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parsed(parser, tidy(argv, function))


def parse_training(argv: list[str]) -> dict:
    """The arguments of api.train that `overhaul train` is asked for: a row of SETUPS, --config files and flags.

    Raises UserError for an unknown setup, flag or value; --help and --print_config exit.
    """
    argv = tidy(argv, api.train)
    row = get(setup_name(argv))
    parser = parser_of("train", "Train a setup; the flags below change it.")
    parser.add_argument("--setup", default=row.name, help=f"one of {', '.join(SETUPS)}")
    parser.add_argument("--config", action="config", help="a YAML file of these settings, as --print_config writes it")
    parser.add_class_arguments(Setup, None, skip=set(api.HIDDEN))
    parser.add_class_arguments(Run, None)
    parser.set_defaults({key: value for key, value in asdict(row).items() if key not in api.HIDDEN})
    values = parsed(parser, argv)
    values.pop("config")
    return values


def parser_of(command: str, description: str) -> jsonargparse.ArgumentParser:
    how = {"exit_on_error": False, "allow_abbrev": False}
    return jsonargparse.ArgumentParser(prog=f"overhaul {command}", description=description, **how)


def parsed(parser: jsonargparse.ArgumentParser, argv: list[str]) -> dict:
    try:
        return vars(parser.instantiate(parser.parse_args(argv)))
    except (jsonargparse.ArgumentError, argparse.ArgumentError, TypeError) as error:
        raise UserError(explain(str(error), parser)) from None


def tidy(argv: list[str], function: Callable) -> list[str]:
    """--teacher SOURCE means --teacher.weights SOURCE, and so for the student.

    A switch without a value means true, --compile "default".
    """
    parameters = inspect.signature(function).parameters.values()
    switches, tidied = {f"--{each.name}" for each in parameters if each.annotation is bool}, []
    for i, argument in enumerate(argv):
        value = argv[i + 1] if i + 1 < len(argv) else "--"
        argument = re.sub(r"^--(teacher|student)(?==|$)", r"--\1.weights", argument)
        tidied.append(argument)
        if argument in switches and value.lower() not in ("true", "false", "yes", "no"):
            tidied.append("true")
        if argument == "--compile" and value.startswith("--"):
            tidied.append("default")
    return tidied


def setup_name(argv: list[str]) -> str:
    """The setup that the flags or a --config file name."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--setup")
    finder.add_argument("--config", action="append", default=[])
    try:
        known = finder.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    setup = known.setup
    for file in known.config:
        named = setup_of_config(file)
        if setup and named and named != setup:
            raise UserError(f"--config {file} is of the setup {named}, not of {setup}; drop one of them")
        setup = setup or named
    if setup:
        return setup
    if {"-h", "--help"} & set(argv):
        return next(iter(SETUPS))
    raise UserError(f"name a setup with --setup: {', '.join(SETUPS)}")


def setup_of_config(file: str) -> str | None:
    if not Path(file).is_file():
        raise UserError(f"--config {file}: there is no such file")
    try:
        config = yaml.safe_load(Path(file).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"--config {file} holds no settings")
    return config.get("setup")


def explain(message: str, parser: argparse.ArgumentParser) -> str:
    """A parser's message as one line, with the nearest flag or value where one is unknown."""
    message = " ".join(message.split())
    flags = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    if unknown := re.search(r"unrecognized arguments: (\S+)", message):
        name = unknown[1].split("=")[0]
        kind = "flag" if name.startswith("-") else "argument"
        return f"unknown {kind} {name}{nearest(name, flags, 0.5)}; {parser.prog} --help lists them"
    if not_accepted := re.search(r"Option '(\w+)' is not accepted", message):
        names = [flag[2:] for flag in flags]
        return f"the --config file has the unknown entry {not_accepted[1]}{nearest(not_accepted[1], names, 0.5)}"
    if "Namespace(" in message:
        return (
            "--teacher: this setup has no teacher network; name a setup that has one, or say which network it is with "
            "--teacher.family and --teacher.kwargs"
        )
    if required := re.search(r"arguments are required: (.*)", message):
        names = (f"--{name}" if f"--{name}" in flags else name for name in required[1].split(", "))
        return f"{parser.prog} needs {', '.join(names)}; {parser.prog} --help says more"
    if words := re.search(r'^Parser key "([\w.]+)":.*Literal\[(.*?)\].*(?:Got|Given) value: (.*)', message):
        valid = tuple(re.findall(r"'(\w+)'", words[2]))
        try:
            choose(f"--{words[1]}", words[3], valid)
        except UserError as error:
            return str(error)
    message = re.sub(r'^Parser key "([\w.]+)":', r"--\1:", message)
    message = re.sub(
        r"Does not validate against any of the Union subtypes.* Given value: (.*)", r"\1 is not valid", message
    )
    return re.sub(r"<class '(\w+)'>", r"\1", message)
