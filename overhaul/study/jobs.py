"""Runs side by side, each a process of its own, which ends when the study does."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from overhaul.study.plan import Planned
from overhaul.system.messages import UserError, launched, printable
from overhaul.system.preemption import PR_SET_PDEATHSIG, STATUS

POLL = 0.2  # seconds


def environments(jobs: int) -> list[dict[str, str]]:
    """Of each of the runs that go on at once: a GPU of its own, or its share of the cores.

    Raises UserError where there are fewer GPUs, or fewer cores, than runs; and under a launcher.
    """
    if launched("WORLD_SIZE", 1) > 1:
        raise UserError("a study starts its runs by itself: start it without a launcher")
    if jobs == 1:
        return [dict(os.environ)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = visible_gpus()
    if not 1 <= jobs <= (len(gpus) or cores):
        most = f"{len(gpus)} GPUs" if gpus else f"{cores} CPU cores"
        raise UserError(f"--jobs must be at least 1 and at most {len(gpus) or cores}, as there are {most}, not {jobs}")
    if gpus:
        return [{**os.environ, "CUDA_VISIBLE_DEVICES": each} for each in gpus[:jobs]]
    return [{"OMP_NUM_THREADS": str(cores // jobs), **os.environ}] * jobs


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; none where Accelerate is to use the CPU."""
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in named.split(",") if each.strip() not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
        return [str(number) for number in range(sum(line.startswith("GPU ") for line in told.splitlines()))]
    return []


class Jobs:
    """Runs in their processes, at most as many at once as there are environments."""

    def __init__(self, runs: Sequence[Planned], environments: Sequence[dict[str, str]]) -> None:
        self.waiting, self.environments = list(runs), environments
        self.running: dict[int, tuple[Planned, subprocess.Popen]] = {}  # by environment

    def ended(self, look: Callable[[], None]) -> Iterator[tuple[Planned, int]]:
        """Each run as its process ends, and its status. look: called now and then; what it raises stops them all."""
        try:
            while self.waiting or self.running:
                for slot in range(len(self.environments)):
                    if slot not in self.running and self.waiting:
                        run = self.waiting.pop(0)
                        self.running[slot] = run, start(run, self.environments[slot])
                time.sleep(POLL)
                for slot, (run, process) in list(self.running.items()):
                    if process.poll() is not None:
                        del self.running[slot]
                        yield run, process.returncode
                look()
        finally:
            self.stop()

    def stop(self) -> None:
        """Tell the processes that are left to save and to end, and wait for it; told again, end them at once."""
        processes = [process for _, process in self.running.values()]
        try:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
        except BaseException:
            for process in processes:
                process.kill()
                process.wait()
            raise


def start(run: Planned, environment: dict[str, str]) -> subprocess.Popen:
    """`overhaul train` with a run's configuration; what it says is appended to its log."""
    run.log.parent.mkdir(exist_ok=True)
    with run.log.open("a") as log:
        return subprocess.Popen([*TRAIN, "--config", str(run.config_file)], env=environment, stdout=log, **ours())


def ours() -> dict:
    """How a process of the study is started: it is told to stop by the study, and by its death, not by a terminal."""
    return {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "start_new_session": True,
        "preexec_fn": ending_with(os.getpid()) if sys.platform == "linux" else None,
    }


def ending_with(parent: int) -> Callable[[], None]:
    """What a child does first: be told to stop when the study dies, however that dies."""
    library = ctypes.CDLL(None)

    def ends() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(STATUS)

    return ends


TRAIN = (sys.executable, "-m", "overhaul", "train")


def last_words(log: Path) -> str:
    """The last line of a log, without our name before it."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return printable(lines[-1]).removeprefix("overhaul: ")[:300] if lines else "it said nothing"
