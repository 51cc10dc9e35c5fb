"""The contract every network of the package keeps: logits for everybody, pre-ReLU feature maps for distillation."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.system.messages import UserError


class Stages(NamedTuple):
    """What one pass through a network yields.

    logits: [batch, num_classes]. features: one [batch, channels, height, width] map a stage, shallow to deep, each
    taken before the ReLU that ends its stage.
    """

    logits: Tensor
    features: list[Tensor]


class Embedded(NamedTuple):
    """Stages, and what the classifier gets: [batch, channels], averaged over its positions."""

    logits: Tensor
    features: list[Tensor]
    embedding: Tensor


def embedding(stages: Stages | Embedded) -> Tensor:
    """What the classifier gets, [batch, channels]: the last map after its ReLU, averaged, where it is not given."""
    return stages.embedding if isinstance(stages, Embedded) else F.relu(stages.features[-1]).mean((2, 3))


class Backbone(nn.Module):
    """A classifier that also gives the feature maps before each stage's last activation."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of normalised images [batch, 3, height, width]."""
        return self.forward_stages(images).logits

    def forward_stages(self, images: Tensor) -> Stages:
        """Logits and feature maps of normalised images, in one pass in which no layer runs twice."""
        raise NotImplementedError

    def forward_embedded(self, images: Tensor) -> Embedded:
        """The same pass, which also gives what the classifier gets."""
        stages = self.forward_stages(images)
        return Embedded(*stages, embedding(stages))

    @property
    def norms(self) -> list:
        """The norm behind each feature, whose scale and shift give the margin.

        A list of norms where the feature is the concatenation of what they give; None where no norm tells the margin.
        """
        raise NotImplementedError

    @property
    def widths(self) -> list[int]:
        """The channels of each feature."""
        return [channels(norm) for norm in self.norms]

    @property
    def embedding_width(self) -> int:
        """The channels of what the classifier gets."""
        return self.widths[-1]

    @property
    def bare(self) -> nn.Module:
        """The plain network, without anything of ours around it."""
        return self

    @staticmethod
    def recognise(state: Mapping) -> dict | None:
        """The arguments of the family's network that a state dict looks like (num_classes apart), or None.

        May raise KeyError for a state dict of another family. A family without it takes weights from folders only, or
        from files whose net is named.
        """
        return None


def channels(norm: nn.Module) -> int:
    """Of the map behind a norm."""
    found = getattr(norm, "num_features", None) or getattr(norm, "num_channels", None)
    if not found and getattr(norm, "weight", None) is None:
        raise UserError(f"the channels behind a {type(norm).__name__} cannot be told: it has no scale")
    return found or norm.weight.numel()


def count_blocks(state: Mapping, stage: str) -> int:
    """How many blocks a stage has in a state dict: the distinct numbers behind its name."""
    return len({name.removeprefix(stage).split(".")[0] for name in state if name.startswith(stage)})


def init_weights(net: nn.Module) -> None:
    """Convolutions N(0, sqrt(2 / (k * k * out))), BatchNorm scale 1 and shift 0; PyTorch's defaults elsewhere."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (height * width * module.out_channels)))
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
