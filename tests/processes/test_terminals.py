"""Runs whose shell, terminal or launcher goes away."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from support.places import REPOSITORY
from support.runs import teaching

# a session whose terminal is the one given as its input
IN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
)
UNDER_NOHUP = 'nohup "${@:2}" </dev/null >"$1.log" 2>&1 & echo $! >"$1.pid"; read -r'
EPOCHS = 25
COMMAND = [sys.executable, "-m", "overhaul", "train"]


def short(few_digits: str, folder: Path) -> list[str]:
    return teaching("--data_path", few_digits, "--batch_size", 32, "--output_dir", folder, epochs=EPOCHS)


def wait_for(happens, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextlib.contextmanager
def in_terminal(*command, **environment: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A command in a terminal of its own, and the terminal's other end, which is to be closed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, *map(str, command)],
        env={**os.environ, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()


def epochs_of(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def test_a_run_under_nohup_outlives_its_shell_and_its_terminal(few_digits, tmp_path):
    """Though the shell exports a launcher's variable: it is none."""
    runs = {tmp_path / "with": {"ACCELERATE_MIXED_PRECISION": "no"}, tmp_path / "without": {}}
    with contextlib.ExitStack() as stack:
        shells = {}
        for folder, more in runs.items():
            command = ["bash", "-c", UNDER_NOHUP, "bash", folder, *COMMAND, *short(few_digits, folder)]
            shells[folder] = stack.enter_context(in_terminal(*command, **more))
        try:
            for folder, (shell, terminal) in shells.items():
                wait_for(lambda folder=folder: epochs_of(folder))
                os.close(terminal)
                assert shell.wait(10) == -signal.SIGHUP
                assert epochs_of(folder) < EPOCHS
            for folder in shells:
                wait_for((folder / "final" / "model.safetensors").exists)
                assert epochs_of(folder) == EPOCHS, folder.with_suffix(".log").read_text()
        finally:
            for folder in shells:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(folder.with_suffix(".pid").read_text()), signal.SIGKILL)


def test_a_run_whose_terminal_closes_is_saved(few_digits, tmp_path):
    """Its words can go nowhere then."""
    with in_terminal(*COMMAND, *short(few_digits, tmp_path / "run")) as (process, terminal):
        wait_for(lambda: epochs_of(tmp_path / "run"))
        os.close(terminal)
        assert process.wait(60) == 85
    assert 0 < epochs_of(tmp_path / "run") < EPOCHS


def test_a_run_whose_launcher_is_killed_is_saved(few_digits, tmp_path):
    """`accelerate launch` of one process passes no signal on."""
    script = REPOSITORY / "overhaul" / "train.py"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", script]
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen([*launch, *short(few_digits, tmp_path / "run")], stdout=log, stderr=log)
    wait_for(lambda: epochs_of(tmp_path / "run"))
    launcher.kill()
    launcher.wait(60)
    wait_for(lambda: "overhaul: told to stop by SIGTERM, and saved after " in (tmp_path / "log").read_text(), 30)
    assert epochs_of(tmp_path / "run") < EPOCHS
