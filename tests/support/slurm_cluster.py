"""A SLURM of two nodes with eight GPUs each on this machine, where its daemons and root are there."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("slurmctld", "slurmd", "munged")
THERE = os.getuid() == 0 and all(map(shutil.which, DAEMONS))
TEMPLATES = Path(__file__).parent / "slurm"
PR_SET_PDEATHSIG = 1


class Slurm:
    """The commands of a running SLURM; the jobs start in a checkout."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "etc" / "slurm.conf")}
        del self.environment["ACCELERATE_USE_CPU"]

    def __call__(self, *command, **how) -> str:
        how = {"env": self.environment, **how}
        result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, **how)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        return result.stdout

    def submit(self, folder: Path, *arguments, **environment) -> str:
        """The id of a job that is submitted in a folder."""
        environment = {**self.environment, **environment}
        return self("sbatch", "--parsable", *arguments, cwd=folder, env=environment).strip()

    def jobs(self, *which) -> list[str]:
        """Those that wait or run, as 12 or 12_3."""
        return self("squeue", "--noheader", "--array", "--format=%i", *which).split()

    def wait_for(self, happens: Callable[[], object], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert time.monotonic() < end, self("squeue")
            time.sleep(0.1)

    def wait(self, *jobs: str, seconds: float = 60) -> None:
        """Until they have ended."""
        self.wait_for(lambda: not self.jobs(f"--jobs={','.join(jobs)}"), seconds)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def configure(folder: Path) -> None:
    """Its folders and configuration; with cgroups SLURM signals a step's tasks alone, as clusters do."""
    for name in ("etc", "state", "run", "log", "munge"):
        (folder / name).mkdir(parents=True, mode=0o700)
    for gpu in range(8):
        (folder / "run" / f"gpu{gpu}").touch()
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o400)
    proctrack = "cgroup" if Path("/sys/fs/cgroup/freezer").is_dir() else "linuxproc"
    values = {"FOLDER": folder, "HOST": socket.gethostname(), "PROCTRACK": proctrack}
    values |= {f"PORT{i}": port for i, port in enumerate(free_ports(3))}
    for template in TEMPLATES.glob("*.conf"):
        text = template.read_text()
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        (folder / "etc" / template.name).write_text(text)


def end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def daemon(folder: Path, environment: dict, *command: str) -> Iterator[subprocess.Popen]:
    with (folder / "log" / "daemons").open("a") as log:
        how = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": environment}
        process = subprocess.Popen(command, **how, preexec_fn=end_with_parent)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def started(folder: Path) -> Iterator[Slurm]:
    """Once its nodes are idle; no process of it outlives the block."""
    configure(folder)
    slurm, munge = Slurm(folder), folder / "munge"
    key = ("--key-file", munge / "key", "--socket", munge / "socket", "--pid-file", munge / "pid")
    key += ("--log-file", munge / "log", "--seed-file", munge / "seed")
    commands = [
        ("munged", "--foreground", "--force", *map(str, key)),
        ("slurmctld", "-D"),
        *(("slurmd", "-D", "-N", f"127.0.0.{node}") for node in (1, 2)),
    ]
    with ExitStack() as stack:
        for command in commands:
            stack.enter_context(daemon(folder, slurm.environment, *command))
            if command[0] == "munged":
                slurm.wait_for((munge / "socket").exists, 10)
        wait_until_idle(slurm)
        stack.callback(end_jobs, slurm)
        yield slurm


def wait_until_idle(slurm: Slurm) -> None:
    def idle() -> bool:
        how = {"env": slurm.environment, "capture_output": True, "text": True}
        return subprocess.run(["sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D"], **how).stdout.strip() == "2"

    slurm.wait_for(idle, 30)


def end_jobs(slurm: Slurm) -> None:
    slurm("scancel", "--user=root")
    slurm.wait_for(lambda: not slurm.jobs(), 30)
