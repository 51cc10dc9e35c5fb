"""A network that gives what it is given, and a method between two of them."""

import torch
from torch import Tensor

from overhaul import distill
from overhaul.models import Backbone, Stages


class Given(Backbone):
    """Gives those logits and features, which ask for a gradient."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        logits, features = stages
        self.stages = Stages(logits.requires_grad_(), [each.requires_grad_() for each in features])

    def forward_stages(self, images: Tensor) -> Stages:
        return self.stages

    @property
    def widths(self) -> list[int]:
        return [each.shape[1] for each in self.stages.features]

    def gradients(self, role: str) -> dict[str, Tensor]:
        """What has come back, by the names of the golden values."""
        leaves = {f"{role}.logits": self.stages.logits}
        leaves |= {f"{role}.features.{i}": each for i, each in enumerate(self.stages.features)}
        return {name: each.grad for name, each in leaves.items() if each.grad is not None}


def between(name: str, student: Stages, teacher: Stages, **settings) -> distill.Distiller:
    """The method between two networks that give those stages, in their precision; compare with `compared`."""
    made = distill.METHODS[name](Given(student), Given(teacher), **settings)
    return made.to(student.logits.dtype)


def compared(method: distill.Distiller, teacher: Stages, labels: Tensor | None = None) -> Tensor:
    """Its distillation loss, through the way that a training takes."""
    images = torch.zeros(len(teacher.logits), 3, 8, 8)
    return method(images, teacher, labels)[1]
