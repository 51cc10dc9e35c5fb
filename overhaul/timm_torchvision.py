"""torchvision's networks in timm's registry, under one name: overhaul_torchvision, with name="mobilenet_v2" and so on.

The network is torchvision's own, under its own names; only what timm asks of a classifier is put beside it.
"""

from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor, nn

from overhaul import models
from overhaul.discovery import logits_of
from overhaul.models.libraries import from_torchvision
from overhaul.models.limits import Hollow
from overhaul.recipe import Net
from overhaul.system.messages import UserError

FIXED = {"in_chans": 3, "global_pool": "avg", "drop_rate": 0.0, "drop_path_rate": 0.0}  # timm's, which are not theirs


class Classifier:
    """What timm expects of a network, put before a class of torchvision's."""

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A classifier with fresh weights; without classes the network gives what goes into it."""
        if global_pool not in (None, "avg"):
            refuse("global_pool", global_pool)
        last, new = self.get_classifier(), nn.Identity()
        if num_classes and isinstance(last, nn.Conv2d):
            new = nn.Conv2d(last.in_channels, num_classes, last.kernel_size)
        elif num_classes:
            new = nn.Linear(self.num_features, num_classes)
        self.num_classes = num_classes
        self.set_submodule(self.classifier_name, new.to(next(self.parameters())))

    def _load_from_state_dict(self, state: dict, prefix: str, metadata: dict, *more) -> None:
        """MNASNet asks a state for its version, which a safetensors file has no place for."""
        super()._load_from_state_dict(state, prefix, {"version": self._version, **metadata}, *more)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of normalised images [batch, 3, height, width]."""
        return logits_of(super().forward(images))


@cache
def class_of(theirs: type) -> type:
    return type(f"Timm{theirs.__name__}", (Classifier, theirs), {})


def refuse(option: str, value: object) -> None:
    raise UserError(f"overhaul_torchvision cannot have {option}={value!r}")


def make(name: str | None = None, num_classes: int = 1000, **kwargs) -> nn.Module:
    """A network of torchvision as timm wants it; UserError for one that there is not, and for timm's own options."""
    for option, only in FIXED.items():
        if (value := kwargs.pop(option, only)) != only:
            refuse(option, value)
    if not isinstance(name, str):
        raise UserError("overhaul_torchvision needs the name of a network of torchvision: name='mobilenet_v2'")
    classes = num_classes or 1  # reset_classifier takes the layer away where there are no classes
    valueless = torch.empty(0).is_meta  # as transformers makes networks; RegNet computes with tensors meanwhile
    with torch.device("cpu") if valueless else nullcontext(), Hollow() if valueless else nullcontext():
        network = from_torchvision(name, {**kwargs, "num_classes": classes})
    network.__class__ = class_of(type(network))
    network.classifier_name = models.classifier(Net(family=f"torchvision:{name}", kwargs=kwargs))
    network.num_classes, last = classes, network.get_classifier()
    network.num_features = network.head_hidden_size = getattr(last, "in_features", None) or last.in_channels
    if not num_classes:
        network.reset_classifier(0)
    return network


def register() -> None:
    """Make it known to timm."""
    from timm.models import build_model_with_cfg, register_model

    def overhaul_torchvision(pretrained: bool = False, features_only: bool = False, **kwargs):
        if features_only:
            refuse("features_only", features_only)
        return build_model_with_cfg(make, "overhaul_torchvision", pretrained, **kwargs)

    overhaul_torchvision.__module__ = __name__
    register_model(overhaul_torchvision)
