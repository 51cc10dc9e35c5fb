"""Signs of life from long work: a bar on a terminal or in a notebook, elsewhere a line a minute."""

import sys
import threading
import time
import warnings
from collections.abc import Callable

EVERY = 60  # seconds between two lines


class Signs:
    """How far some work has come.

    total: of what is counted, None where nobody knows; done: of it, before. tell: says a line. beside: what is said
    beside the count. quiet: nothing is shown. stays: the bar, at the end. Several threads may count.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        tell: Callable[[str], None],
        beside: Callable[[], str] = str,
        done: int = 0,
        quiet: bool = False,
        stays: bool = False,
    ) -> None:
        self.title, self.total, self.unit, self.tell, self.beside = title, total, unit, tell, beside
        self.first = self.done = done
        self.started = self.told = time.monotonic()
        self.quiet, self.lock = quiet, threading.Lock()
        how = {"initial": done, "unit": f" {unit}", "leave": stays, "dynamic_ncols": True}
        self.bar = None if quiet or not watched() else bar_class()(total=total, desc=title, **how)

    def count(self, more: int = 1) -> None:
        with self.lock:
            self.done += more
            due = self.bar is None and not self.quiet and time.monotonic() - self.told >= EVERY
            if due:
                self.told = time.monotonic()
        if self.bar is not None:
            self.bar.update(more)
        if due:
            of = "" if self.total is None else f"/{self.total:,}"
            words = self.beside()
            self.tell(f"{self.title}: {self.unit} {self.done:,}{of}{words and f', {words}'}")

    def refresh(self) -> None:
        """Show beside the bar what is to be said now."""
        if self.bar is not None:
            self.bar.set_postfix_str(self.beside())

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    @property
    def left(self) -> float:
        """Seconds to the end of the work, at the pace so far."""
        pace = (time.monotonic() - self.started) / max(self.done - self.first, 1)
        return pace * ((self.total or self.done) - self.done)


def watched() -> bool:
    """Whether a person sees a bar: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or in_notebook()


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def bar_class() -> type:
    """tqdm's bar: of a notebook in one that has ipywidgets, else of a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook has no ipywidgets
        from tqdm.auto import tqdm
    return tqdm
