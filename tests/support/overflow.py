"""Gradients that overflow where a test says so, in a training whose loss is scaled, as in fp16 on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from overhaul.training import build
from overhaul.training.trainer import Trainer


@contextmanager
def overflows(steps: set[int]) -> Iterator[None]:
    """Let the gradient of one parameter be infinite in these steps of every run, which are counted from 0.

    Where the precision of the run has no scaler, as on a CPU, it gets one.
    """
    open_epoch, start = Trainer.open_epoch, build.start

    def scaled(*arguments, **how):
        accelerator = start(*arguments, **how)
        accelerator.scaler = accelerator.scaler or torch.amp.GradScaler(accelerator.device.type)
        return accelerator

    def opened(trainer: Trainer) -> float:
        if not hasattr(trainer, "overflowing"):
            parameter = next(trainer.method.parameters())
            trainer.overflowing = parameter.register_hook(
                lambda gradient: torch.full_like(gradient, torch.inf) if step_of(trainer) in steps else None
            )
        return open_epoch(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "start", scaled)
        patch.setattr(Trainer, "open_epoch", opened)
        yield


def step_of(trainer: Trainer) -> int:
    return trainer.state.epoch * len(trainer.train_loader) + trainer.state.step


class Died(Exception):
    """A process that ended between two checkpoints."""


@contextmanager
def dies_after(step: int) -> Iterator[None]:
    """Let the run end after a step, counted from 1, without saving it."""
    after = Trainer.after_step

    def after_step(trainer: Trainer) -> None:
        after(trainer)
        if step_of(trainer) == step:
            raise Died

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Died):
        patch.setattr(Trainer, "after_step", after_step)
        yield
