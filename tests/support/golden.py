"""The inputs of the golden values, made from names alone: weights by parameter name, images and labels by seed."""

import math
import zlib

import numpy as np
import torch


def tensor(name: str, shape, salt: int) -> torch.Tensor:
    """Philox-keyed by the name; every 17th BatchNorm scale is negative and every 23rd small."""
    draw = np.random.Generator(np.random.Philox(key=(zlib.crc32(name.encode()) << 8) + salt))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    normal = draw.standard_normal(shape)
    if leaf == "running_mean":
        value = 0.1 * normal
    elif leaf == "running_var":
        value = 0.5 + draw.random(shape)
    elif len(shape) == 4:
        value = normal * math.sqrt(2.0 / (shape[0] * shape[2] * shape[3]))
    elif len(shape) == 2:
        value = 0.05 * normal
    elif leaf == "weight":
        value = 0.5 + draw.random(shape)
        value[::17] *= -1
        value[5::23] *= 0.1
    else:
        value = 0.3 * normal
    return torch.from_numpy(value.astype(np.float32))


def state(shapes: dict, salt: int) -> dict[str, torch.Tensor]:
    """shapes: name -> shape. salt: 1 teacher, 2 student, 10 + i connector i."""
    return {name: tensor(name, tuple(shape), salt) for name, shape in shapes.items()}


def batch(n: int, side: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.Generator(np.random.Philox(key=7))
    images = draw.standard_normal((n, 3, side, side)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(draw.integers(0, classes, n))
