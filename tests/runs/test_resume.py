"""A run that is stopped, anywhere and however often, ends as one that never was."""

import json
import os
import random
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.jpegs import write_jpegs
from support.runs import DIGITS, digests, flags, outcome, quick, stop

from overhaul.options import Run
from overhaul.run import checkpoints, restore
from overhaul.setups import Net, Setup
from overhaul.system import accelerator as engine
from overhaul.system.preemption import Preempted, installed, stop_at_once
from overhaul.training import trainer as loop
from overhaul.training.trainer import Trainer, train

STEPS = 22  # an epoch of the digits


def test_a_run_stopped_at_many_steps_ends_the_same(digits_teacher, finished, monkeypatch, tmp_path):
    """The first and the last step of an epoch, two in a row, and steps with a checkpoint of their own among them."""
    setup, run = quick(digits_teacher), Run(output_dir=str(tmp_path / "run"), checkpoint_steps=9)
    for step in (1, 2, 9, 22, 23, 43, 44):
        words = stop(monkeypatch, setup, run, step)
        done, more = divmod(step - 1, STEPS)
        name = f"epoch-{done:04d}-step-{more + 1:06d}"
        assert words == (
            f"told to stop by SIGTERM, and saved after step {more + 1} of epoch {done + 1}; "
            f"the same command goes on from {name}"
        )
        assert checkpoints.found(tmp_path / "run")[-1].name == name
    assert outcome(train(setup, run)) == outcome(finished)


def variants(digits_teacher, few_digits, folder: Path) -> dict[str, tuple[Setup, Run]]:
    alone = replace(DIGITS, method="original", epochs=2)
    small = Net(family="cifar_resnet", kwargs={"depth": 8, "num_classes": 10})
    crops = replace(alone, batch_size=2, image_size=32, crop_area=(0.2, 1.0), num_classes=22, epochs=2)
    return {
        "bf16": (quick(digits_teacher, batch_size=8), Run(mixed_precision="bf16", data_path=few_digits)),
        "mixup, momentum restarted": (
            replace(alone, student=small, mixup=1.0, lr_drops=(0.5,), restart_momentum=True),
            Run(),
        ),
        "data workers, a broken image": (crops, Run(data_path=write_jpegs(folder), workers=2, skip_broken=1)),
    }


@pytest.mark.parametrize("name", ["bf16", "mixup, momentum restarted", "data workers, a broken image"])
def test_every_kind_of_run_ends_the_same(digits_teacher, few_digits, monkeypatch, tmp_path, name):
    """With another number of data workers at each start."""
    setup, run = variants(digits_teacher, few_digits, tmp_path)[name]
    whole = train(setup, replace(run, output_dir=str(tmp_path / "whole")))
    steps = {"bf16": (5, 12, 14), "mixup, momentum restarted": (5, 22, 25)}.get(name, (3, 11, 15))
    run = replace(run, output_dir=str(tmp_path / "run"))
    for workers, step in enumerate(steps):
        stop(monkeypatch, setup, replace(run, workers=workers), step)
    assert outcome(train(setup, run)) == outcome(whole)
    assert all(line.get("broken", 0) == ("broken" in name) for line in whole.metrics)


def test_told_to_stop_during_evaluation(digits_teacher, finished, monkeypatch, tmp_path):
    setup, run, evaluate = quick(digits_teacher), Run(output_dir=str(tmp_path / "run")), loop.evaluate

    def told(*arguments, **more):
        os.kill(os.getpid(), signal.SIGUSR1)
        return evaluate(*arguments, **more)

    with (
        monkeypatch.context() as patch,
        installed(stop_at_once),
        pytest.raises(Preempted, match="by SIGUSR1, and saved after step 22 of epoch 1"),
    ):
        patch.setattr(loop, "evaluate", told)
        train(setup, run)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""
    assert outcome(train(setup, run)) == outcome(finished)


def test_the_last_two_checkpoints_and_the_best_are_kept(digits_teacher, monkeypatch, tmp_path):
    accuracies, evaluate = iter([50.0, 40.0]), loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: {**evaluate(*a, **k), "top1": next(accuracies, 20.0)})
    train(quick(digits_teacher, epochs=4), Run(output_dir=str(tmp_path / "run"), checkpoint_steps=10))
    names = ["epoch-0001", "epoch-0003-step-000014", "epoch-0004"]
    assert [path.name for path in checkpoints.found(tmp_path / "run")] == names
    best = load_file(tmp_path / "run" / "best" / "model.safetensors")
    saved = load_file(tmp_path / "run" / "checkpoints" / "epoch-0001" / "model.safetensors")
    assert all(torch.equal(value, saved[f"student.{name}"]) for name, value in best.items())


def test_checkpoints_by_the_clock(digits_teacher, monkeypatch, tmp_path):
    names, write = [], checkpoints.complete
    monkeypatch.setattr(checkpoints, "complete", lambda made, name: (names.append(name), write(made, name)))
    run = Run(output_dir=str(tmp_path / "run"), checkpoint_minutes=0.2 / 60)
    result = train(quick(digits_teacher, epochs=1), run)
    assert len(names) > 2 and names[-1] == "epoch-0001" and all("step" in name for name in names[:-1])
    assert len(names) - 2 <= result.final["seconds"] / 0.2  # the first was due before the epoch began


def truncated(checkpoint: Path) -> None:
    with (checkpoint / "optimizer.bin").open("r+b") as file:
        file.truncate(1000)


def flipped(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)


def without_a_file(checkpoint: Path) -> None:
    (checkpoint / "random_states_0.pkl").unlink()


def without_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()


def odd_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"files": {"model.safetensors": 3}}')


def without_anything(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGES = {
    truncated: "optimizer.bin has not its 3",
    flipped: "model.safetensors does not have its checksum",
    without_a_file: "random_states_0.pkl cannot be read: No such file or directory",
    without_manifest: "manifest.json cannot be read: No such file or directory",
    odd_manifest: "manifest.json is broken",
    without_anything: "manifest.json cannot be read: No such file or directory",
}


def said_of(damage, folder: Path, err: str) -> bool:
    """Whether that, and nothing else, was said of the newest checkpoint."""
    said = f"{folder / 'checkpoints' / 'epoch-0002'} is broken ({DAMAGES[damage]}"
    return said in err and "set aside as broken-epoch-0002" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_newest_checkpoint_is_set_aside(finished, tmp_path, capsys, damage):
    shutil.copytree(finished.folder, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "epoch-0002")
    assert checkpoints.newest_whole(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "epoch-0001"
    assert said_of(damage, tmp_path / "run", capsys.readouterr().err)


def test_a_run_goes_on_from_the_checkpoint_before_a_broken_one(digits_teacher, finished, tmp_path, overhaul):
    shutil.copytree(finished.folder, tmp_path / "run")
    truncated(tmp_path / "run" / "checkpoints" / "epoch-0002")
    result = overhaul(*flags(digits_teacher, tmp_path / "run"))
    assert result.status == 0 and "resumed after epoch 1" in result.out
    assert said_of(truncated, tmp_path / "run", result.err)
    names = ["broken-epoch-0002", "epoch-0001", "epoch-0002"]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == names
    assert digests(tmp_path / "run" / "final") == digests(finished.folder / "final")


def test_without_a_whole_checkpoint_the_run_stops(digits_teacher, finished, tmp_path, overhaul):
    """Every time, and whatever became of them; --overwrite is how to begin anew."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    for name in ("epoch-0001", "epoch-0002"):
        flipped(folder / "checkpoints" / name)
    for why in (f" ({folder / 'checkpoints' / 'epoch-0002'} is broken ({DAMAGES[flipped]}", ", so it cannot go on"):
        result = overhaul(*flags(digits_teacher, folder))
        assert result.status == 2 and len(result.err.splitlines()) == 1
        assert f"every checkpoint of {folder} is broken{why}" in result.err
    shutil.rmtree(folder / "checkpoints")
    result = overhaul(*flags(digits_teacher, folder))
    assert result.status == 2 and f"the checkpoints of {folder} are gone, so it cannot go on" in result.err
    assert digests(folder / "final") == digests(finished.folder / "final")
    assert overhaul(*flags(digits_teacher, folder, "--resume", "never", "--overwrite", "--epochs", "1")).status == 0


def test_a_checkpoint_set_aside_twice_keeps_both(tmp_path):
    for _ in range(2):
        (tmp_path / "checkpoints" / "epoch-0001").mkdir(parents=True)
        with pytest.raises(ValueError, match="every checkpoint"):
            checkpoints.newest_whole(tmp_path)
    names = ["broken-epoch-0001", "broken-epoch-0001-2"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names


@pytest.fixture
def full_disk():
    """full_disk(True): no file of this process may grow beyond 50,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if full else before[0], before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("epochs", [{1}, {1, 2}], ids=["for an epoch", "to the end"])
def test_a_full_disk_stops_no_training(digits_teacher, monkeypatch, tmp_path, overhaul, full_disk, epochs):
    folder, after = tmp_path / "run", Trainer.after_step

    def filling(self) -> None:
        full_disk(self.state.epoch in epochs)
        after(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "after_step", filling)
        result = overhaul(*flags(digits_teacher, folder, "--epochs", "3"))
    full_disk(False)
    lines, found = result.err.splitlines(), checkpoints.found(folder)
    assert lines[0] == (
        "overhaul: epoch-0002 could not be saved (File too large); training goes on, and it is tried again"
    )
    assert [checkpoints.fault(path) for path in found] == [None] * len(found)
    assert not [path for path in folder.rglob("*") if path.name in ("unfinished", ".model.safetensors")]
    if epochs == {1, 2}:
        assert result.status == 2 and [path.name for path in found] == ["epoch-0001"] and len(lines) == 3
        assert "the end of the run could not be saved (File too large); make room: the same command goes on" in lines[2]
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
        result = overhaul(*flags(digits_teacher, folder, "--epochs", "3"))
        assert "resumed after epoch 1" in result.out
    assert result.status == 0 and len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    assert [path.name for path in checkpoints.found(folder)[-1:]] == ["epoch-0003"]
    best = max(map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()), key=lambda line: line["test_top1"])
    measured = overhaul("evaluate", folder / "best", "--data", "digits", "--json")
    assert json.loads(measured.out)["top1"] == best["test_top1"]


def test_changes_of_length(digits_teacher, finished, tmp_path, overhaul):
    """Longer is the same as if the length had been changed at that point, and is written down."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    arguments = flags(digits_teacher, folder)
    refused = overhaul(*arguments, "--epochs", "3")
    assert refused.status == 2 and refused.err.endswith("add --resume_with epochs=3\n")
    longer = overhaul(*arguments, "--resume_with", "epochs=3")
    assert longer.status == 0 and "resumed after epoch 2" in longer.out and "epoch   3/3" in longer.out, longer.err
    change = {"after_epoch": 2, "and_steps": 0, "epochs_before": 2, "epochs": 3}
    assert json.loads((folder / "overhaul.json").read_text())["changes_of_length"] == [change]
    again = overhaul(*arguments, "--resume_with", "epochs=3")
    assert again.status == 0 and "resumed after epoch 3" in again.out
    assert json.loads((folder / "overhaul.json").read_text())["changes_of_length"] == [change]
    before = digests(folder)
    assert "epochs: 3 there, 2 here" in overhaul(*arguments).err
    shorter = overhaul(*arguments, "--resume_with", "epochs=2")
    assert shorter.status == 2 and "is in epoch 3 already; --resume_with epochs=3 is the least" in shorter.err
    for words, more in (
        ("epochs=N, not lr=0.1", ["--resume_with", "lr=0.1"]),
        ("epochs=N, not epochs=0", ["--resume_with", "epochs=0"]),
        ("lr: 0.05 there, 0.1 here", ["--resume_with", "epochs=4", "--lr", "0.1"]),
        ("goes with neither", ["--resume_with", "epochs=4", "--resume", "never"]),
    ):
        result = overhaul(*arguments, *more)
        assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1
    assert digests(folder) == before
    nothing = overhaul(*flags(digits_teacher, tmp_path / "new", "--resume_with", "epochs=4"))
    assert nothing.status == 2 and "holds none" in nothing.err and not (tmp_path / "new").exists()


def test_deterministic_kernels_train(digits_teacher, finished, tmp_path, monkeypatch):
    """On a CPU they are the same ones."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    try:
        result = train(quick(digits_teacher, epochs=2), Run(output_dir=str(tmp_path / "run"), deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert outcome(result) == outcome(finished)


def test_tensorboard_shows_each_epoch_once(digits_teacher, monkeypatch, tmp_path):
    """What was logged after the checkpoint that the run goes on from is purged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(output_dir=str(tmp_path / "run"), tracker="tensorboard")
    train(quick(digits_teacher), run)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "epoch-0002")
    train(quick(digits_teacher), run)
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "overhaul")).Reload().Scalars("test_top1")
    assert [event.step for event in events] == [1, 2]


def test_what_accelerate_saves_is_read_back(tmp_path):
    """A canary: the names of its files, weights under plain names, momentum, and all random numbers."""
    accelerator = engine.start()
    network = torch.nn.Linear(3, 2)
    model, optimizer = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoints.begin(tmp_path)
    accelerator.save_state(str(checkpoints.unfinished(tmp_path)))
    checkpoints.complete(tmp_path, "epoch-0001")
    saved = tmp_path / "checkpoints" / "epoch-0001"
    names = ["manifest.json", "model.safetensors", "optimizer.bin", "random_states_0.pkl"]
    assert sorted(path.name for path in saved.iterdir()) == names
    assert set(load_file(saved / "model.safetensors")) == {"weight", "bias"}

    def now() -> list:
        momentum = [each["momentum_buffer"].tolist() for each in optimizer.state_dict()["state"].values()]
        weights = [value.tolist() for value in network.state_dict().values()]
        return [weights, momentum, torch.rand(2).tolist(), np.random.rand(), random.random()]

    before = now()
    optimizer.step()
    assert all(one != other for one, other in zip(now(), before, strict=True))
    restore.everything(accelerator, saved, processes=1)
    assert now() == before
    torch.manual_seed(1)
    restore.everything(accelerator, saved, processes=0)
    assert now()[:2] == before[:2] and now()[2:] != before[2:]
