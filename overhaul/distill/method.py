"""What every method stands on: the teacher's mode, and the student alone."""

import torch
from torch import Tensor, nn


def as_teacher(net: nn.Module) -> nn.Module:
    """The net as a teacher: in train mode its BatchNorms use batch statistics and leave their buffers as they were.

    In eval mode they use the buffers, as ever. No parameter asks for a gradient.
    """
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.track_running_stats = False
    return net.requires_grad_(False).train()


class Original(nn.Module):
    """The student alone: the paper's baseline, and how teachers are trained."""

    needs_teacher = False

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.connectors = nn.ModuleList()

    def forward(self, images: Tensor, teacher_stages=None, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and a distillation loss of zero."""
        logits = self.student(images)
        return logits, logits.new_zeros((), dtype=torch.float32)
