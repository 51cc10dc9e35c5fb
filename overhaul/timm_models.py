"""Our networks in timm's registry, once this optional room is imported: overhaul_wrn_28_4, overhaul_mobilenet, ...

timm's create_model and transformers' AutoModelForImageClassification then load the students of our families from
their folders and repositories, which name the family: overhaul_wide_resnet with a depth and a width. ResNets need
nothing of this: timm has them under the same names.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import models, timm_torchvision
from overhaul.hub.config import images_entry
from overhaul.hub.entries import NAMED, TORCHVISION
from overhaul.recipe import Net, Setup
from overhaul.system.messages import UserError
from overhaul.timm_classifier import Classifier, Unfit

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ModuleNotFoundError:
    raise ImportError("overhaul.timm_models needs timm: pip install timm") from None

SIDE = 64  # pixels of the images with which a network's features are looked at


class Family(NamedTuple):
    """features: how many. stride: of the last of them. first_conv: the layer's name."""

    features: int
    stride: int
    first_conv: str


OURS = {
    "wide_resnet": Family(3, 4, "conv1"),
    "cifar_resnet": Family(3, 4, "conv1"),
    "pyramidnet": Family(3, 4, "conv1"),
    "mobilenet": Family(4, 32, "model.0.0"),
}


class Ours(Classifier):
    """Put before a family's Network.

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
        # settle takes the layer away where there are no classes
        net = Net(family=self.family, kwargs={**self.own(kwargs), "num_classes": num_classes or 1})
        try:
            models.check(net)
        except UserError as error:
            raise Unfit(str(error)) from None
        with torch.device(device) if device else nullcontext():
            super().__init__(**net.kwargs)
        self.arguments = tuple(sorted(net.kwargs.items()))
        self.settle(net, num_classes, global_pool, drop_rate)
        self.to(dtype=dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, without classes the means, without global_pool the activations of forward_features."""
        return self.forward_stages(images).logits if self.global_pool else self.forward_features(images)

    def forward_maps(self, images: Tensor) -> tuple[models.Stages, Tensor]:
        stages = self.forward_stages(images)
        return stages, F.relu(stages.features[-1])

    @property
    def feature_info(self) -> list[dict]:
        """Of each feature of forward_stages: channels, stride, and the module that gives it."""
        return [dict(each) for each in taps(self.family, self.arguments)]


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


def register(name: str, network: Callable[..., nn.Module], features: int | None = None, **usual) -> None:
    """What makes a network, by name. features: how many it has. usual: its arguments, where no others are given."""

    def create(pretrained: bool = False, **kwargs):
        if features is None and kwargs.get("feature_cls", "getter") != "getter":
            raise UserError(f"{name} gives its features by feature_cls='getter' alone, not {kwargs['feature_cls']!r}")
        kwargs["feature_cfg"] = {"feature_cls": "getter", "out_indices": features, **kwargs.get("feature_cfg", {})}
        made = build_model_with_cfg(network, name, pretrained, **{**usual, **kwargs})
        if not kwargs.get("pretrained_cfg"):
            made.pretrained_cfg.update(getattr(made, "unlike_default", {}))
        return made

    create.__name__ = name
    register_model(create)


def class_of(family: str) -> type:
    """The networks of a family, with what timm asks for."""
    kind = f"overhaul_{family}"
    if kind not in globals():  # where pickle looks for a class
        globals()[kind] = type(kind, (Ours, models.family(family)), {"family": family, "__module__": __name__})
    return globals()[kind]


default_cfgs = generate_default_cfgs(
    {name: default_cfg(row) for name, row in NAMED.items()} | {TORCHVISION: timm_torchvision.DEFAULT_CFG}
)
for name, row in NAMED.items():
    arguments = row.student.arguments
    register(name, class_of(row.student.family), OURS[row.student.family].features, **arguments)
for family in {*models.FAMILIES} - {*OURS, "resnet"}:
    register(f"overhaul_{family}", class_of(family))
register(TORCHVISION, timm_torchvision.make)
