"""Weights of libraries under the names that their networks have today."""

import logging
import re
from collections.abc import Mapping

from torch import Tensor

from overhaul import models
from overhaul.hub.entries import CLASSES, library_of
from overhaul.recipe import Net

DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")  # in the files of torchvision


def converted(net: Net, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state as the library itself would name it for the net; as it is where that cannot be."""
    renamed = {DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    return (library_of(net.family) == "timm" and by_timm(net, renamed)) or renamed


def by_timm(net: Net, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """What timm makes of a state for one of its networks, strictly; None where it does not fit.

    Its names have changed over the years, and each of its networks knows the former ones. Nothing is downloaded, and
    nothing is made for a state that is much smaller than the network.
    """
    if 2 * bytes_in(state) < bytes_in(models.tensors(net)):
        return None
    classes, level = net.kwargs[CLASSES], logging.root.manager.disable
    weights = {"state_dict": dict(state), CLASSES: classes, "custom_load": False, "source": None}
    logging.disable(logging.WARNING)
    try:
        import timm

        network = timm.create_model(
            net.family.partition(":")[2],
            pretrained=True,
            pretrained_cfg_overlay=weights,
            num_classes=classes,
            **net.arguments,
        )
    except Exception:  # tensors of others may fail anywhere in it
        return None
    finally:
        logging.disable(level)
    return network.state_dict()


def bytes_in(state: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in state.values())
