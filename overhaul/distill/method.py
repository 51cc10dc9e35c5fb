"""What every method stands on: the teacher's mode."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from overhaul.system.messages import choose

NORMS = ("batch", "running")  # what a teacher's BatchNorms normalise by: the batch, or their buffers


def as_teacher(net: nn.Module, norm: str = "batch") -> nn.Module:
    """The net as a teacher, in teaching mode; no parameter asks for a gradient. norm: see teaching."""
    return teaching(net.requires_grad_(False), norm)


def teaching(net: nn.Module, norm: str = "batch") -> nn.Module:
    """The net in the mode in which it teaches: as in eval mode, but for its BatchNorms, whose buffers stay as they are.

    norm: batch (they use batch statistics, as in the paper's table 8) or running (they use their buffers). Dropout,
    stochastic depth and whatever else train mode switches on stay off. `net.eval()` ends it.
    """
    choose("--teacher_norm", norm, NORMS)
    net.eval()
    for module in net.modules():
        if norm == "batch" and isinstance(module, _BatchNorm):
            module.training = True  # without its children: timm's have dropout inside
            module.track_running_stats = False
            module.momentum = 0.0  # for those with a forward pass of their own, which writes into the buffers anyway
    return net


@contextmanager
def mode_kept(net: nn.Module) -> Iterator[None]:
    """Whatever is done to a net's mode in between, it ends in the one that it was in."""
    modes = {module: module.training for module in net.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
