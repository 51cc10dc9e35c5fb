"""RKD: the relations of the images of a batch (Park et al., CVPR 2019)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper

CLOSE = 1e-12  # squared distance of two embeddings that count as equal


class RKD(Distiller):
    """Relational knowledge distillation compares how the images of a batch lie to one another in what the classifiers
    of teacher and student get. Their distances, in units of the mean one, and the angles between any three of them are
    to be the teacher's, and the differences are added to the cross-entropy.

    Args:
        distance_weight: of the distances, 0 or more
        angle_weight: of the angles, 0 or more
    """

    paper = Paper(
        title="Relational Knowledge Distillation",
        authors="Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        year=2019,
        key="park2019relational",
    )
    compares = "distances and angles of the images' embeddings"
    needs = "embedding"
    embedded = True
    least_images = 2
    defaults: ClassVar = {"cifar": {"distill_weight": 1.0}}

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, distance_weight: float = 25.0, angle_weight: float = 50.0
    ) -> None:
        super().__init__(student, teacher)
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """Smooth L1 of the distances, a mean over b^2, and of the angles' cosines, over b^3, with their weights."""
        mine, theirs = products(student.embedding), products(teacher.embedding)
        distance = F.smooth_l1_loss(distances(mine), distances(theirs))
        return self.distance_weight * distance + self.angle_weight * F.smooth_l1_loss(angles(mine), angles(theirs))


def products(embedding: Tensor) -> Tensor:
    """[b, b]: of each two, about their mean, without which a common offset costs three digits of fp32."""
    centred = embedding - embedding.mean(0)
    return centred @ centred.T


def squares(products: Tensor) -> Tensor:
    """[b, b] squared distances."""
    own = products.diagonal()
    return (own[:, None] + own - 2 * products).clamp(min=CLOSE)


def distances(products: Tensor) -> Tensor:
    """[b, b], divided by their mean over all pairs of two images."""
    apart = 1 - torch.eye(len(products), dtype=products.dtype, device=products.device)
    found = squares(products).sqrt() * apart
    return found / (found.sum() / apart.sum())


def angles(products: Tensor) -> Tensor:
    """[b, b, b]: the cosine at image i between j and k; 0 where either is equal to i."""
    own, square = products.diagonal(), squares(products)
    inverse = torch.where(square > CLOSE, square.rsqrt(), 0)
    along = (products - products[:, :, None]) + (own[:, None] - products)[:, None]  # of (j - i) and (k - i)
    return along * inverse[:, :, None] * inverse[:, None]


Method = RKD
