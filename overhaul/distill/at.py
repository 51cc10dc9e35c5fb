"""AT: where a network looks (Zagoruyko and Komodakis, ICLR 2017)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from overhaul.distill.distiller import Distiller, Exact, Paper
from overhaul.distill.resizing import resized


class AT(Distiller):
    """Attention transfer compares where teacher and student respond: at each stage the squares of the feature map after
    its ReLU are averaged over the channels, and the resulting map of positions is divided by its norm. The mean squared
    difference of these maps, summed over the stages, is added to the cross-entropy.
    """

    paper = Paper(
        title="Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
        "Attention Transfer",
        authors="Zagoruyko, Sergey and Komodakis, Nikos",
        venue="International Conference on Learning Representations (ICLR)",
        year=2017,
        key="zagoruyko2017paying",
    )
    compares = "where the maps of each stage respond"
    defaults: ClassVar = {"cifar": {"distill_weight": 1000.0}}

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """The sum over the pairs; where their sizes differ, both maps are averaged down to the smaller side."""
        return sum(distance(student.active(i), teacher.active(j)) for i, j in self.pairs)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    size = tuple(map(min, student.shape[-2:], teacher.shape[-2:]))
    return F.mse_loss(*(attention(resized(each, size)) for each in (student, teacher)))


def attention(feature: Tensor) -> Tensor:
    """[batch, positions], each row of norm 1, or 0 where nothing responds."""
    return F.normalize(feature.square().mean(1).flatten(1), eps=1e-12)


Method = AT
