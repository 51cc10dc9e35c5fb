"""The networks by family name; each family is a file here that names its class `Network`."""

import importlib
import inspect
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import nn

from overhaul import catalogue
from overhaul.discovery import meta_twin
from overhaul.models import heads, libraries, limits
from overhaul.models.anatomy import stages, sync_bn, unreached
from overhaul.models.backbone import Backbone, Embedded, Stages, embedding
from overhaul.models.hooked import Hooked
from overhaul.nets import FUNCTION, Net, is_foreign
from overhaul.system.messages import UserError

FAMILIES = catalogue.families()
CLASSES = "num_classes"

LARGEST = {"depth": 2000, "width": 64, "alpha": 2000, "num_classes": 1_000_000}  # beyond every published network

__all__ = [
    "FAMILIES",
    "Backbone",
    "Embedded",
    "Hooked",
    "Stages",
    "check",
    "class_layers",
    "classes_of",
    "classifier",
    "create",
    "embedding",
    "identify",
    "is_complete",
    "outline",
    "parameters",
    "stages",
    "sync_bn",
    "tensors",
    "unreached",
]


def family(name: str) -> type[Backbone]:
    if name not in FAMILIES:
        raise UserError(f"unknown network family {name!r}; the families are {', '.join(FAMILIES)}")
    return importlib.import_module(f"{__name__}.{name}").Network


def check(net: Net) -> None:
    """UserError for an unknown family, arguments that it does not take, and sizes that no network has."""
    if is_foreign(net.family):
        return
    signature = inspect.signature(family(net.family))
    try:
        signature.bind(**net.kwargs)
    except TypeError as error:
        raise UserError(f"{net.family} takes {', '.join(signature.parameters)}: {error}") from None
    for name, value in net.kwargs.items():
        wanted = signature.parameters[name].annotation
        if type(value) is not wanted or value < (name == "num_classes"):
            kind = "switch" if wanted is bool else "whole number"
            raise UserError(f"{net.family}: {name} must be a {kind}, not {str(value)[:80]!r}")
        if value > LARGEST.get(name, 10_000):
            raise UserError(f"{net.family}: {name} must be at most {LARGEST.get(name, 10_000)}")


def is_complete(net: Net) -> bool:
    """Whether all of a family's arguments that have no default, but the number of classes, are named."""
    if is_foreign(net.family):
        return True
    taken = inspect.signature(family(net.family)).parameters.values()
    return {each.name for each in taken if each.default is each.empty} <= {*net.kwargs, CLASSES}


def create(net: Net | str, image_size: int = 224, **kwargs) -> Backbone:
    """A network with fresh weights, from a setups.Net or from a family name and its arguments.

    image_size: side in pixels of the images that a network which is not ours is looked through with, for its features.
    Raises UserError for an unknown family, arguments the family does not take, or sizes it cannot have.
    """
    if isinstance(net, str):
        net = Net(family=net)
    net = replace(net, kwargs={**net.kwargs, **kwargs})
    check(net)
    foreign = is_foreign(net.family)
    network = libraries.make(net.family, net.kwargs) if foreign else family(net.family)(**net.kwargs)
    return Hooked(network, image_size, net.positions) if foreign or net.positions else network


def outline(net: Net, image_size: int = 224, limited: bool = False) -> Backbone:
    """The network without values, on the meta device, where its tensors have shapes and cost nothing.

    image_size: see create. A function of a file that cannot run there is made for real first. limited: of a net that a
    file of others names; UserError for one that is too large, before it is made.
    """
    said, budget = None, limits.Budget()
    for hollow in (False, True):
        place = torch.device("cpu" if hollow else "meta")
        try:
            with (
                budget if limited else nullcontext(),
                limits.Unfilled(),
                place,
                limits.Hollow() if hollow else nullcontext(),
            ):
                network = create(net, image_size)
        except UserError as error:
            said = said or error
            if budget.spent:
                break
        else:
            return meta_twin(network) if hollow else network
    if not FUNCTION.fullmatch(net.family):
        raise said
    return meta_twin(create(net, image_size))


def parameters(network: Net | nn.Module) -> int:
    """How many numbers a network has to learn."""
    module = outline(network) if isinstance(network, Net) else network
    return sum(each.numel() for each in module.parameters())


def classifier(net: Net) -> str:
    """The name of a net's last layer, which gives the logits."""
    return heads_of(net)[1]


def class_layers(net: Net) -> tuple[str, ...]:
    """The names of all layers whose size is the number of classes: the last one, and those of auxiliary heads.

    Of a function that takes no num_classes: the last one.
    """
    return heads_of(net)[0]


def classes_of(net: Net) -> int:
    """How many logits a net gives: as many as it is asked for, or, of a function that takes no number, its own."""
    found = heads_of(net)[2]
    return net.kwargs[CLASSES] if found is None else found


def heads_of(net: Net) -> tuple[tuple[str, ...], str, int | None]:
    return found_heads(*key_of(replace(net, kwargs=net.arguments)))


def tensors(net: Net) -> Mapping[str, torch.Tensor]:
    """The state of a net without values, on the meta device; it is for all that ask."""
    return found_tensors(*key_of(net))


def key_of(net: Net) -> tuple[str, str, float]:
    """What tells a network from others, its user's file having changed among it."""
    match = FUNCTION.fullmatch(net.family)
    file = match and Path(match[1]).expanduser()
    return net.family, json.dumps(net.kwargs), file.stat().st_mtime if file and file.is_file() else 0.0


@lru_cache(maxsize=32)
def found_tensors(family: str, kwargs: str, changed: float) -> Mapping[str, torch.Tensor]:
    return outline(Net(family=family, kwargs=json.loads(kwargs))).state_dict()


@cache
def found_heads(family: str, kwargs: str, changed: float) -> tuple[tuple[str, ...], str, int | None]:
    few, more = (Net(family=family, kwargs={**json.loads(kwargs), CLASSES: n}) for n in (3, 5))
    layers = heads.that_follow(tensors(few), tensors(more))
    if not layers and is_foreign(family):
        last, number = heads.logits(outline(few).bare)
        return (last,), last, number
    if not all(layers) or not layers:
        raise UserError(f"{family}: one layer must have the size of num_classes, the last one; here none has")
    return layers, layers[0] if len(layers) == 1 else heads.last_of(outline(few).bare, layers), None


def identify(state: Mapping) -> Net | None:
    """The Net whose weights a state dict (name -> tensor) looks like, or None."""
    for name in FAMILIES:
        try:
            kwargs = family(name).recognise(state)
            if kwargs is not None:
                last = classifier(Net(family=name, kwargs=kwargs))
                return Net(family=name, kwargs={**kwargs, "num_classes": state[f"{last}.weight"].shape[0]})
        except (KeyError, IndexError, ValueError):
            continue
    return None
