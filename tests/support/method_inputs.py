"""The inputs of the methods' golden values: each tensor a function of its name and shape alone, bit for bit.

An element is the sum of 12 words of 32 bits from Philox, as integers: Irwin-Hall, of mean 6 and variance 1.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from overhaul.models import Stages

BATCH, CLASSES = 8, 10
SHAPES = {
    "student": [(BATCH, 16, 8, 8), (BATCH, 32, 4, 4), (BATCH, 64, 2, 2)],
    "teacher": [(BATCH, 24, 8, 8), (BATCH, 48, 4, 4), (BATCH, 96, 2, 2)],
}


def words(name: str, count: int) -> np.ndarray:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.Philox(key=key).random_raw(count) >> np.uint64(32)


def tensor(name: str, shape, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """fp32, near normal."""
    total = words(name, 12 * math.prod(shape)).reshape(-1, 12).astype(np.int64).sum(1)
    return torch.from_numpy((shift + scale * (total / 2.0**32 - 6.0)).astype(np.float32).reshape(shape))


def labels() -> Tensor:
    return torch.from_numpy((words("labels", BATCH) % np.uint64(CLASSES)).astype(np.int64))


def stages(role: str, dtype: torch.dtype) -> Stages:
    """What the student or the teacher gives."""
    logits = tensor(f"{role}.logits", (BATCH, CLASSES), {"student": 2.0, "teacher": 4.0}[role])
    features = [tensor(f"{role}.features.{i}", shape) for i, shape in enumerate(SHAPES[role])]
    return Stages(logits.to(dtype), [each.to(dtype) for each in features])


def weight(name: str, shape) -> Tensor:
    """A tensor of a learned part."""
    if name.endswith("norm.weight"):
        return tensor(name, shape, 0.1, 1.0)
    return tensor(name, shape, 0.1 if len(shape) == 1 else 1.0 / np.sqrt(np.float64(math.prod(shape[1:]))))


def probe(name: str, shape) -> Tensor:
    """A direction; the gradient along it sees signs and places, where its norm is blind."""
    return tensor(f"probe.{name}", shape)
