"""torchvision's networks in timm's registry, under one name: overhaul_torchvision, with name="mobilenet_v2" and so on.

The network is torchvision's own, under its own names; only what timm asks of a classifier is put beside it.
"""

from contextlib import nullcontext
from functools import cache

import torch
from torch import Tensor, nn

from overhaul import models
from overhaul.discovery import Feature
from overhaul.models.libraries import from_torchvision
from overhaul.models.limits import Hollow
from overhaul.recipe import Net
from overhaul.system.messages import UserError
from overhaul.timm_classifier import Classifier, Unfit

USUAL = "resnet18"  # where no name is given
DEFAULT_CFG = {  # of that
    "input_size": (3, 224, 224),
    "test_input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "num_classes": 1000,
    "classifier": "fc",
    "first_conv": "conv1",
}


class Theirs(Classifier):
    """Put before a class of torchvision's. The maps before their pooling are those of networks with avgpool and fc.

    unlike_default: entries of the network's pretrained_cfg that are not as in DEFAULT_CFG.
    """

    family = "torchvision"
    unlike_default: dict

    def take(self, last: nn.Module, num_classes: int, global_pool: str) -> None:
        if not global_pool:
            self.pool()
        super().take(last, num_classes, global_pool)

    def pool(self) -> nn.Module:
        """What takes the means; UserError for a network whose classifier is not of the means alone."""
        pool = getattr(self, "avgpool", None)
        if not isinstance(pool, nn.AdaptiveAvgPool2d) or self.classifier_name != "fc":
            raise UserError(
                f"{type(self).__name__} of torchvision has more than means and fc behind its last map: ask it for "
                f"logits, for features (features_only=True) or, with num_classes=0, for what its last layer gets"
            )
        return pool

    def forward(self, images: Tensor) -> Tensor:
        """Logits, without classes what goes into their layer, without global_pool what forward_features gives."""
        if not self.global_pool:
            return self.forward_features(images)
        out = super().forward(images)
        return out[0] if isinstance(out, tuple) else out  # behind the logits are those of auxiliary heads

    def forward_stages(self, images: Tensor) -> models.Stages:
        self.find()
        kept, self.global_pool = self.global_pool, "avg"
        try:
            return self.hooked.forward_stages(images)
        finally:
            self.global_pool = kept

    def find(self) -> list[Feature]:
        """The features, looked for once, with a last layer: a map that leads to none ends no stage."""
        if self.hooked.found is None:
            last, kept, self.global_pool = self.get_classifier(), self.global_pool, "avg"
            try:
                if isinstance(last, nn.Identity):
                    self.set_submodule(self.classifier_name, self.layer(1, "meta"))
                self.hooked.attach()
            finally:
                self.set_submodule(self.classifier_name, last)
                self.global_pool = kept
        return self.hooked.features

    def forward_maps(self, images: Tensor) -> tuple[models.Stages, Tensor]:
        seen = []
        hook = self.pool().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            return self.forward_stages(images), seen[-1]  # before it may be the map of the pass that finds the features
        finally:
            hook.remove()

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        self.pool()
        return super().forward_head(features, pre_logits)

    @property
    def feature_info(self) -> list[dict]:
        """Of each feature of forward_stages: channels, stride, and the place that gives it."""
        return [{"num_chs": each.channels, "reduction": each.stride, "module": each.name} for each in self.find()]

    def _load_from_state_dict(self, state: dict, prefix: str, metadata: dict, *more) -> None:
        """MNASNet asks a state for its version, which a safetensors file has no place for."""
        super()._load_from_state_dict(state, prefix, {"version": self._version, **metadata}, *more)


@cache
def class_of(theirs: type) -> type:
    return type(theirs.__name__, (Theirs, theirs), {})


def make(
    name: str = USUAL,
    num_classes: int = 1000,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    device=None,
    dtype=None,
    **kwargs,
) -> nn.Module:
    """A network of torchvision as timm wants it; UserError for one that there is not, and for options it lacks."""
    kwargs = Theirs.own(kwargs)
    if not isinstance(name, str):
        Theirs.refuse("name", name, ": say that of a network of torchvision, such as 'mobilenet_v2'")
    valueless = device is None and torch.empty(0).is_meta  # as transformers makes networks; RegNet computes meanwhile
    place = torch.device("cpu" if valueless else device) if valueless or device else nullcontext()
    try:
        with place, Hollow() if valueless else nullcontext():
            network = from_torchvision(name, {**kwargs, "num_classes": num_classes or 1})
    except UserError as error:
        raise Unfit(str(error)) from None
    network.__class__ = class_of(type(network))
    network.__dict__["hooked"] = models.Hooked(network, 224)  # beside the modules, of which it is none
    network.settle(Net(family=f"torchvision:{name}", kwargs=kwargs), num_classes, global_pool, drop_rate)
    first = next((each for each, module in network.named_modules() if isinstance(module, nn.Conv2d)), None)
    told = {"classifier": network.classifier_name, "first_conv": first, "pool_size": None}
    network.unlike_default = {} if name == USUAL else told
    return network.to(dtype=dtype)
