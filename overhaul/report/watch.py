"""Runs looked at again and again while they train."""

import sys
import time
from collections.abc import Callable
from shutil import get_terminal_size

from overhaul.report import terminal
from overhaul.system.messages import UserError

EVERY = 5  # seconds between two looks
CLEARED = "\033[H\033[2J"


def watch(look: Callable[[int | None], list], every: float = EVERY, show: bool = False) -> None:
    """Look until all runs have finished or somebody presses Ctrl-C, which ends it quietly.

    look: reads the runs anew, writes the report and returns the groups; it is given the seconds after which a page is
    to be read again, and in the end None. show: draw the curves on stderr, on a terminal each time in place of the last
    ones, and elsewhere when an epoch has come.
    """
    seen = None
    try:
        while True:
            groups = attempt(look, round(max(1, every)), seen is None)
            if groups is not None:
                if show and progress(groups) != seen:
                    draw(groups)
                seen = progress(groups)
                if all(told.finished for group in groups for told in group.runs):
                    break
            time.sleep(every)
    except KeyboardInterrupt:
        if seen is None:
            raise
    look(None)


def attempt(look: Callable[[int | None], list], refresh: int, is_first: bool) -> list | None:
    """A look; one that fails on the way, as of a run that begins anew, is no end of watching."""
    try:
        return look(refresh)
    except UserError:
        if is_first:
            raise
        return None


def progress(groups: list) -> list[tuple]:
    return [(told.name, len(told.metrics)) for group in groups for told in group.runs]


def draw(groups: list) -> None:
    size = get_terminal_size()
    text = terminal.curves(groups, size.columns, size.lines, sys.stderr.encoding)
    print(CLEARED * sys.stderr.isatty() + text, file=sys.stderr, flush=True)
