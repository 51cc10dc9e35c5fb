"""What is said to a person: errors, warnings, choices, tables, durations, and text that is safe to print."""

import contextlib
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

REPO = re.compile(r"\w([\w.-]*\w)?/\w([\w.-]*\w)?", re.ASCII)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
WEIGHTS = (".pt", ".pth", ".tar", ".safetensors")  # what files of weights end in
TOKEN = re.compile(r"\bhf_\w{8,}")  # a secret of the Hub


class UserError(ValueError):
    """What the user can mend, and how, in one line; every other error is a fault of ours and keeps its traceback."""


def say(text: str, stream: TextIO) -> None:
    """Write a line, above a bar if there is one; what cannot be written stops nothing."""
    from tqdm import tqdm

    with contextlib.suppress(OSError):
        tqdm.write(f"{text}\n", file=stream, end="")  # in one piece, as other processes write there, too
        stream.flush()


def warn(text: str) -> None:
    """Say something on stderr."""
    say(f"overhaul: {printable(text)}", sys.stderr)


def warn_once(text: str) -> None:
    """The same for what every process of a run finds: the first says it."""
    if launched("RANK") == 0:
        warn(text)


def launched(name: str, otherwise: int = 0) -> int:
    """A number that a launcher has left in the environment: RANK, WORLD_SIZE, ..."""
    value = os.environ.get(name) or str(otherwise)
    if not re.fullmatch(r"\d{1,9}", value):
        raise UserError(f"{name} in the environment is a launcher's number, not {printable(value)[:80]!r}; unset it")
    return int(value)


def choose(what: str, name: str, valid) -> str:
    """`name` if it is valid; else UserError with the nearest valid name and all of them."""
    if name in valid:
        return name
    raise UserError(f"{what}: {name!r} is not known{nearest(str(name), valid)}; it is one of {', '.join(valid)}")


def nearest(name: str, valid, cutoff: float = 0.4) -> str:
    """The hint ` (did you mean X?)`, or nothing where no valid name is like it or is it behind a dot."""
    near = [each for each in valid if each.endswith(f".{name.strip('_')}")]
    near = near or difflib.get_close_matches(name, valid, n=1, cutoff=cutoff)
    return f" (did you mean {near[0]}?)" if near else ""


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def check_repo(what: str, repo: str) -> None:
    """UserError for what cannot be the name of a repository on the Hub."""
    if not REPO.fullmatch(repo) or "--" in repo or ".." in repo or len(repo) > 96:
        raise UserError(
            f"{what} {repo[:200]}: a repository of the Hub is named USER/REPO, in letters, digits, -, _ and ."
        )


def is_hub_id(source: str) -> bool:
    """Whether it may be USER/REPO[@REVISION], and not a misspelt path."""
    path = Path(source).expanduser()
    in_a_folder = path.parent.is_dir() and path.parent != Path(".")
    local = path.is_absolute() or source.startswith((".", "~")) or path.suffix in WEIGHTS or in_a_folder
    return not local and bool(HUB_ID.fullmatch(source))


def check_source(source: str) -> None:
    """UserError for trained weights in no file or folder that is there, which nobody else has either; asks nobody."""
    path, theirs = Path(source).expanduser(), source == "torchvision" or re.fullmatch(r"torchvision:\w+@\w+", source)
    try:
        there = path.is_dir() or path.is_file()
    except OSError as error:  # a name that is too long, or a folder that is not ours
        raise UserError(f"{source[:200]}: {error.strerror}") from None
    if not (theirs or there or is_hub_id(source)):
        raise UserError(f"{source}: there is no such file or folder, and it is not a Hub id (USER/REPO)")


def first_line(error: Exception) -> str:
    """The first line of a library's error, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def innermost(error: BaseException) -> str:
    """One line of what a library's error goes back to, after its own first line where that alone says little."""
    outermost = error
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    said = textwrap.shorten(printable(str(error)) or type(error).__name__, 300, placeholder=" ...")
    if len(said.split()) > 2:
        return said
    kind = type(error).__name__
    said = said if said == kind else f"{kind}: {said}"
    return said if error is outermost else f"{printable(first_line(outermost))} ({said})"


def printable(text: str) -> str:
    """On one line, without what would move a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def printable_lines(text: str) -> str:
    """The same for text of several lines, whose columns stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def without_tokens(text: str) -> str:
    """With *** in place of the Hub's tokens."""
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        with contextlib.suppress(OSError, ValueError):  # of a file of tokens that cannot be read
            if token := get_token():
                text = text.replace(token, "***")
    return TOKEN.sub("***", text)


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Rows under their head, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def duration(seconds: float) -> str:
    """For people: "42 s", "3 min 05 s", "2 h 10 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
