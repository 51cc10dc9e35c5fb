"""Tests that wait for a GPU: their marks, and what their bodies share, which run on a CPU too (-m slow)."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from overhaul import schedule
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.run import checkpoints
from overhaul.training.trainer import Trainer
from support.places import REPOSITORY, TESTS
from support.runs import quick

WARM_UP = 3  # steps of an epoch that may wait for the device: kernels are chosen, compiled and captured in them


def on(device: str, *cases: tuple) -> list:
    """Cases for pytest.mark.parametrize: of a GPU, or slow ones of a CPU. cases: what comes beside the device."""
    mark = pytest.mark.gpu if device == "cuda" else pytest.mark.slow
    return [pytest.param(device, *case, marks=mark, id="-".join((device, *map(str, case)))) for case in cases]


ON_A_GPU = pytest.mark.parametrize("device", on("cuda", ()))
BOTH = pytest.mark.parametrize("device", on("cuda", ()) + on("cpu", ()))


def few_steps(digits_teacher: Path, few_digits: str, **changes) -> tuple[Setup, Run]:
    """Four epochs of six steps; before the last two the learning rate drops, and momentum restarts."""
    setup = quick(digits_teacher, batch_size=16, epochs=4)
    assert setup.restart_momentum and [schedule.drops_before(setup, epoch) for epoch in range(4)] == [0, 0, 1, 2]
    return setup, Run(data_path=few_digits, **changes)


def trained_on(device: str) -> None:
    """Fail where this process's last run was elsewhere."""
    assert PartialState().device.type == device


def environment(device: str) -> dict[str, str]:
    """What tells a process to train there."""
    return {"ACCELERATE_USE_CPU": "true" if device == "cpu" else "false"}


def start(device: str, *command, **more: str) -> subprocess.Popen:
    """A process of this Python that trains on a device. more: of its environment."""
    path = os.pathsep.join(filter(None, (str(TESTS), str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    where = {**os.environ, "PYTHONPATH": path, **environment(device), **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, command)], env=where, **pipes)


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """What it has said, once it has ended."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, (process.returncode, out, err)
    return out + err


def wait_for_a_checkpoint(process: subprocess.Popen, folder: Path) -> None:
    """Until there is one of this start."""
    before = {path.name for path in checkpoints.found(folder)}
    while not {path.name for path in checkpoints.found(folder)} - before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@contextmanager
def waits_forbidden(device: str) -> Iterator[list[int]]:
    """Let what a step does between two calls of Trainer.after_step fail where it waits for the GPU.

    Gives the numbers of the steps that were watched, which is all that happens on a CPU.
    """
    after, watched = Trainer.after_step, []

    def forbid(mode: str) -> None:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode(mode)

    def after_step(trainer: Trainer) -> None:
        forbid("default")
        assert trainer.accelerator.device.type == device
        after(trainer)
        if WARM_UP <= trainer.state.step < len(trainer.train_loader):
            watched.append(trainer.state.step + 1)
            forbid("error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "after_step", after_step)
        try:
            yield watched
        finally:
            forbid("default")
