"""Overhaul: margin ReLU, connectors and partial L2 (Heo et al., ICCV 2019)."""

import math
from functools import cache

import torch
from torch import Tensor, nn

from overhaul.distill.distiller import Distiller, Paper
from overhaul.distill.margins import closed
from overhaul.distill.pairing import stage_weights
from overhaul.distill.resizing import resized
from overhaul.models import Backbone, Stages
from overhaul.system.messages import UserError, innermost, warn_once

PIECE, GPU_PIECE = {"cpu": 2**19}, 2**24  # elements of a map that the loss takes at once


def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial L2 distance of a student's map to the margin ReLU of a teacher's (paper, equations 1 to 3).

    student (after its connector), teacher: [batch, channels, height, width]; margin: [channels].
    Returns a scalar, summed over the map and averaged over the batch, computed in fp32 whatever the inputs (in fp64 for
    a student in fp64). A student at or below a target that is not positive is left alone. The teacher gets no gradient.
    """
    if student.shape != teacher.shape:
        raise UserError(f"student and teacher maps differ in shape: {list(student.shape)}, {list(teacher.shape)}")
    if torch.compiler.is_compiling():
        return differences(rows(student), rows(teacher.detach()), margin).square().sum() / len(student)
    return fused(student.device, student.dtype).apply(student, teacher, margin)


@cache
def fused(device: torch.device, dtype: torch.dtype) -> type[torch.autograd.Function]:
    """How partial_l2 is computed of a student's map there: by a Triton kernel on NVIDIA GPUs, else piece by piece.

    A small map shows whether Triton works, which needs a C compiler, among other things.
    """
    if device.type != "cuda" or torch.version.cuda is None or dtype == torch.float64:
        return FusedPartialL2
    try:
        from overhaul.distill.triton_l2 import TritonPartialL2

        TritonPartialL2.apply(*torch.ones(2, 1, 1, 1, 1, dtype=dtype, device=device), torch.ones(1, device=device))
    except Exception as error:
        warn_once(f"the distillation loss takes longer on this GPU, as Triton fails: {innermost(error)}")
        return FusedPartialL2
    return TritonPartialL2


def rows(feature: Tensor) -> Tensor:
    """A map as [batch x height x width, channels], which is how channels_last keeps it."""
    return feature.movedim(1, -1).flatten(0, 2)


def differences(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Student minus target where it counts, else 0, in fp32 or fp64; student, teacher: rows."""
    target = torch.maximum(teacher.to(exact(student)), margin.to(exact(student)))
    difference = student - target
    positive = torch.maximum(difference, target)  # where the student is above its target, or the target above 0
    return torch.ops.aten.threshold_backward(difference, positive, 0)  # a `where` in a single pass


def exact(student: Tensor) -> torch.dtype:
    return torch.promote_types(student.dtype, torch.float32)


class FusedPartialL2(torch.autograd.Function):
    """partial_l2 piece by piece, so that what a piece needs stays in the cache; keeps one map, for the gradient."""

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
        total = torch.zeros((), dtype=exact(student), device=student.device)
        kept = torch.empty_like(student, memory_format=torch.channels_last)
        size = max(1, PIECE.get(student.device.type, GPU_PIECE) // len(margin))
        for mine, theirs, place in zip(*(rows(each).split(size) for each in (student, teacher, kept)), strict=True):
            difference = differences(mine, theirs, margin)
            place.copy_(difference)
            total += difference.square_().sum()
        ctx.save_for_backward(kept)
        return total / len(student)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (kept,) = ctx.saved_tensors
        return kept * (gradient * (2 / max(1, len(kept)))), None, None


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution and BatchNorm from the student's to the teacher's width; learned, and thrown away afterwards."""
    convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / teacher_channels))
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))


class Overhaul(Distiller):
    """A comprehensive overhaul of feature distillation compares the feature maps of teacher and student before the ReLU
    that ends each stage: the teacher's through a margin ReLU, which keeps its positive responses and cuts its negative
    ones at their expected value, the student's through a 1x1 convolution that is thrown away afterwards. Their partial
    L2 distance, which leaves alone where both are negative and the student lies lower, is added to the cross-entropy.

    The sum of the pairs' losses, pair i of n with the weight 1 / 2^(n - 1 - i); see pairing.pairs. measured: by the
    number of a pair whose margin only data tell, the teacher's feature; see set_margins.
    """

    paper = Paper(
        title="A Comprehensive Overhaul of Feature Distillation",
        authors="Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and Choi, Jin Young",
        venue="International Conference on Computer Vision (ICCV)",
        year=2019,
        key="heo2019comprehensive",
    )
    compares = "maps before the ReLU of each stage"
    teacher_norm = "batch"

    def __init__(self, student: Backbone, teacher: Backbone) -> None:
        super().__init__(student, teacher)
        self.measured = {}
        mine, theirs, norms = student.widths, teacher.widths, teacher.norms
        self.connectors = nn.ModuleList(connector(mine[i], theirs[j]) for i, j in self.pairs)
        for number, (_, j) in enumerate(self.pairs):
            told = closed(norms[j])
            if told is None:
                self.measured[number] = j
            value = torch.full((theirs[j],), torch.nan) if told is None else told
            self.register_buffer(f"margin{number}", value, persistent=told is None)

    @property
    def pair_weights(self) -> list[float]:
        return stage_weights(len(self.pairs))

    def set_margins(self, margins: list[Tensor]) -> None:
        """Take over the margins that were measured, one [channels] for each in `measured`, in its order."""
        for number, each in zip(self.measured, margins, strict=True):
            self.get_buffer(f"margin{number}").copy_(each)

    def loss(self, student: Stages, teacher: Stages, labels: Tensor | None = None) -> Tensor:
        """As in Distiller; partial_l2 sees to the precision."""
        return self.distance(student.features, teacher.features)

    def distance(self, features: list[Tensor], targets: list[Tensor]) -> Tensor:
        """The distillation loss of the student's feature maps (before the connectors) and the teacher's."""
        return self.weighted(self.stage_losses(features, targets))

    def stage_losses(self, features: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
        """The loss of each pair, a scalar, without its weight; the student's map takes the size of the teacher's."""
        losses = []
        for number, (i, j) in enumerate(self.pairs):
            mine = self.connectors[number](resized(features[i], targets[j].shape[-2:]))
            losses.append(partial_l2(mine, targets[j], self.get_buffer(f"margin{number}")))
        return losses

    def weighted(self, losses: list[Tensor]) -> Tensor:
        """The sum of the pairs' losses, each with its weight."""
        return sum(loss * weight for loss, weight in zip(losses, self.pair_weights, strict=True))


Method = Overhaul
