"""Real processes that are killed, paused and interrupted; the same command then ends in the same bits."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import digests, distilling, flags
from support.stress_resume import Killed

from overhaul.run import checkpoints

# Ctrl-C works, also where the tests run in the background, which ignores it
INTERRUPTIBLE = """
import signal, sys
from overhaul.cli.main import command

signal.signal(signal.SIGINT, signal.default_int_handler)
command(sys.argv[1:])
"""
BETWEEN_FILES = """
import os, signal, sys
from overhaul.cli.main import command
from overhaul.run import checkpoints

flush, flushed = checkpoints.flush, []

def cut(path):
    flushed.append(path)
    if len(flushed) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    flush(path)

checkpoints.flush = cut
command(sys.argv[2:])
"""


def test_a_run_killed_between_the_files_of_a_checkpoint_ends_the_same(digits_teacher, finished, tmp_path, overhaul):
    """In that of the second epoch, whose best student is written already."""
    run = flags(digits_teacher, tmp_path / "run")
    first = len(list((finished.folder / "checkpoints" / "epoch-0001").iterdir())) + 1
    killed = subprocess.run([sys.executable, "-c", BETWEEN_FILES, str(first + 3), *run], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(checkpoints.unfinished(tmp_path / "run").iterdir())
    assert [path.name for path in checkpoints.found(tmp_path / "run")] == ["epoch-0001"]
    result = overhaul(*run)
    assert result.status == 0 and "resumed after epoch 1" in result.out and result.err == ""
    assert not checkpoints.unfinished(tmp_path / "run").exists()
    for which in ("final", "best"):
        assert digests(tmp_path / "run" / which) == digests(finished.folder / which)


@contextlib.contextmanager
def ended(run: Killed):
    """No process of the run is left behind."""
    try:
        yield run
    finally:
        if run.process and run.orphans():
            run.kill()


def pause(processes: list[int]) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for each in processes:
            os.kill(each, number)
        time.sleep(1)


def test_a_run_that_is_paused_and_of_which_one_process_is_killed_ends_the_same(two, ranks, digits_teacher, tmp_path):
    """One of two is paused, then all of them, and either is killed at a random step; the other ends in one line."""
    arguments = distilling(digits_teacher, "--checkpoint_steps", 5, "--timeout_minutes", 1, epochs=3)
    draw = random.Random()
    with ended(Killed(tmp_path / "run", 2, *arguments).start()) as run:
        assert run.wait_for(lambda: checkpoints.found(run.folder)), run.said
        processes = run.ranks()
        for some in ([draw.choice(processes)], processes):
            pause(some)
        time.sleep(draw.uniform(0, 0.3))
        rank = draw.randrange(2)
        os.kill(processes[rank], signal.SIGKILL)
        assert run.process.wait(60), run.said
        assert not Path(f"/proc/{processes[1 - rank]}").exists()
        said = [line for line in run.said.splitlines() if line.startswith("overhaul")]
        who = "overhaul: " if rank else "overhaul [process 1]: "
        assert len(said) == 1 and said[0].startswith(f"{who}another process of this run has ended; look for"), said
    results = ranks("support.runs:command", "train", *arguments, "--output_dir", str(run.folder))
    assert [each.status for each in results] == [0, 0] and "resumed after" in results[0].out, results
    assert run.result() == Killed(two.folder, 2).result()


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_is_one_line_and_the_run_goes_on(digits_teacher, finished, tmp_path, overhaul, times):
    """Twice as well, at any distance."""
    run = flags(digits_teacher, tmp_path / "run", "--checkpoint_steps", 5)
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, run)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not checkpoints.found(tmp_path / "run") and process.poll() is None:
                time.sleep(0.01)
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(random.uniform(0, 0.1))
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (130, -signal.SIGINT) and len(err.splitlines()) <= 1, err
    assert times == 2 or err == "overhaul: interrupted; the same command goes on from the last checkpoint\n"
    result = overhaul(*run)
    assert result.status == 0 and "resumed after step" in result.out, result
    assert digests(tmp_path / "run" / "final") == digests(finished.folder / "final")


@pytest.mark.slow
def test_ctrl_c_under_a_launcher_is_a_line_a_process(two, ranks, digits_teacher, tmp_path):
    arguments = distilling(digits_teacher, "--checkpoint_steps", 5, epochs=3)
    with ended(Killed(tmp_path / "run", 2, *arguments).start()) as run:
        assert run.wait_for(lambda: checkpoints.found(run.folder)), run.said
        run.process.send_signal(signal.SIGINT)
        run.process.wait(60)
        said = sorted(line for line in run.said.splitlines() if line.startswith("overhaul"))
        words = "interrupted; the same command goes on from the last checkpoint"
        assert said == [f"overhaul [process 1]: {words}", f"overhaul: {words}"], run.said
    ranks("support.runs:command", "train", *arguments, "--output_dir", str(run.folder))
    assert run.result() == Killed(two.folder, 2).result()
