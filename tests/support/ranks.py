"""Two processes of a gloo group that are started once and handed functions: what needs two ranks and no launcher."""

import ctypes
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from support.places import REPOSITORY, TESTS

PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent dies
GRACE = 10  # seconds for the other ranks to answer once one of them has failed


class Ranks:
    """ranks("support.one_step:one_step", *arguments) -> what the function gives, a rank after the other.

    Arguments and results are pickled. A rank that raises, dies or does not answer for `timeout` seconds fails the
    test, and new ranks are started for the next one. None of them outlives close(), nor the process that made them.
    more: of their environment.
    """

    def __init__(self, folder: Path, world: int = 2, timeout: float = 240, **more: str) -> None:
        self.folder, self.world, self.timeout, self.processes, self.pipes = folder, world, timeout, [], []
        self.more = more

    def __call__(self, function: str, *arguments) -> list:
        if not self.processes:
            self.start()
        task = pickle.dumps((function, arguments, free_port()))
        try:
            for pipe in self.pipes:
                pipe.send_bytes(task)
            return self.gather()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        path = os.pathsep.join(filter(None, (str(TESTS), str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        for rank in range(self.world):
            ours, theirs = Pipe()
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.world, "LOCAL_WORLD_SIZE": self.world}
            environment = {**os.environ, **{name: str(value) for name, value in place.items()}, "PYTHONPATH": path}
            environment |= {
                "MASTER_ADDR": "127.0.0.1",
                "OMP_NUM_THREADS": "1",
                "ACCELERATE_USE_CPU": "true",
                **self.more,
            }
            with (self.folder / f"rank{rank}.log").open("w") as log:
                command = [sys.executable, "-m", "support.ranks", str(theirs.fileno()), str(os.getpid())]
                self.processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
            theirs.close()
            self.pipes.append(ours)

    def gather(self) -> list:
        answers, failed, until = {}, [], time.monotonic() + self.timeout
        while len(answers) < self.world:
            missing = {pipe: rank for rank, pipe in enumerate(self.pipes) if rank not in answers}
            ready = wait(list(missing), max(0, until - time.monotonic()))
            if not ready:
                break
            for rank in map(missing.get, ready):
                try:
                    fine, answers[rank] = pickle.loads(self.pipes[rank].recv_bytes())
                except EOFError:
                    fine, answers[rank] = False, f"ended with status {self.processes[rank].wait(GRACE)}"
                if not fine:
                    failed.append(f"rank {rank}: {answers[rank]}")
                    until = min(until, time.monotonic() + GRACE)
        silent = [f"rank {rank} did not answer" for rank in range(self.world) if rank not in answers]
        assert not failed + silent, "\n".join([*failed, *silent, *self.logs()])
        return [answers[rank] for rank in range(self.world)]

    def logs(self) -> list[str]:
        return [f"{file.name}: {file.read_text()[-3000:]}" for file in sorted(self.folder.glob("rank*.log"))]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes, self.pipes = [], []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with(parent: int) -> None:
    """The package asks for SIGTERM in the same place, so this is said again before each function."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def answer(function: str, arguments: tuple) -> tuple[bool, object]:
    try:
        module, name = function.split(":")
        return True, getattr(importlib.import_module(module), name)(*arguments)
    except BaseException:
        return False, traceback.format_exc()
    finally:
        part()


def part() -> None:
    """Leave the group, and let Accelerate forget it."""
    from accelerate.state import AcceleratorState
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


def serve(pipe: Connection, parent: int) -> None:
    while True:
        die_with(parent)
        try:
            function, arguments, port = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        os.environ["MASTER_PORT"] = str(port)
        pipe.send_bytes(pickle.dumps(answer(function, arguments)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
    os._exit(0)
