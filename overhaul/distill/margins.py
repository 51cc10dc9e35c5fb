"""The margins of a teacher's features: in closed form from its BatchNorms, or measured on images."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from overhaul.system.messages import UserError

HARDLY = 0.001  # the share of a channel's responses below which those that are negative do not count


def margin(norm: nn.BatchNorm2d) -> Tensor:
    """The expected negative response E[x | x < 0] of each channel of a BatchNorm, [channels], fp32 (paper, 3.1).

    The norm's output counts as normal with its scale as deviation and its shift as mean. Where hardly any response
    is negative (probability at most 0.001), minus three deviations. For a scale of zero, the shift where it is
    negative, else 0.
    """
    if not tells(norm):
        raise UserError(f"a margin needs a BatchNorm2d with scale and shift, not {type(norm).__name__}")
    place = "meta" if norm.weight.is_meta else "cpu"  # not every device has float64
    scale, shift = (x.detach().to(place).double() for x in (norm.weight.abs(), norm.bias))
    ratio = shift / scale
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-ratio)
    return torch.where(negative > HARDLY, shift - scale * density / negative, -3 * scale).float().to(norm.weight.device)


def tells(norm: nn.Module) -> bool:
    """Whether a norm tells its margin: a BatchNorm with scale and shift."""
    return isinstance(norm, _BatchNorm) and norm.weight is not None and norm.bias is not None


def closed(norms: nn.Module | Sequence[nn.Module] | None) -> Tensor | None:
    """The margin of the map behind a norm, or of several maps in a row, [channels]; None where it must be measured.

    norms: as in Backbone.norms.
    """
    several = norms if isinstance(norms, (list, tuple)) else [norms]
    return torch.cat([margin(each) for each in several]) if several and all(map(tells, several)) else None


def measured(batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """E[x | x < 0] of each channel of maps over all batches of them, fp32 [channels] on the CPU, one a map.

    batches: maps [batch, channels, height, width], the same ones every time. Where fewer than a thousandth of a
    channel's responses are negative, 0.
    """
    sums = None
    for maps in batches:
        found = [negatives(each) for each in maps]
        sums = found if sums is None else [one + other for one, other in zip(sums, found, strict=True)]
    return [
        torch.where(count < HARDLY * n, torch.zeros_like(total), total / count.clamp(min=1)).float()
        for total, count, n in sums
    ]


def negatives(feature: Tensor) -> Tensor:
    """fp64 [3, channels]: the sum and the number of the negative responses, and the number of all."""
    feature = feature.detach().float()
    negative = feature < 0
    total, count, others = feature.clamp(max=0).sum((0, 2, 3)), negative.sum((0, 2, 3)), (~negative).sum((0, 2, 3))
    total, count, others = (each.cpu().double() for each in (total, count, others))
    return torch.stack([total, count, count + others])
