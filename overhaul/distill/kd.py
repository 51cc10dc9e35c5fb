"""KD: the class probabilities, softened (Hinton, Vinyals and Dean, 2015)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper


class KD(Distiller):
    """Knowledge distillation compares the class probabilities of teacher and student, both softened by a temperature.
    Their Kullback-Leibler divergence, times the temperature squared, is added to the cross-entropy.

    Args:
        temperature: what the logits are divided by, above 0
        standardize: whether the logits of each image are first given mean 0 and deviation 1 (Sun et al., Logit
            Standardization in Knowledge Distillation, CVPR 2024)
    """

    paper = Paper(
        title="Distilling the Knowledge in a Neural Network",
        authors="Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
        venue="NIPS Deep Learning and Representation Learning Workshop",
        year=2015,
        key="hinton2015distilling",
    )
    compares = "class probabilities"
    needs = "logits"
    defaults: ClassVar = {
        "cifar": {"label_weight": 0.1, "distill_weight": 0.9},
        "imagenet": {"label_weight": 0.5, "distill_weight": 0.5, "temperature": 1.0},
        "standardize": {"distill_weight": 9.0, "temperature": 2.0},
    }

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__(student, teacher)
        self.temperature, self.standardize = temperature, standardize

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """T^2 times the mean over images of KL(teacher || student)."""
        mine, theirs = (F.log_softmax(self.scaled(each.logits) / self.temperature, 1) for each in (student, teacher))
        return self.temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)

    def scaled(self, logits: Tensor) -> Tensor:
        if not self.standardize:
            return logits
        return (logits - logits.mean(1, keepdim=True)) / (1e-7 + logits.std(1, keepdim=True))


Method = KD
