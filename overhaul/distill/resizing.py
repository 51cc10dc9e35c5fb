"""A student's map in the size of its teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resized(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """A map [batch, channels, height, width] of that height and width: each side averaged down, or bilinear up.

    Under torch.use_deterministic_algorithms two products of matrices do the same, as their gradient is deterministic on
    every device.
    """
    height, width = feature.shape[-2:]
    if (height, width) == tuple(size):
        return feature
    if torch.are_deterministic_algorithms_enabled():
        return by_products(feature, size)
    smaller = min(height, size[0]), min(width, size[1])
    if smaller != (height, width):
        feature = F.adaptive_avg_pool2d(feature, smaller)
    if smaller == tuple(size):
        return feature
    return F.interpolate(feature, tuple(size), mode="bilinear", align_corners=False)


def by_products(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """rows @ feature @ columns, in fp32 or fp64, given back in the feature's precision and layout."""
    exact = torch.promote_types(feature.dtype, torch.float32)
    in_rows = feature.is_contiguous(memory_format=torch.channels_last)
    rows, columns = (
        weights(old, new, exact, feature.device) for old, new in zip(feature.shape[-2:], size, strict=True)
    )
    with torch.autocast(feature.device.type, enabled=False):
        result = (rows @ feature.to(exact) @ columns.T).to(feature.dtype)
    return result.contiguous(memory_format=torch.channels_last) if in_rows else result


def weights(old: int, new: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[new, old]: the share of each old row in each new one."""
    rows = torch.eye(old, dtype=dtype, device=device)[None]
    if new > old:
        return F.interpolate(rows, new, mode="linear", align_corners=False)[0].T
    return F.adaptive_avg_pool1d(rows, new)[0].T
