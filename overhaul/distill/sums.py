"""Several methods at once: one student, one pass of it, and a loss of each."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from overhaul.distill.distiller import needed


class Sum(nn.Module):
    """A student with what several methods add to it; gives its logits and the distillation loss of each.

    methods: classes by their names. settings: of each, the arguments of its class.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, methods: Mapping[str, type], settings: Mapping[str, dict]
    ) -> None:
        super().__init__()
        self.student = student
        self.parts = nn.ModuleDict(
            {name: method(student, teacher, **settings.get(name, {})) for name, method in methods.items()}
        )
        for part in self.parts.values():
            del part.student  # there is one

    @property
    def connectors(self) -> nn.ModuleList:
        """Those of all methods."""
        return nn.ModuleList(part.connectors for part in self.parts.values())

    def forward(self, images: Tensor, teacher_stages, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and the distillation losses [methods], without their weights.

        teacher_stages: what the teacher gives of the same images; by the methods' names where its mode differs.
        """
        student = needed(self.student, list(self.parts.values()))(images)
        return student.logits, self.loss(student, teacher_stages, labels)

    def loss(self, student, teacher, labels: Tensor | None = None) -> Tensor:
        """The distillation losses [methods] of what both networks gave."""
        by_name = teacher if isinstance(teacher, Mapping) else dict.fromkeys(self.parts, teacher)
        return torch.stack([part.loss(student, by_name[name], labels) for name, part in self.parts.items()])
