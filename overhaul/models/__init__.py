"""The networks by family name; each family is a file here that names its class `Network`."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping

import torch

from overhaul.models.backbone import Backbone, Stages
from overhaul.setups import Net

FAMILIES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "backbone"))

__all__ = ["FAMILIES", "Backbone", "Stages", "create", "identify"]


def family(name: str) -> type[Backbone]:
    if name not in FAMILIES:
        raise ValueError(f"unknown network family {name!r}; the families are {', '.join(FAMILIES)}")
    return importlib.import_module(f"{__name__}.{name}").Network


def create(net: Net | str, **kwargs) -> Backbone:
    """A network with fresh weights, from a setups.Net or from a family name and its arguments.

    Raises ValueError for an unknown family, arguments the family does not take, or sizes it cannot have.
    """
    if isinstance(net, Net):
        net, kwargs = net.family, {**net.kwargs, **kwargs}
    network = family(net)
    signature = inspect.signature(network)
    try:
        signature.bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"{net} takes {', '.join(signature.parameters)}: {error}") from None
    for name, value in kwargs.items():
        wanted = signature.parameters[name].annotation
        if type(value) is not wanted or value < 0 or (name == "num_classes" and value < 1):
            raise ValueError(f"{net}: {name} must be a {'switch' if wanted is bool else 'whole number'}, not {value!r}")
    return network(**kwargs)


def identify(state: Mapping) -> Net | None:
    """The Net whose weights a state dict (name -> tensor) looks like, or None."""
    for name in FAMILIES:
        try:
            kwargs = family(name).recognise(state)
            if kwargs is not None:
                net = Net(family=name, kwargs={**kwargs, "num_classes": state["fc.weight"].shape[0]})
                with torch.device("meta"):
                    create(net)
                return net
        except (KeyError, IndexError, ValueError):
            continue
    return None
