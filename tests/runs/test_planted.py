"""What somebody else has laid in a run's folder is neither run, nor followed, nor lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.planted import TRAIN, Runs, changed, new, old, runs
from support.runs import digests, outcome, quick, refused

from overhaul.options import Run
from overhaul.run import checkpoints
from overhaul.training.trainer import train

ADDED = ("pytorch_model.bin", "scheduler.bin", "sampler.bin", "scaler.pt", "custom_checkpoint_1.pkl")
REPLACED = {
    new: ("state.json", "optimizer.bin", "random_states_0.pkl", "model.safetensors"),
    old: ("custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "model.safetensors"),
}
BOTH = [(make, name) for make, replaced in REPLACED.items() for name in replaced]


@pytest.mark.parametrize(("make", "name"), BOTH, ids=[f"{make.__name__} {name}" for make, name in BOTH])
def test_no_pickle_is_run(overhaul, monkeypatch, tmp_path, make, name):
    monkeypatch.chdir(tmp_path)
    runs(name, make)(tmp_path)
    result = overhaul(*TRAIN)
    assert result.status == 2 and len(result.err.splitlines()) == 1, result
    assert not list(tmp_path.rglob("it_ran"))


@pytest.mark.parametrize("make", [old, new])
def test_added_files_are_not_opened(overhaul, monkeypatch, tmp_path, make):
    monkeypatch.chdir(tmp_path)
    changed(lambda checkpoint: [torch.save(Runs(), checkpoint / name) for name in ADDED], make)(tmp_path)
    result = overhaul(*TRAIN)
    assert result.status == 0 and "resumed after epoch 1" in result.out, result.err
    assert not list(tmp_path.rglob("it_ran"))


def test_links_are_neither_followed_nor_in_the_way(overhaul, monkeypatch, tmp_path):
    """Of temporary files, of what a checkpoint is made in or deleted as, and among the checkpoints."""
    monkeypatch.chdir(tmp_path)
    checkpoint, mine = new(tmp_path), tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    for name in (".config.yaml", ".metrics.jsonl", ".overhaul.json"):
        (tmp_path / "run" / name).symlink_to(mine / "file")
    for name in ("unfinished", "deleted", "epoch-0000", "epoch-0002", "epoch-0009"):
        checkpoint.with_name(name).symlink_to(mine)
    checkpoint.with_name("epoch-0000-step-000003").touch()
    command = [*TRAIN, "--resume_with", "epochs=4"]
    result = overhaul(*command)
    assert result.status == 0 and "resumed after epoch 1" in result.out, result.err
    names = {path.name for path in checkpoint.parent.iterdir() if path.is_dir() and not path.is_symlink()}
    assert {"epoch-0003", "epoch-0004"} <= names
    assert [path.name for path in mine.iterdir()] == ["file"] and (mine / "file").read_text() == "mine"


def launched(folder: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "overhaul", *TRAIN, "--resume", "never", "--overwrite"]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_a_run_is_replaced_only_by_one_that_has_a_checkpoint(overhaul, monkeypatch, tmp_path):
    """SIGKILL before that, and an error; then the earlier run goes on where it is moved, or is replaced."""
    monkeypatch.chdir(tmp_path)
    new(tmp_path)
    before, aside = digests(tmp_path / "run"), tmp_path / "run" / "replaced-run"
    process = launched(tmp_path)
    while process.poll() is None and not (tmp_path / "run" / "overhaul.json").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and digests(aside) == before
    refused = overhaul(*TRAIN)
    assert refused.status == 2 and f"{aside.relative_to(tmp_path)} holds the run that was to be replaced" in refused.err
    failed = overhaul(*TRAIN, "--resume", "never", "--overwrite", "--lr", "1e9")
    assert failed.status == 2 and failed.err.endswith("; the earlier run is kept in run/replaced-run\n")
    assert len(failed.err.splitlines()) == 1 and digests(aside) == before
    shutil.copytree(aside, tmp_path / "moved")
    moved = overhaul(*TRAIN, "--output_dir", "moved")
    assert moved.status == 0 and "resumed after epoch 1" in moved.out, moved.err
    replaced = overhaul(*TRAIN, "--resume", "never", "--overwrite")
    assert replaced.status == 0 and not aside.exists(), replaced.err


def test_metrics_that_are_gone_and_a_clock_set_back_change_nothing(digits_teacher, finished, monkeypatch, tmp_path):
    """The run goes on after its first epoch, years before that; with the files' times the newest looks the oldest."""
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    shutil.rmtree(tmp_path / "run" / "final")
    first, second = checkpoints.found(tmp_path / "run")
    shutil.rmtree(second)
    shutil.copytree(first, first.with_name("epoch-0000-step-000001"))
    os.utime(first, (0, 0))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 10**9)
    assert outcome(train(quick(digits_teacher), Run(output_dir=str(tmp_path / "run")))) == outcome(finished)


@contextmanager
def without_rights() -> Iterator[None]:
    """What a user may not do, root may not do here either."""
    if root := os.geteuid() == 0:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("which", ["run", "run/checkpoints"])
def test_a_folder_that_may_only_be_read_is_refused(overhaul, monkeypatch, tmp_path, which):
    monkeypatch.chdir(tmp_path)
    new(tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (tmp_path / which).chmod(0o555)
    before = digests(tmp_path)
    for more in ([], ["--resume", "never", "--overwrite"]):
        with without_rights():
            result = overhaul(*TRAIN, *more)
        refused(result, f"{which} may not be read and written to; name another folder with --output_dir")
    assert digests(tmp_path) == before


def test_a_folder_that_may_not_be_looked_into_is_refused(overhaul, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("closed").mkdir(mode=0o000)
    with without_rights():
        result = overhaul(*TRAIN, "--output_dir", "closed/run")
    refused(result, "closed/run may not be looked into; name another folder with --output_dir")
