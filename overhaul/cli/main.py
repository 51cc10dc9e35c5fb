"""The command `overhaul`: which subcommand it is, and what its errors look like."""

import sys
import traceback
from pathlib import Path

from overhaul.cli import commands
from overhaul.cli.commands import COMMANDS, rank
from overhaul.system.messages import choose, printable, without_tokens
from overhaul.system.preemption import STATUS, Preempted, leave


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; the exit status is 2, with one line of explanation, for whatever the user can mend."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return run(argv)
    except ValueError as error:
        if not ours(error):
            raise
        message = printable(without_tokens(str(error)))
        print(f"overhaul{'' if rank() == 0 else f' [process {rank()}]'}: {message}", file=sys.stderr)
        return 2
    except Preempted as told:
        leave()
        if rank() == 0:
            print(f"overhaul: {told}", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print(f"overhaul: interrupted{how_to_go_on(argv)}", file=sys.stderr)
        return 130


def how_to_go_on(argv: list[str]) -> str:
    if argv[0] == "prepare":
        return "; the same command goes on with the files that are not whole"
    if argv[0] not in ("train", "demo"):
        return ""
    anew = " without --resume never --overwrite" if any(word.startswith("--overwrite") for word in argv) else ""
    return f"; the same command{anew} goes on from the last checkpoint"


def ours(error: ValueError) -> bool:
    """Whether our own code raised it on purpose; anything from a library is a fault of ours and keeps its traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent.parent)


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        listing = "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
        print(f"usage: overhaul COMMAND ...\n\n{listing}\n\n`overhaul COMMAND --help` says more.")
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("overhaul"))
        return 0
    choose("command", argv[0], tuple(COMMANDS))
    return getattr(commands, argv[0])(argv[1:])
