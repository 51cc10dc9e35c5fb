"""Real processes told to stop, killed and started again; and what they rely on of the libraries and of Linux."""

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.hub_client import Client
from support.hub_server import TOKEN, Fault, LocalHub
from support.jpegs import write_jpegs
from support.launch import TORCHRUN
from support.places import REPOSITORY
from support.runs import SIZE, digests, distilling, flags
from support.stress_resume import Killed, finish, stress, summary

from overhaul.options import Run
from overhaul.run import checkpoints
from overhaul.run.folder import RunFolder


def arguments_of(digits_teacher) -> list[str]:
    return distilling(digits_teacher, "--checkpoint_steps", 5, epochs=3)


@pytest.fixture
def whole(two) -> dict:
    """How the same run ends on two processes that never stopped."""
    return Killed(two.folder, 2).result()


def a_step_later(run: Killed) -> None:
    """Wait for a new checkpoint, and a moment more."""
    before = {path.name for path in checkpoints.found(run.folder)}
    assert run.wait_for(lambda: {path.name for path in checkpoints.found(run.folder)} - before), run.said
    time.sleep(0.05)


@pytest.mark.parametrize(
    "ways",
    [
        [("launcher", "SIGTERM")],
        pytest.param(
            [("launcher", "SIGUSR1"), ("launcher", "SIGHUP"), (1, "SIGUSR1"), "kills"], marks=pytest.mark.slow
        ),
    ],
    ids=["told", "told and killed"],
)
def test_a_run_told_to_stop_in_every_way_ends_the_same(whole, ranks, digits_teacher, tmp_path, monkeypatch, ways):
    """The kills are those of tests/support/stress_resume.py, which makes many more."""
    monkeypatch.setenv("OVERHAUL_STATUS_FILE", str(tmp_path / "status"))
    run = Killed(tmp_path / "run", 2, *arguments_of(digits_teacher))
    for whom, number in (way for way in ways if way != "kills"):
        run.start()
        a_step_later(run)
        processes = run.ranks()
        os.kill(run.process.pid if whom == "launcher" else processes[whom], getattr(signal, number))
        assert (run.process.wait(60) == 0) == (whom != "launcher")
        wait_until_gone(processes)
        saved = re.search(r"told to stop.*, and saved after (.*); the same command goes on from (\S+)\n", run.said)
        assert saved and saved[2] == checkpoints.found(run.folder)[-1].name, run.said
        assert run.said.count("told to stop") == 1
        assert (tmp_path / "status").read_text() == "85\n"
        if whom != "launcher":
            assert "Traceback" not in run.said, run.said
        (tmp_path / "status").unlink()
    if "kills" in ways:
        stress(run, kills=1, in_checkpoints=1, processes=2, longest=0.5, draw=random.Random(1))
        finish(run)
    else:
        results = ranks("support.runs:command", "train", *arguments_of(digits_teacher), "--output_dir", str(run.folder))
        assert [each.status for each in results] == [0, 0] and "resumed after" in results[0].out, results
    assert run.result() == whole


def test_a_signal_to_one_rank_stops_both_after_the_same_step(whole, ranks, digits_teacher, tmp_path):
    arguments = ["train", *arguments_of(digits_teacher), "--output_dir", str(tmp_path / "run")]
    for number, step in ((signal.SIGUSR1, 7), (signal.SIGTERM, 30)):
        told = ranks("support.runs:told", 1, int(number), step, *arguments)
        assert [each.status for each in told] == [85, 85]
        saved = f"told to stop, and saved after step {step % 22} of epoch {step // 22 + 1}; the same command goes on"
        assert saved in told[0].err and told[1].err == "", told
    told = ranks("support.runs:told_in_test", 1, int(signal.SIGTERM), *arguments)
    assert [each.status for each in told] == [85, 85] and "saved after step 22 of epoch 2;" in told[0].err, told
    results = ranks("support.runs:command", *arguments)
    assert [each.status for each in results] == [0, 0], results
    assert Killed(tmp_path / "run", 2).result() == whole


def wait_until_gone(processes: list[int]) -> None:
    for _ in range(600):
        if not any(Path(f"/proc/{each}").exists() for each in processes):
            return
        time.sleep(0.05)
    raise AssertionError("a process outlives its run")


def start(*arguments, **environment) -> subprocess.Popen:
    command = [sys.executable, "-m", "overhaul", *map(str, arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen, happens) -> None:
    while not happens():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_single_process_ends_with_status_85_and_a_second_run_is_kept_out(digits_teacher, tmp_path, overhaul):
    folder = tmp_path / "run"
    process = start(*flags(digits_teacher, folder, "--checkpoint_steps", "5"))
    wait_for(process, lambda: checkpoints.found(folder))
    second = overhaul(*flags(digits_teacher, folder))
    assert second.status == 2 and len(second.err.splitlines()) == 1
    assert f"{folder} is in use by another run (process {process.pid} on " in second.err
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 85 and len(err.splitlines()) == 1, err
    assert err.startswith("overhaul: told to stop by SIGTERM, and saved after step ")
    result = overhaul(*flags(digits_teacher, folder))
    assert result.status == 0 and "resumed after step" in result.out


def test_data_workers_leave_a_signal_to_the_whole_group_to_their_process(tmp_path):
    """SLURM tells every process of a step."""
    arguments = ["train", "--setup", "digits", "--method", "original", "--data_path", write_jpegs(tmp_path)]
    arguments += [
        "--batch_size",
        "2",
        "--crop_area",
        "[0.2, 1]",
        "--workers",
        "2",
        "--skip_broken",
        "1",
        "--epochs",
        "500",
    ]
    process = start(*arguments, "--output_dir", tmp_path / "run")
    wait_for(process, lambda: checkpoints.found(tmp_path / "run"))
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    assert process.returncode == 85 and last.startswith("overhaul: told to stop by SIGTERM, and saved after "), err


def test_a_process_that_ends_amid_its_batches_ends_its_data_workers(tmp_path):
    script = "from overhaul.data.workers import work; batches = work(range(100), 2); print(next(batches), flush=True)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def test_a_run_that_has_not_begun_is_stopped_at_once(digits_teacher, tmp_path):
    process = start(*flags(digits_teacher, tmp_path / "run"))
    wait_for(process, lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text())
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    said = "overhaul: told to stop by SIGUSR1; the same command goes on from the last checkpoint\n"
    assert (process.returncode, err) == (85, said)
    assert not (tmp_path / "run").exists()


STUCK = """
import time
from overhaul.system.preemption import StopRequested, StopSignal, installed, stop_at_once
with installed(stop_at_once), StopSignal() as stop:
    stop.arm(1, None)
    print("armed", flush=True)
    try:
        while time.sleep(0.05) or not stop.check():
            pass
    except StopRequested:
        print("told", flush=True)
        while True:
            time.sleep(0.05)
"""


def test_a_second_signal_ends_the_process_at_once_but_an_echo_does_not():
    """A launcher passes a signal on to processes that may have got it as well."""
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "armed\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "told\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 85


def test_the_lock_ends_with_its_process_though_a_forked_worker_lives_on(tmp_path):
    """A canary: record locks are not inherited by a fork."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from overhaul.options import Run\n"
        "from overhaul.run.folder import RunFolder\n"
        "claim = RunFolder(Path(sys.argv[1]), Run())\n"
        "claim.lock()\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    with pytest.raises(ValueError, match=f"in use by another run .process {holder.pid} on"), RunFolder(tmp_path, Run()):
        pass
    holder.kill()
    holder.wait()
    assert Path(f"/proc/{child}").exists()
    with RunFolder(tmp_path, Run()):
        pass
    os.kill(child, signal.SIGKILL)


def of_hub(hub: LocalHub, home: Path) -> dict[str, str]:
    """The environment of a process that finds no other."""
    where = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    return {**where, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


def test_a_run_stopped_or_killed_during_its_push_is_pushed_by_the_same_command(digits_teacher, tmp_path):
    with LocalHub(tmp_path / "repositories") as hub:
        client = Client(hub, tmp_path / "home")
        arguments = flags(digits_teacher, tmp_path / "run", "--epochs", "1", "--push_to_hub", "me/digits")
        for number, status in ((signal.SIGTERM, 85), (signal.SIGKILL, -signal.SIGKILL)):
            process = start(*arguments, **of_hub(hub, tmp_path / "home"))
            stop = functools.partial(process.send_signal, number)
            hub.faults.append(Fault("POST .*/commit/main", status=500, before=stop))
            _, err = process.communicate(timeout=60)
            assert process.returncode == status and "Traceback" not in err, err
            told = "overhaul: told to stop by SIGTERM; the same command goes on from the last checkpoint\n"
            assert err.endswith(told if status == 85 else ""), err
            hub.faults.clear()
        before = digests(tmp_path / "run" / "final")
        (again,) = client(arguments)
        assert again.status == 0 and "pushed: " in again.out, again.err
        assert digests(tmp_path / "run" / "final") == before
        (evaluated,) = client(["evaluate", "me/digits", "--data", "digits", "--json"])
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert json.loads(evaluated.out)["top1"] == line["test_top1"]


def test_a_run_told_to_stop_while_a_student_is_pushed_does_not_wait_for_the_hub(digits_teacher, tmp_path):
    stuck, over = threading.Event(), threading.Event()
    with LocalHub(tmp_path / "repositories") as hub:
        arguments = flags(digits_teacher, tmp_path / "run", "--epochs", "9", "--push_to_hub", "me/digits")
        process = start(*arguments, "--push_every", "1", **of_hub(hub, tmp_path / "home"))
        try:
            hub.faults.append(Fault("PUT .*", status=500, before=lambda: (stuck.set(), over.wait(90))))
            wait_for(process, stuck.is_set)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            over.set()
            process.kill()
    assert process.returncode == 85 and "told to stop by SIGTERM, and saved after " in err, err


@pytest.mark.parametrize("launcher", ["accelerate", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_the_launcher_starts_a_run_again_whose_process_died(whole, digits_teacher, tmp_path, launcher):
    """With --resume never --overwrite too, which a restart must not obey."""
    run = Killed(tmp_path / "run", 2, *arguments_of(digits_teacher), "--resume", "never", "--overwrite")
    if launcher == "torchrun":
        script = run.command.index(str(REPOSITORY / "overhaul" / "train.py"))
        run.command[:script] = TORCHRUN
    script = run.command.index(str(REPOSITORY / "overhaul" / "train.py"))
    run.command[script:script] = ["--max_restarts", "1"]
    run.start()
    assert run.wait_for(lambda: checkpoints.found(run.folder)), run.said
    os.kill(run.ranks()[1], signal.SIGKILL)
    assert run.process.wait(120) == 0, run.said
    assert "another process of this run has ended; look for its own message" in run.said
    assert "resumed after" in run.said and run.result() == whole


def test_a_process_that_does_not_answer_ends_the_run(digits_teacher, tmp_path):
    run = Killed(tmp_path / "run", 2, *arguments_of(digits_teacher), "--timeout_minutes", 0.05).start()
    a_step_later(run)
    os.kill(run.ranks()[0], signal.SIGSTOP)
    words = "another process of this run has not answered for 0.05 minutes (--timeout_minutes); look for"
    assert run.wait_for(lambda: f"overhaul [process 1]: {words}" in run.said), run.said
    run.kill()  # the launcher would give the one that does not answer 30 seconds


@pytest.mark.slow
def test_a_run_killed_many_times_ends_the_same():
    """Other kills than those above, at random moments; the script by hand makes as many as one likes."""
    small = ["--image_size", str(SIZE)]
    options = SimpleNamespace(kills=6, in_checkpoints=3, processes=2, epochs=12, seed=2, more=small)
    told = summary(options)
    assert "final the same, best the same, metrics the same" in told, told
