"""Studies of real runs: one that fails, signals, kills, runs side by side, and tasks of SLURM."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.places import REPOSITORY
from support.runs import SIZE, student_of

from overhaul.cli.arguments import parse_training
from overhaul.setups import settings
from overhaul.training.trainer import train


def flags(few_digits, digits_teacher, out, *more) -> list[str]:
    """Of a study of 4 epochs of 12 steps a run; whose distillation fails."""
    data = ("--setup", "digits", "--data_path", few_digits, "--image_size", SIZE, "--batch_size", 8, "--epochs", 4)
    return list(map(str, [*data, "--method", "original,kd", "--teacher", digits_teacher, "--out", out, *more]))


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def undisturbed(study: Path, name: str, folder: Path) -> str:
    """The student of the same run, never stopped and in this process."""
    values = parse_training(["--config", str(study / "configs" / f"{name}.yaml"), "--output_dir", str(folder)])
    return student_of(train(*settings(values.pop("setup"), values)).folder)


def test_a_study_goes_on_after_a_signal_and_past_a_run_that_fails(overhaul, few_digits, digits_teacher, tmp_path):
    out = tmp_path / "study"
    command = ["study", *flags(few_digits, digits_teacher, out, "--distill_weight", "1e25")]
    first = out / "digits-original-seed0"

    def tell() -> None:
        wait_for((first / "metrics.jsonl").exists)
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    told = overhaul(*command)
    teller.join()
    assert told.status == 85 and told.err.count("\n") == 1, told.err
    assert "told to stop by SIGTERM; 0 of 2 runs are finished; its runs have saved" in told.err, told.err
    assert told.err.count("saved") == told.err.count("goes on") == 1, told.err
    assert not (out / "digits-kd-seed0").exists() and (first / "metrics.jsonl").read_text().count("\n") < 4

    gone_on = overhaul(*command, "--json")
    assert gone_on.status == 1, gone_on.err
    original, kd = json.loads(gone_on.out.splitlines()[-1])
    assert (original["state"], original["epochs"], kd["state"]) == ("finished", 4, "failed")
    assert "no longer finite" in kd["why"] and "resumed after" in (out / "logs" / f"{first.name}.log").read_text()
    assert student_of(first) == undisturbed(out, first.name, tmp_path / "alone")


@pytest.mark.slow
def test_the_runs_of_a_study_that_is_killed_save_and_end(overhaul, few_digits, digits_teacher, tmp_path):
    out = tmp_path / "study"
    command = ["study", *flags(few_digits, digits_teacher, out, "--jobs", 2)]
    names = ["digits-original-seed0", "digits-kd-seed0"]
    study = subprocess.Popen(
        [sys.executable, "-m", "overhaul", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert wait_for(lambda: any((out / name / "metrics.jsonl").exists() for name in names))
        children = Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()
        assert len(children) == 2
    finally:
        study.kill()
        study.wait()
    assert wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), 60)
    assert any("saved" in (out / "logs" / f"{name}.log").read_text() for name in names)
    result = overhaul(*command)
    assert result.status == 0 and result.out.count("finished, top-1") == 2, result.out
    for name in names:
        assert student_of(out / name) == undisturbed(out, name, tmp_path / name)
    again = overhaul(*command)
    assert again.status == 0 and "2 runs, 2 of them finished" in again.out and "(1 of 2" not in again.out


def test_a_task_of_an_array_trains_its_own_run(digits_teacher, few_digits, tmp_path):
    """With stand-ins for SLURM's commands and Accelerate's launcher."""
    programs, out = tmp_path / "bin", tmp_path / "study"
    programs.mkdir()
    own = {
        "python": f'exec "{sys.executable}" "$@"',
        "accelerate": "true",
        "scontrol": "echo localhost",
        "srun": 'printf "%s\\n" "$@" >"$SAID"',
    }
    for name, text in own.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    where = {"PATH": f"{programs}:{os.environ['PATH']}", "VIRTUAL_ENV": "none", "PYTHONPATH": str(REPOSITORY)}
    job = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1"}
    said = tmp_path / "said"
    for task, status in ((1, 0), (2, 2)):
        environment = {**os.environ, **where, **job, "SLURM_ARRAY_TASK_ID": str(task), "SAID": str(said)}
        script = ["bash", "launch/slurm.sh", "study", *flags(few_digits, digits_teacher, out)]
        result = subprocess.run(script, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert result.returncode == status, result.stderr
    assert said.read_text().splitlines()[-3:] == [
        "overhaul/train.py",
        "--config",
        f"{out}/configs/digits-kd-seed0.yaml",
    ]
    assert result.stderr == "overhaul: the study has 2 runs, 0 to 1, and no number 2\n"
    assert yaml.safe_load((out / "study.yaml").read_text())["method"] == ["original", "kd"]
