"""The student alone."""

import torch
from torch import Tensor, nn


class Original(nn.Module):
    """The student alone: the paper's baseline, and how teachers are trained."""

    needs = None

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.connectors = nn.ModuleList()

    def forward(self, images: Tensor, teacher_stages=None, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and a distillation loss of zero."""
        logits = self.student(images)
        return logits, logits.new_zeros((), dtype=torch.float32)


Method = Original
