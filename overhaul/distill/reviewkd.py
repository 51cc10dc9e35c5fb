"""ReviewKD: each stage of the teacher taught to those of the student up to it (Chen et al., CVPR 2021)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Exact, Paper
from overhaul.distill.resizing import resized
from overhaul.models import Backbone, Embedded, Stages, embedding


class ReviewKD(Distiller):
    """Knowledge review fuses each feature map of the student with its deeper ones, from the deepest up, by small
    convolutions with learned attention that are thrown away afterwards, and compares it with the teacher's map of that
    stage. The mean squared differences, at several resolutions and of what the classifiers get, are added to the
    cross-entropy.
    """

    paper = Paper(
        title="Distilling Knowledge via Knowledge Review",
        authors="Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
        year=2021,
        key="chen2021distilling",
    )
    compares = "maps fused with the deeper ones, and embeddings"
    embedded = True
    least_images = 2
    defaults: ClassVar = {
        "cifar": {"distill_weight": 5.0, "ramp_epochs": 20},
        "imagenet": {"distill_weight": 1.0, "ramp_epochs": 0},
        "imagenet_b": {"distill_weight": 8.0},
    }

    def __init__(self, student: Backbone, teacher: Backbone) -> None:
        super().__init__(student, teacher)
        mine = [*(student.widths[i] for i, _ in self.pairs), self.embedding_widths[0]]
        theirs = [*(teacher.widths[j] for _, j in self.pairs), self.embedding_widths[1]]
        middle, last = min(512, mine[-1]), len(mine) - 1
        self.connectors["fusions"] = nn.ModuleList(
            Fusion(mine[n], middle, theirs[n], is_deepest=n == last) for n in range(len(mine))
        )

    def connect(self, student: Stages | Embedded, teacher: Stages | Embedded) -> Stages:
        """The fused maps, shallow to deep, in the teacher's widths."""
        fused, deeper = [], None
        levels = [*(student.features[i] for i, _ in self.pairs), as_map(embedding(student))]
        for fusion, level in zip(reversed(self.connectors["fusions"]), reversed(levels), strict=True):
            deeper, expanded = fusion(level, deeper)
            fused.insert(0, expanded)
        return Stages(student.logits, fused)

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """The sum over the levels, the pairs' maps and the embedding; the student's take the teacher's size."""
        targets = [*(teacher.map(j) for _, j in self.pairs), as_map(teacher.embedding)]
        return sum(distance(resized(student.map(n), each.shape[-2:]), each) for n, each in enumerate(targets))


class Fusion(nn.Module):
    """A level of the student, weighed against what is deeper position by position."""

    def __init__(self, width: int, middle: int, target: int, is_deepest: bool) -> None:
        super().__init__()
        self.reduce, self.expand = block(width, middle, 1), block(middle, target, 3)
        self.attention = None if is_deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(self, level: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """The fused map, [batch, middle, height, width], and the same in the teacher's width."""
        fused = self.reduce(level)
        if self.attention is not None:
            deeper = F.interpolate(deeper, fused.shape[-2:], mode="nearest")
            mine, theirs = self.attention(torch.cat([fused, deeper], 1)).sigmoid().split(1, 1)
            fused = mine * fused + theirs * deeper
        return fused, self.expand(fused)


def block(inputs: int, outputs: int, side: int) -> nn.Sequential:
    result = nn.Sequential()
    result.conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    result.norm = nn.BatchNorm2d(outputs)
    nn.init.kaiming_uniform_(result.conv.weight, a=1)
    return result


def as_map(embedding: Tensor) -> Tensor:
    return embedding[..., None, None]


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference, averaged with those of the maps pooled to 4, 2 and 1, each of half the weight."""
    difference = student - teacher
    total, weights, weight = difference.square().mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(difference.shape[-2:]):
            weight /= 2
            total = total + weight * resized(difference, (side, side)).square().mean()
            weights += weight
    return total / weights


Method = ReviewKD
