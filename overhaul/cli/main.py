"""The command `overhaul`: which function of the API it is, and what its results and its errors look like."""

import inspect
import json
import os
import sys
import traceback
from contextlib import nullcontext
from typing import NoReturn

from overhaul.cli.commands import BENCH_DATA, COMMANDS, Command
from overhaul.cli.standing import how_to_go_on, where_it_stands
from overhaul.system.messages import (
    UserError,
    choose,
    first_line,
    launched,
    printable,
    printable_lines,
    say,
    without_tokens,
)
from overhaul.system.network import check_environment
from overhaul.system.preemption import (
    Preempted,
    enlist,
    installed,
    leave,
    leave_status,
    stop_at_once,
    stop_with_launcher,
)
from overhaul.system.streams import end_streams, lost, make_lenient

LONGEST = 900  # letters of an error's line
CUT_OFF = 141  # what a shell has for a command whose reader has left: 128 + SIGPIPE


def command(argv: list[str] | None = None) -> NoReturn:
    """Run a command as what this process is for; a fault of ours keeps its traceback, and ends it with 1."""
    make_lenient()
    try:
        status = main(argv)
    except Exception:
        traceback.print_exc()
        tell(f"this is a fault of overhaul, not of yours{where_it_stands(sys.argv[1:] if argv is None else argv)}")
        status = 1
    end_streams()
    leave(status)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 2, with one line of explanation, for whatever the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(argv)
    except UserError as error:
        tell(str(error))
        return 2
    except Preempted as told:
        status = leave_status(told.together)
        if not launched_rank():
            tell(f"{told}{'' if told.together else how_to_go_on(argv)}")
        return status
    except KeyboardInterrupt:
        tell(f"interrupted{how_to_go_on(argv)}")
        return 130


def tell(text: str) -> None:
    """One line on stderr, of bounded length."""
    rank, line = launched_rank(), printable(without_tokens(text))
    line = line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    say(f"overhaul{f' [process {rank}]' if rank else ''}: {line}", sys.stderr)


def launched_rank() -> int:
    try:
        return launched("RANK")
    except UserError:  # which is told already
        return 0


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        listing = "\n".join(f"  {name:10}{command.words}" for name, command in COMMANDS.items())
        return show(f"usage: overhaul COMMAND ...\n\n{listing}\n\n`overhaul COMMAND --help` says more.")
    if argv[0] == "--version":
        from importlib.metadata import version

        return show(version("overhaul"))
    name, *argv = argv
    choose("command", name, tuple(COMMANDS))
    check_environment()
    try:
        os.getcwd()
    except FileNotFoundError:  # where MKL would end the process with words of its own
        raise UserError("the current folder is there no more: go to another (cd), and start again") from None
    if name == "bench" and argv and not argv[0].startswith("-"):
        choose("bench", argv[0], ("data",))
        return call("bench_data", "bench data", BENCH_DATA, argv[1:])
    if name in ("train", "study"):
        return {"train": train, "study": study}[name](argv)
    return call(name, name, COMMANDS[name], argv)


def show(text: str) -> int:
    """Print what a command is for; see written."""
    print(text)
    return written()


def written() -> int:
    """The status of a command by its result: 141 where the reader has left, 1 where it cannot be written."""
    error = lost(sys.stdout)
    if error is None:
        return 0
    if isinstance(error, BrokenPipeError):
        return CUT_OFF
    tell(f"the result cannot be written to stdout ({first_line(error)}); send it elsewhere")
    return 1


def asks_for_help(argv: list[str]) -> bool:
    return bool({"-h", "--help"} & {*argv[: argv.index("--") if "--" in argv else None]})


def train(argv: list[str]) -> int:
    if asks_for_help(argv):
        from overhaul.cli import help

        return show(help.of_training(argv, *COMMANDS["train"][:2]))
    with installed(stop_at_once):  # importing takes seconds, a last push takes minutes
        stop_with_launcher()
        enlist()
        from overhaul import api
        from overhaul.cli.arguments import parse_training

        try:
            asked = parse_training(argv)
        except Preempted:
            raise
        except SystemExit:  # of --print_config
            return written()
        api.train(show=True, **asked)
    return 0


def study(argv: list[str]) -> int:
    from overhaul.cli import study

    if asks_for_help(argv):
        return show(study.helped(*COMMANDS["study"][:2]))
    with installed(stop_at_once):
        return study.run(argv)


def call(function: str, name: str, command: Command, argv: list[str]) -> int:
    """Call a function of the API with the flags, and print what it returns, on the main process."""
    from overhaul import api
    from overhaul.cli.arguments import parse

    called, json_too = getattr(api, function), command.json is not None
    if asks_for_help(argv):
        from overhaul.cli import help

        return show(help.of_command(called, name, command.words, command.examples, json_too))
    values = parse(called, argv, name, json_too)
    as_json = values.pop("json", False)
    shown = {"show": True} if "show" in inspect.signature(called).parameters else {}
    with installed(stop_at_once) if name == "demo" else nullcontext():
        result = called(**shown, **values)
    if launched("RANK") == 0:
        lines = result if command.json == "lines" else [result]
        return show("\n".join(map(json.dumps, lines)) if as_json else printable_lines(command.text(result, values)))
    return 0
