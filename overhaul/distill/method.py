"""What every method stands on: the teacher's mode."""

from torch import nn


def as_teacher(net: nn.Module) -> nn.Module:
    """The net as a teacher: in train mode its BatchNorms use batch statistics and leave their buffers as they were.

    In eval mode they use the buffers, as ever. No parameter asks for a gradient.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    return net.requires_grad_(False).train()
