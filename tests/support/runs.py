"""Small runs of the digits, how they are stopped, and what they leave.

Tests train at 16 pixels: the digits are of 8, and a step takes a quarter of the work that it takes at the setup's 32.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from overhaul.cli.main import main
from overhaul.options import Run
from overhaul.recipe import Setup, is_foreign
from overhaul.run import checkpoints
from overhaul.setups import SETUPS, wide_resnet
from overhaul.system import preemption
from overhaul.system.preemption import Preempted, installed, stop_at_once
from overhaul.training import trainer
from overhaul.training.trainer import Result, Trainer, train

SMALL_NET = wide_resnet(10, 1, num_classes=10)
WHOLE = [name for name, row in SETUPS.items() if row.preprocessing]  # setups that leave nothing to the user
OF_OURS = [name for name in WHOLE if not is_foreign(SETUPS[name].student.family)]  # and those of our networks
SIZE = 16  # pixels a side
DIGITS, DIGITS_TEACHER = (replace(SETUPS[name], image_size=SIZE) for name in ("digits", "digits_teacher"))


def same_weights(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file under a folder, but of the lock, which says whose it was last."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quick(digits_teacher, **changes) -> Setup:
    teacher = replace(DIGITS.teacher, weights=str(digits_teacher))
    return replace(DIGITS, **{"teacher": teacher, "epochs": 2, **changes})


def distilling(digits_teacher, *more, epochs: int = 2) -> list[str]:
    """What quick() says, as flags."""
    flags = ["--setup", "digits", "--image_size", SIZE, "--epochs", epochs, "--teacher", digits_teacher, *more]
    return list(map(str, flags))


def teaching(*more, epochs: int = 1) -> list[str]:
    """Flags that train a small network alone on the digits."""
    flags = ["--setup", "digits_teacher", "--image_size", SIZE, "--student.kwargs.depth", 10, "--epochs", epochs]
    return list(map(str, [*flags, *more]))


def flags(digits_teacher, folder, *more) -> list[str]:
    """A whole command."""
    return ["train", *distilling(digits_teacher, "--output_dir", folder, *more)]


def command(*argv) -> SimpleNamespace:
    """A command in this process: .status, .out, .err."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in argv])
        except SystemExit as exit:
            status = exit.code or 0
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def told(rank: int, number: int, step: int, *argv) -> SimpleNamespace:
    """The command, where the process of that rank gets a real signal at that step of the run, and all ask at each."""
    after = Trainer.after_step

    def after_step(self) -> None:
        if self.state.epoch * len(self.train_loader) + self.state.step == step and os.environ.get("RANK") == str(rank):
            os.kill(os.getpid(), number)
        after(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "after_step", after_step)
        patch.setattr(preemption, "ASK", 0)
        return command(*argv)


def told_in_test(rank: int, number: int, *argv) -> SimpleNamespace:
    """The command, where the process of that rank gets a real signal as an epoch's student is tested."""
    evaluate = trainer.evaluate

    def evaluating(*arguments, **more):
        if os.environ.get("RANK") == str(rank):
            os.kill(os.getpid(), number)
        return evaluate(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "evaluate", evaluating)
        return command(*argv)


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


def command_in(folder: str, *argv) -> SimpleNamespace:
    """A command in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return command(*argv)
