"""Small runs of the digits, how they are stopped, and what they leave."""

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.run import checkpoints
from overhaul.setups import SETUPS, wide_resnet
from overhaul.system.preemption import Preempted, installed, stop_at_once
from overhaul.training.trainer import Result, Trainer, train

SMALL_NET = wide_resnet(10, 1, num_classes=10)


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file under a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quick(digits_teacher, **changes):
    teacher = replace(SETUPS["digits"].teacher, weights=str(digits_teacher))
    return replace(SETUPS["digits"], **{"teacher": teacher, "epochs": 2, **changes})


def flags(digits_teacher, folder, *more) -> list[str]:
    return [
        *["train", "--setup", "digits", "--epochs", "2", "--teacher"],
        str(digits_teacher),
        "--output_dir",
        str(folder),
        *more,
    ]


def student_of(folder: Path) -> str:
    return digests(folder / "final")["model.safetensors"]


def times_apart(metrics: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in metrics]


def stop(monkeypatch, setup: Setup, run: Run, step: int) -> str:
    """Train until that step of the run, where the process gets a real SIGTERM; what is said then."""
    after = Trainer.after_step

    def told(self) -> None:
        if self.state.epoch * len(self.train_loader) + self.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self)

    with monkeypatch.context() as patch, installed(stop_at_once), pytest.raises(Preempted) as preempted:
        patch.setattr(Trainer, "after_step", told)
        train(setup, run)
    assert preempted.value.code == 85
    return str(preempted.value)


def outcome(result: Result) -> dict:
    """All that must be the same: students and connectors, momentum, metrics."""
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.metrics
    last = result.folder / "checkpoints" / checkpoints.name(len(lines), 0)
    momentum = torch.load(last / "optimizer.bin")["state"].values()
    return {
        "final": digests(result.folder / "final"),
        "best": digests(result.folder / "best"),
        "student and connectors": digests(last)["model.safetensors"],
        "momentum": [each["momentum_buffer"].flatten().tolist() for each in momentum],
        "metrics": times_apart(lines),
    }


def refused(result, *words) -> None:
    assert result.status == 2, (result.status, result.out, result.err)
    assert result.err.startswith("overhaul: ") and len(result.err.strip().splitlines()) == 1, result.err
    for word in words:
        assert word in result.err, result.err
