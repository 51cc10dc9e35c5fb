"""Preemption: a signal to any process of a run stops all of them at the same step; imports without torch."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

STATUS = 85  # of a process that was told to stop and can go on
NAMES = ("SIGTERM", "SIGUSR1")
ECHO = 1.0  # seconds in which a second signal counts as the same: a launcher passes on what its processes got as well
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies


class StopRequested(Exception):
    """A process was told to stop; raised on all processes at the same step."""


class Preempted(SystemExit):
    """The run has stopped because it was told to, and can go on; ends a process with STATUS."""

    def __init__(self, words: str) -> None:
        super().__init__(STATUS)
        self.words = words

    def __str__(self) -> str:
        return self.words


class StopSignal:
    """What a run does at SIGTERM or SIGUSR1, which it takes over from the command while it is entered.

    Until it is armed a signal raises Preempted at once. Armed, it is answered where the processes meet (`check`). A
    second one ends the process at once. In a program whose signals are not the command's they stay as they are.
    """

    def __init__(self) -> None:
        self.received, self.at, self.armed = None, 0.0, False
        self.processes, self.group, self.before = 1, None, {}

    def __enter__(self) -> "StopSignal":
        if is_command():
            self.before = {number: signal.signal(number, self.handle) for number in signals()}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame) -> None:
        if self.received is None:
            self.received, self.at = signal.Signals(number).name, time.monotonic()
            if not self.armed:
                stop_at_once(number, frame)
        elif time.monotonic() - self.at > ECHO:
            write_exit_status()
            os._exit(STATUS)

    def arm(self, processes: int, timeout: timedelta) -> None:
        """From now on all processes stop together. On several, to be called by all of them."""
        if processes > 1:
            from torch import distributed

            if distributed.get_backend() != "gloo":  # so that no GPU waits for a signal
                self.group = distributed.new_group(timeout=timeout, backend="gloo")
        self.processes, self.armed = processes, True

    def disarm(self) -> None:
        self.armed = False

    def check(self, flag: bool = False) -> bool:
        """Whether the flag is set on any process; StopRequested, on all of them, once any has been told to stop."""
        received = self.received is not None
        if self.processes > 1:
            import torch
            from torch import distributed

            flags = torch.tensor([received, flag], dtype=torch.int32)
            distributed.all_reduce(flags, distributed.ReduceOp.MAX, self.group)
            received, flag = flags.bool().tolist()
        if received:
            raise StopRequested
        return flag

    def in_step(self, batches: Iterable) -> Iterator:
        """The batches, of which processes may have different numbers; StopRequested once any is told to stop."""
        batches = iter(batches)
        batch = next(batches, None)
        while self.check(batch is not None):
            if batch is not None:
                yield batch
                batch = next(batches, None)


def signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def installed(handle: Callable) -> Iterator[None]:
    """Let the signals call handle(number, frame), where Python allows it: in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in signals()} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at_once(number: int, _frame) -> None:
    """Where there is nothing to save yet; the command's handler."""
    raise Preempted(f"told to stop by {signal.Signals(number).name}")


def is_command() -> bool:
    """Whether the signals are the command's, and not those of a notebook, a thread or another program."""
    main = threading.current_thread() is threading.main_thread()
    return main and all(signal.getsignal(number) is stop_at_once for number in signals())


def stop_with_launcher() -> None:
    """Be told to stop when the launcher dies, which would otherwise leave its processes behind; on Linux alone."""
    launched = "LOCAL_RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and is_command() and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def write_exit_status() -> None:
    """The last thing that a preempted process does: it writes STATUS where launch/slurm.sh looks for it.

    Launchers end with 1 whatever their processes end with, and tell the others to stop once one has ended.
    """
    for number in signals():
        signal.signal(number, signal.SIG_IGN)
    if file := os.environ.get("OVERHAUL_STATUS_FILE"):
        Path(file).write_text(f"{STATUS}\n")
