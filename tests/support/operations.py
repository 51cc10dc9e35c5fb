"""What a step asks a GPU to do, counted without one: over fake tensors nothing is computed."""

from collections import Counter

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from overhaul.bench import Trial
from overhaul.distill import overhaul
from overhaul.options import Run
from overhaul.training.metrics import Meter
from overhaul.training.optimisation import training_step

NOTHING = ("empty", "new_empty", "_unsafe_view")  # beginnings of names of what returns a tensor and computes nothing


class Operations(TorchDispatchMode):
    """Counts, in `seen` by name, what a GPU would launch a kernel or more for: all but views and fresh memory."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name, schema = function.overloadpacket.__name__, function._schema
        made = any("Tensor" in str(each.type) and each.alias_info is None for each in schema.returns)
        if schema.is_mutable or (made and not name.startswith(NOTHING)):
            self.seen[name] += 1
        return function(*arguments, **(kwargs or {}))


class OneLaunch(torch.autograd.Function):
    """As many operations as the loss of a map is on a GPU: a kernel and a small sum, and a kernel for the gradient."""

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
        kept = student + teacher
        ctx.save_for_backward(kept)
        return kept.sum(dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (kept,) = ctx.saved_tensors
        return kept * gradient, None, None


def operations(setup: str, precision: str) -> Counter:
    """Of a training step of the setup's own batch and of what the meter adds, once the first step is done."""
    trial = Trial(setup, None, Run(mixed_precision=precision))
    size, meter = trial.setup.image_size, Meter(trial.accelerator, trial.setup)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(overhaul, "fused", lambda *_: OneLaunch)
        images = torch.zeros(trial.setup.batch_size, 3, size, size).to(memory_format=torch.channels_last)
        labels = torch.zeros(len(images), dtype=torch.int64)
        for _ in range(2):
            with Operations() as counted:
                networks = trial.accelerator, trial.model, trial.teacher_forward, trial.optimizer
                logits, *losses = training_step(*networks, images, labels, trial.weight)
                meter.add(logits, labels, *losses)
    return counted.seen
