"""What timm asks of each of its classifiers, shared by our families and by torchvision's networks."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import models
from overhaul.recipe import Net
from overhaul.system.messages import UserError

FIXED = {"in_chans": 3, "drop_path_rate": 0.0}  # timm's options, of which such networks have one value


class Unfit(UserError, TypeError):
    """An argument that no such network takes: to timm a TypeError."""


class Classifier:
    """Put before a network's class among the bases of one that timm can use; the tensors' names stay.

    That class has: family, its name here; forward_stages; forward_maps(images), the Stages and of the same pass the
    activations [batch, num_features, height, width] whose means go into the classifier; feature_info.
    """

    @classmethod
    def refuse(cls, option: str, value: object, why: str = "") -> None:
        raise UserError(f"overhaul_{cls.family} cannot have {option}={value!r}{why}")

    @classmethod
    def own(cls, options: dict) -> dict:
        """The options without those of timm that have one value; UserError where they have another."""
        for option, only in FIXED.items():
            if options.get(option, only) != only:
                cls.refuse(option, options[option], f", only {only}")
        return {option: value for option, value in options.items() if option not in FIXED}

    def settle(self, net: Net, num_classes: int, global_pool: str, drop_rate: float) -> None:
        """Note what timm asks for, and exchange the last layer where it is to be another. net: what this network is."""
        if not 0 <= drop_rate < 1:
            self.refuse("drop_rate", drop_rate, ": it is in 0..1")
        self.drop_rate, self.in_chans, self.classifier_name = drop_rate, 3, models.classifier(net)
        last = self.get_classifier()  # linear, or a 1x1 convolution
        self.is_linear = isinstance(last, nn.Linear)
        self.num_features = self.head_hidden_size = last.in_features if self.is_linear else last.in_channels
        self.take(last if num_classes else nn.Identity(), num_classes, global_pool)

    def take(self, last: nn.Module, num_classes: int, global_pool: str) -> None:
        """A last layer, and what is done before it."""
        if global_pool not in ("avg", ""):
            self.refuse("global_pool", global_pool, ": it is avg, or '' for a map")
        if num_classes and not global_pool:
            self.refuse("global_pool", global_pool, f" and num_classes={num_classes}: a classifier needs the means")
        self.num_classes, self.global_pool = num_classes, global_pool
        if self.drop_rate:
            last.register_forward_pre_hook(partial(drop, self.drop_rate))
        self.set_submodule(self.classifier_name, last.train(self.training))

    def forward_features(self, images: Tensor) -> Tensor:
        """Activations [batch, num_features, height, width] of normalised images [batch, 3, height, width]."""
        return self.forward_maps(images)[1]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [batch, num_classes] of those activations, or with pre_logits their means [batch, num_features]."""
        pooled = features.mean((2, 3)) if self.global_pool else features
        return F.dropout(pooled, self.drop_rate, self.training) if pre_logits else self.get_classifier()(pooled)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Those features of forward_stages (before activation), behind forward_features unless intermediates_only.

        indices: which of them, or how many of the last, or all. norm, stop_early: of no effect.
        """
        if output_fmt != "NCHW":
            self.refuse("output_fmt", output_fmt)
        stages, last = (self.forward_stages(images), None) if intermediates_only else self.forward_maps(images)
        taken = [stages.features[index] for index in counted(len(stages.features), indices)]
        return taken if intermediates_only else (last, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Those indices counted from the front; the classifier goes with prune_head, the stages stay."""
        if prune_head:
            self.reset_classifier(0)
        return counted(len(self.feature_info), indices)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A classifier with fresh weights; without classes the network gives the means [batch, num_features].

        global_pool: avg, '' for the map in place of its means (without classes), None for what it is and can be.
        """
        kept = "avg" if num_classes else self.global_pool
        last = self.layer(num_classes, next(self.parameters()).device) if num_classes else nn.Identity()
        self.take(last, num_classes, kept if global_pool is None else global_pool)

    def layer(self, num_classes: int, device: torch.device | str) -> nn.Module:
        """A last layer with fresh weights."""
        kind = nn.Linear if self.is_linear else partial(nn.Conv2d, kernel_size=1)
        return kind(self.num_features, num_classes, device=device, dtype=next(self.parameters()).dtype)


def counted(number: int, indices: int | list[int] | None) -> list[int]:
    """Which of so many: those indices, counted from the front, or so many of the last, or all."""
    every = range(number)
    return [every[index] for index in indices] if isinstance(indices, (list, tuple)) else [*every[-(indices or 0) :]]


def drop(rate: float, last: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Dropout before a last layer."""
    return F.dropout(inputs[0], rate, last.training)
