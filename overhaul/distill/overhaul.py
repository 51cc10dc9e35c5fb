"""Overhaul: margin ReLU, connectors and partial L2 (Heo et al., ICCV 2019)."""

import math

import torch
from torch import Tensor, nn

from overhaul.system.messages import UserError

PIECE, GPU_PIECE = {"cpu": 2**19}, 2**24  # elements of a map that the loss takes at once


def margin(norm: nn.BatchNorm2d) -> Tensor:
    """The expected negative response E[x | x < 0] of each channel of a BatchNorm, [channels], fp32 (paper, 3.1).

    The norm's output counts as normal with its scale as deviation and its shift as mean. Where hardly any response
    is negative (probability at most 0.001), minus three deviations.
    """
    if not isinstance(norm, nn.BatchNorm2d) or norm.weight is None:
        raise UserError(f"a margin needs a BatchNorm2d with scale and shift, not {type(norm).__name__}")
    scale, shift = (x.detach().cpu().double() for x in (norm.weight.abs(), norm.bias))  # not every device has float64
    ratio = shift / scale
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-ratio)
    return torch.where(negative > 0.001, shift - scale * density / negative, -3 * scale).float().to(norm.weight.device)


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
    return FusedPartialL2.apply(student, teacher, margin)


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
        return kept * (gradient * (2 / len(kept))), None, None


def connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution and BatchNorm from the student's to the teacher's width; learned, and thrown away afterwards."""
    convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / teacher_channels))
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))


class Overhaul(nn.Module):
    """A student with one connector a stage; gives the student's logits and the weighted sum of the stage losses."""

    needs_teacher = True

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        if len(student.norms) != len(teacher.norms):
            raise UserError(
                f"the student has {len(student.norms)} stages and the teacher {len(teacher.norms)}; they must be equal"
            )
        self.student = student
        self.connectors = nn.ModuleList(map(connector, student.widths, teacher.widths))
        for i, norm in enumerate(teacher.norms):
            self.register_buffer(f"margin{i}", margin(norm), persistent=False)

    def forward(self, images: Tensor, teacher_stages, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and the distillation loss, a scalar; stage i of n weighs 1 / 2^(n - 1 - i)."""
        logits, features = self.student.forward_stages(images)
        return logits, self.distance(features, teacher_stages.features)

    def distance(self, features: list[Tensor], targets: list[Tensor]) -> Tensor:
        """The distillation loss of the student's feature maps (before the connectors) and the teacher's."""
        loss, last = 0.0, len(features) - 1
        for i, (mine, target) in enumerate(zip(features, targets, strict=True)):
            stage_loss = partial_l2(self.connectors[i](mine), target, self.get_buffer(f"margin{i}"))
            loss = loss + stage_loss / 2 ** (last - i)
        return loss


Method = Overhaul
