"""DKD: the labelled class and the others apart (Zhao et al., CVPR 2022)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper
from overhaul.system.messages import UserError


class DKD(Distiller):
    """Decoupled knowledge distillation splits the softened class probabilities of teacher and student into that of the
    labelled class against the rest, and those of the other classes among themselves. The Kullback-Leibler divergences
    of the two parts, each with a weight of its own, are added to the cross-entropy.

    Args:
        alpha: weight of the labelled class against the rest, 0 or more
        beta: weight of the other classes among themselves, 0 or more
        temperature: what the logits are divided by, above 0
    """

    paper = Paper(
        title="Decoupled Knowledge Distillation",
        authors="Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        year=2022,
        key="zhao2022decoupled",
    )
    compares = "probabilities of the labelled class, and of the others"
    needs = "logits"
    hard_labels = True
    defaults: ClassVar = {
        "cifar": {"distill_weight": 1.0, "ramp_epochs": 20},
        "imagenet": {"ramp_epochs": 0, "beta": 0.5, "temperature": 1.0},
        "imagenet_b": {"beta": 2.0},
    }

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__(student, teacher)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def check(self, logits: Tensor, labels: Tensor | None) -> None:
        super().check(logits, labels)
        if logits.shape[1] < 2:
            raise UserError("DKD compares the classes that are not labelled: it needs data of 2 classes or more")

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """T^2 times the mean over images of alpha KL(target) + beta KL(others), each of the teacher to the student."""
        mine, theirs = (split(each.logits / self.temperature, labels) for each in (student, teacher))
        target, others = (
            F.kl_div(*both, reduction="batchmean", log_target=True) for both in zip(mine, theirs, strict=True)
        )
        return self.temperature**2 * (self.alpha * target + self.beta * others)


def split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of the label and of all else, [batch, 2], and of the other classes alone, [batch, C - 1]."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, places + (places >= labels[:, None]))
    two = torch.stack([logits.gather(1, labels[:, None])[:, 0], others.logsumexp(1)], 1)
    return two.log_softmax(1), others.log_softmax(1)


Method = DKD
