"""Our families in timm's registry, once this optional room is imported: overhaul_wide_resnet, overhaul_mobilenet, ...

timm's create_model and transformers' AutoModelForImageClassification then load the students of these families from
their folders and repositories. ResNets need nothing of this: timm has them under the same names.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import models, timm_torchvision
from overhaul.hub.config import student_config
from overhaul.recipe import Net
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

try:
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
except ModuleNotFoundError:
    raise ImportError("overhaul.timm_models needs timm: pip install timm") from None

FIXED = {"in_chans": 3, "global_pool": "avg", "drop_rate": 0.0, "drop_path_rate": 0.0}  # timm's, which are not ours


class Classifier:
    """What timm expects of a network, put before a family's Network among a class's bases; the tensors' names stay.

    Raises UserError for an option of timm's that the networks do not have, and for arguments that do not fit.
    """

    def __init__(self, num_classes: int = 1000, **kwargs) -> None:
        for option, only in FIXED.items():
            if (value := kwargs.pop(option, only)) != only:
                refuse(self.family, option, value)
        kwargs["num_classes"] = num_classes or 1  # reset_classifier takes the layer away where there are no classes
        models.check(Net(family=self.family, kwargs=kwargs))
        super().__init__(**kwargs)
        self.num_classes, self.in_chans = kwargs["num_classes"], 3
        self.classifier_name = models.classifier(Net(family=self.family, kwargs=kwargs))
        last = self.get_classifier()  # linear, or a 1x1 convolution
        self.num_features = self.head_hidden_size = getattr(last, "in_features", None) or last.in_channels
        if num_classes == 0:
            self.reset_classifier(0)

    def forward_features(self, images: Tensor) -> Tensor:
        """Activations [batch, num_features, height, width] of normalised images [batch, 3, height, width]."""
        return F.relu(self.forward_stages(images).features[-1])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [batch, num_classes] of those activations, or with pre_logits their means [batch, num_features]."""
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.get_classifier()(pooled)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A classifier with fresh weights; without classes the network gives the means [batch, num_features]."""
        if global_pool not in (None, "avg"):
            refuse(self.family, "global_pool", global_pool)
        like = next(self.parameters())
        linear = nn.Linear(self.num_features, num_classes or 1, device=like.device, dtype=like.dtype)
        self.num_classes = num_classes
        self.set_submodule(self.classifier_name, linear if num_classes else nn.Identity())


def refuse(family: str, option: str, value: object) -> None:
    raise UserError(f"overhaul_{family} cannot have {option}={value!r}")


def default_cfg(family: str) -> dict:
    """timm's description of a family's images and classes: those of the first setup whose student is of the family."""
    rows = (row for row in SETUPS.values() if row.student.family == family)
    configs = (student_config(row, [""] * row.student.kwargs["num_classes"]) for row in rows)
    return next(configs, {"pretrained_cfg": {}})["pretrained_cfg"]


def register(family: str) -> None:
    name = f"overhaul_{family}"
    network = type(name, (Classifier, models.family(family)), {"family": family})

    def create(pretrained: bool = False, features_only: bool = False, **kwargs):
        if features_only:
            refuse(family, "features_only", features_only)
        return build_model_with_cfg(network, name, pretrained, **kwargs)

    create.__name__ = name
    globals()[name] = network  # where pickle looks for a class
    register_model(create)


FAMILIES = [family for family in models.FAMILIES if family != "resnet"]
default_cfgs = generate_default_cfgs({f"overhaul_{family}": default_cfg(family) for family in FAMILIES})
for family in FAMILIES:
    register(family)
timm_torchvision.register()
