"""Preemption: a signal to any process of a run stops all of them at the same step; imports without torch."""

import atexit
import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

STATUS = 85  # of a process that was told to stop and can go on
NOTHING_SAVED = 84  # of a node's processes, where starting them again would get the run no further
NAMES = ("SIGTERM", "SIGUSR1", "SIGHUP")
ECHO = 1.0  # seconds in which a second signal counts as the same: a launcher passes on what its processes got as well
ASK = 0.5  # seconds, about, in which processes ask one another once whether they were told to stop
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies
LAUNCHER = re.compile(r"(.*/)?(accelerate|accelerate-launch|torchrun)|(accelerate\.commands|torch\.distributed)\.\w+")


class StopRequested(Exception):
    """A process was told to stop; raised on all processes at the same step."""


class Preempted(SystemExit):
    """The run has stopped because it was told to, and can go on; ends a process with STATUS.

    together: whether all processes have stopped at the same step.
    """

    def __init__(self, words: str, together: bool = False) -> None:
        super().__init__(STATUS)
        self.words, self.together = words, together

    def __str__(self) -> str:
        return self.words


class StopSignal:
    """What a run does at SIGTERM, SIGUSR1 or SIGHUP, which it takes over from the command while it is entered.

    Until it is armed a signal raises Preempted at once. Armed, it is answered where the processes meet (`check`). A
    second one ends the process at once. In a program whose signals are not the command's they stay as they are.
    """

    def __init__(self) -> None:
        self.received, self.at, self.armed = None, 0.0, False
        self.processes, self.group, self.before = 1, None, {}
        self.steps, self.every, self.asked = 0, 1, time.monotonic()  # since the processes asked one another, and until

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
            leave_status()
            os._exit(STATUS)

    def arm(self, processes: int, group=None) -> None:
        """From now on all processes stop together. On several, to be called by all of them; group: theirs, of gloo."""
        self.processes, self.group, self.armed = processes, group, True

    def disarm(self) -> None:
        self.armed = False

    def check(self, *flags: int) -> list[int]:
        """The largest value of each flag on any process; StopRequested, on all, once any has been told to stop."""
        received, *flags = self.largest(self.received is not None, *flags)
        if received:
            raise StopRequested
        return flags

    def after_step(self, meet: bool, *flags: int) -> list[int]:
        """The same, but of several processes only if they are to meet, or every ASK seconds; zeros in between.

        meet: the same on all of them. All ask after the same step: each says how many steps it takes in that time.
        """
        self.steps += 1
        if self.processes > 1 and not meet and self.steps < self.every:
            return [0] * len(flags)
        *flags, self.every = self.check(*flags, self.pace())
        self.steps, self.asked = 0, time.monotonic()
        return flags

    def pace(self) -> int:
        """Steps to the next question; at most twice those to this one, as the first ones hardly tell."""
        seconds = time.monotonic() - self.asked
        return max(1, min(2 * self.every, int(self.steps * ASK / max(seconds, 1e-6))))

    def largest(self, *values: int) -> list[int]:
        """Of each value, over all processes."""
        if self.processes == 1:
            return list(values)
        import torch
        from torch import distributed

        values = torch.tensor(values, dtype=torch.int32)
        distributed.all_reduce(values, distributed.ReduceOp.MAX, self.group)
        return values.tolist()

    def in_step(self, batches: Iterable) -> Iterator:
        """The batches, of which processes may have different numbers; StopRequested once any is told to stop."""
        batches = iter(batches)
        batch = next(batches, None)
        while self.check(batch is not None)[0]:
            if batch is not None:
                yield batch
                batch = next(batches, None)


def signals() -> list[signal.Signals]:
    """Those that stop a run: SIGHUP, of a terminal that closes, only where nohup does not have it ignored."""
    found = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return [each for each in found if each.name != "SIGHUP" or signal.getsignal(each) is not signal.SIG_IGN]


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
    if sys.platform == "linux" and is_command() and is_launcher(os.getppid()):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def is_launcher(process: int) -> bool:
    """Whether a process is Accelerate's or PyTorch's launcher, by its command line: a shell may export what they do."""
    with suppress(OSError):
        python, *words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
        return Path(python).name.startswith("python") and any(map(LAUNCHER.fullmatch, words[:3]))
    return False


# launch/slurm.sh names a file in a folder of the node, OVERHAUL_STATUS_FILE, for the preempted processes' status. With
# it are `processes` (those that it tells to stop; a launcher that it told would end with a traceback), `told` (once it
# has) and `saved` (once this start has saved something new).


def beside_status(name: str) -> Path | None:
    file = os.environ.get("OVERHAUL_STATUS_FILE")
    return Path(file).with_name(name) if file else None


def enlist() -> None:
    """Let launch/slurm.sh tell this process, which answers to signals, to stop; Preempted if it has told the others."""
    if processes := beside_status("processes"):
        with processes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if beside_status("told").exists():
            stop_at_once(signal.SIGUSR1, None)


def note_saved() -> None:
    """Leave word for launch/slurm.sh that starting the run again will get it further."""
    if saved := beside_status("saved"):
        saved.touch()


def leave_status(together: bool = False) -> int:
    """The last thing that a preempted process does: leave its status for launch/slurm.sh; what it then ends with.

    Processes that all stop end with 0 there, as launchers answer to any other status with a traceback and with 1. One
    that stops alone ends with STATUS, so that its launcher tells the others.
    """
    for number in signals():
        signal.signal(number, signal.SIG_IGN)
    if not (file := os.environ.get("OVERHAUL_STATUS_FILE")):
        return STATUS
    saved = beside_status("saved").exists()
    together = together or beside_status("told").exists()
    if together or saved:
        Path(file).write_text(f"{STATUS if saved else NOTHING_SAVED}\n")
    return 0 if together else STATUS


def leave(status: int) -> NoReturn:
    """End this process without taking Python down, if PyTorch has been loaded.

    Its gloo threads outlive a DistributedDataParallel, and one that then lets go of a tensor aborts the process. Python
    would wait for the threads of an upload, too, after a run that was told to stop.
    """
    if "torch" not in sys.modules:
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)
