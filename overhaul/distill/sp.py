"""SP: which images a network takes for alike (Tung and Mori, ICCV 2019)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper


class SP(Distiller):
    """Similarity-preserving distillation compares which images of a batch are alike to teacher and student: the
    products of their last feature maps, after the ReLU, with those of all other images, divided by the norm of each
    image's. The mean squared difference is added to the cross-entropy.

    The loss falls as about one over the number of images that a process compares: its weight counts for 64 of them, and
    grows in proportion. For ImageNet no trusted weight is known.
    """

    paper = Paper(
        title="Similarity-Preserving Knowledge Distillation",
        authors="Tung, Frederick and Mori, Greg",
        venue="IEEE/CVF International Conference on Computer Vision (ICCV)",
        year=2019,
        key="tung2019similarity",
    )
    compares = "similarities of the images by their last map"
    least_images = 2
    defaults: ClassVar = {"cifar": {"distill_weight": 3000.0}, "imagenet": {"distill_weight": None}}

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student, teacher)
        self.pairs = self.pairs[-1:]

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """The squared Frobenius norm of the difference of the two matrices, divided by b^2."""
        return F.mse_loss(*(similarities(each.active(-1)) for each in (student, teacher)))

    def scale(self, images: int) -> float:
        return images / 64


def similarities(feature: Tensor) -> Tensor:
    """[b, b], each row of norm 1, or 0 where nothing responds."""
    flat = feature.flatten(1)
    return F.normalize(flat @ flat.T, eps=1e-12)


Method = SP
