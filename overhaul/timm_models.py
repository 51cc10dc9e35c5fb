"""Our networks in timm's registry, once this optional room is imported: overhaul_wrn_28_4, overhaul_mobilenet, ...

timm's create_model and transformers' AutoModelForImageClassification then load the students of our families from
their folders and repositories, which name the family: overhaul_wide_resnet with a depth and a width. ResNets need
nothing of this: timm has them under the same names.
"""

from contextlib import nullcontext
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import models, timm_torchvision
from overhaul.hub.config import images_entry
from overhaul.recipe import Net, Setup
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ModuleNotFoundError:
    raise ImportError("overhaul.timm_models needs timm: pip install timm") from None

FIXED = {"in_chans": 3, "drop_path_rate": 0.0}  # timm's options, of which ours have one value
SIDE = 64  # pixels of the images with which a network's features are looked at


class Family(NamedTuple):
    """name: of its networks. features: how many. stride: of the last of them. first_conv: the layer's name."""

    name: str
    features: int
    stride: int
    first_conv: str


OURS = {
    "wide_resnet": Family("wrn_{depth}_{width}", 3, 4, "conv1"),
    "cifar_resnet": Family("resnet{depth}_cifar", 3, 4, "conv1"),
    "pyramidnet": Family("pyramidnet_{depth}", 3, 4, "conv1"),
    "mobilenet": Family("mobilenet", 4, 32, "model.0.0"),
}


class Unfit(UserError, TypeError):
    """An argument that no such network takes: to timm a TypeError."""


class Classifier:
    """What timm expects of a network, put before a family's Network among a class's bases; the tensors' names stay.

    Raises UserError for an option of timm's that the networks do not have, and for arguments that do not fit.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
        **kwargs,
    ) -> None:
        for option, only in FIXED.items():
            if (value := kwargs.pop(option, only)) != only:
                self.refuse(option, value, f", only {only}")
        if not 0 <= drop_rate < 1:
            self.refuse("drop_rate", drop_rate, ": it is in 0..1")
        kwargs["num_classes"] = num_classes or 1  # reset_classifier takes the layer away where there are no classes
        net = Net(family=self.family, kwargs=kwargs)
        try:
            models.check(net)
        except UserError as error:
            raise Unfit(str(error)) from None
        with torch.device(device) if device else nullcontext():
            super().__init__(**kwargs)
        self.to(dtype=dtype)
        self.arguments, self.drop_rate, self.in_chans = tuple(sorted(kwargs.items())), drop_rate, 3
        self.classifier_name = models.classifier(net)
        last = self.get_classifier()  # linear, or a 1x1 convolution
        self.num_features = self.head_hidden_size = getattr(last, "in_features", None) or last.in_channels
        self.take(last if num_classes else nn.Identity(), num_classes, global_pool)

    def refuse(self, option: str, value: object, why: str = "") -> None:
        raise UserError(f"overhaul_{self.family} cannot have {option}={value!r}{why}")

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

    def forward(self, images: Tensor) -> Tensor:
        """Logits, without classes the means, without global_pool the activations of forward_features."""
        stages = self.forward_stages(images)
        return stages.logits if self.global_pool else F.relu(stages.features[-1])

    def forward_features(self, images: Tensor) -> Tensor:
        """Activations [batch, num_features, height, width] of normalised images [batch, 3, height, width]."""
        return F.relu(self.forward_stages(images).features[-1])

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
        """Those features of forward_stages (before their ReLU), behind forward_features unless intermediates_only.

        indices: which of them, or how many of the last, or all. norm, stop_early: of no effect.
        """
        if output_fmt != "NCHW":
            self.refuse("output_fmt", output_fmt)
        features = self.forward_stages(images).features
        taken = [features[index] for index in counted(len(features), indices)]
        return taken if intermediates_only else (F.relu(features[-1]), taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Those indices counted from the front; the classifier goes with prune_head, the stages stay."""
        if prune_head:
            self.reset_classifier(0, "")
        return counted(len(self.feature_info), indices)

    @property
    def feature_info(self) -> list[dict]:
        """Of each feature of forward_stages: channels, stride, and the module that gives it."""
        return [dict(each) for each in taps(self.family, self.arguments)]

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A classifier with fresh weights; without classes the network gives the means [batch, num_features].

        global_pool: avg, '' for the map in place of its means (without classes), None for what it is and can be.
        """
        like = next(self.parameters())
        linear = nn.Linear(self.num_features, num_classes or 1, device=like.device, dtype=like.dtype)
        kept = "avg" if num_classes else self.global_pool
        self.take(linear if num_classes else nn.Identity(), num_classes, kept if global_pool is None else global_pool)


def counted(number: int, indices: int | list[int] | None) -> list[int]:
    """Which of so many: those indices, counted from the front, or so many of the last, or all."""
    every = range(number)
    return [every[index] for index in indices] if isinstance(indices, (list, tuple)) else [*every[-(indices or 0) :]]


def drop(rate: float, last: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Dropout before a last layer."""
    return F.dropout(inputs[0], rate, last.training)


@cache
def taps(family: str, kwargs: tuple) -> list[dict]:
    """The feature_info of a network, seen on the meta device; module is None where no module gives the very map."""
    network, given = models.outline(Net(family=family, kwargs=dict(kwargs))), []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, inputs, out, name=name: given.append((name, out)))
    features = network.forward_stages(torch.empty(2, 3, SIDE, SIDE, device="meta")).features
    modules = [[name for name, out in given if out is feature] for feature in features]
    return [
        {
            "num_chs": feature.shape[1],
            "reduction": round(SIDE / feature.shape[-1]),
            "module": names[-1] if names else None,
        }
        for feature, names in zip(features, modules, strict=True)
    ]


def named() -> dict[str, Setup]:
    """The first setup with each network of the four families, by the network's name, and by its family's."""
    found = {}
    for row in SETUPS.values():
        net = row.student
        if net.family in OURS:
            for name in (net.family, OURS[net.family].name.format(**net.kwargs)):
                found.setdefault(f"overhaul_{name}", row)
    return found


def default_cfg(row: Setup) -> dict:
    """timm's description of the images and classes of a setup's student."""
    family = OURS[row.student.family]
    images = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in images_entry(row.preprocessing).items()
    }
    return {
        **images,
        "test_input_size": images["input_size"],
        "pool_size": 2 * (row.image_size // family.stride,),
        "num_classes": row.student.kwargs["num_classes"],
        "classifier": "fc",
        "first_conv": family.first_conv,
        "license": "mit",
        "paper_ids": "arXiv:1904.01866",
    }


def register(name: str, family: str, **usual) -> None:
    """A network of a family by name. usual: its arguments, where no others are given."""
    kind = f"overhaul_{family}"
    if kind not in globals():  # where pickle looks for a class
        globals()[kind] = type(kind, (Classifier, models.family(family)), {"family": family, "__module__": __name__})
    network = globals()[kind]

    def create(pretrained: bool = False, **kwargs):
        features = {"feature_cls": "getter", "out_indices": OURS[family].features if family in OURS else None}
        kwargs["feature_cfg"] = {**features, **kwargs.get("feature_cfg", {})}
        return build_model_with_cfg(network, name, pretrained, **{**usual, **kwargs})

    create.__name__ = name
    register_model(create)


NAMED = named()
default_cfgs = generate_default_cfgs({name: default_cfg(row) for name, row in NAMED.items()})
for name, row in NAMED.items():
    register(
        name, row.student.family, **{key: each for key, each in row.student.kwargs.items() if key != "num_classes"}
    )
for family in {*models.FAMILIES} - {*OURS, "resnet"}:
    register(f"overhaul_{family}", family)
timm_torchvision.register()
