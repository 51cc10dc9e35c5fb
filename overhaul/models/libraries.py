"""The networks of timm, of torchvision and of a user's own file: made by name, with fresh weights."""

import difflib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from overhaul.discovery import meta_twin
from overhaul.models import user_files
from overhaul.nets import FUNCTION, LIBRARY, check_arguments
from overhaul.recipe import Preprocessing
from overhaul.system.messages import UserError, nearest

CLASSES = "num_classes"
ASKING = ("googlenet", "inception_v3")  # networks that warn unless init_weights is named
UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")


def make(family: str, kwargs: dict) -> nn.Module:
    """The plain network; UserError for one that there is not, or that cannot be made with these arguments."""
    if match := FUNCTION.fullmatch(family):
        return from_file(Path(match[1]), match[2], kwargs)
    check_arguments(f"{family}: kwargs", kwargs)
    library, name, _ = LIBRARY.fullmatch(family).groups()
    return (from_timm if library == "timm" else from_torchvision)(name, kwargs)


def from_timm(name: str, kwargs: dict) -> nn.Module:
    timm = timm_with(name)
    return made(f"timm:{name}", lambda: timm.create_model(name, **kwargs))


def timm_with(name: str):
    """timm, which has a network of that name."""
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(f"timm is not installed, so timm:{name} cannot be made: pip install timm") from None
    if "." in name and timm.is_model(name.partition(".")[0]):
        raise UserError(f"timm:{name} is a name of trained weights: say timm/{name}, which is on the Hub")
    if not (name.isidentifier() and timm.is_model(name)):
        raise UserError(f"timm has no network {name}{near(name, timm.list_models())}")
    return timm


def from_torchvision(name: str, kwargs: dict) -> nn.Module:
    models = torchvision_with(name)
    kwargs = {**({"init_weights": True} if name in ASKING else {}), **kwargs}
    return made(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **kwargs))


def torchvision_with(name: str):
    """torchvision's models, among which is a classifier of that name."""
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers and name in models.list_models():
        raise UserError(f"torchvision:{name} is no classifier of images{near(name, classifiers)}")
    if name not in classifiers:
        raise UserError(f"torchvision has no network {name}{near(name, classifiers)}")
    return models


def entry(source: str):
    """torchvision's trained weights that torchvision:NAME@ENTRY names, an entry of the enum of that network.

    UserError, with those that there are, for an unknown one.
    """
    _, name, which = LIBRARY.fullmatch(source).groups()
    entries = torchvision_with(name).get_model_weights(name).__members__
    there = ", ".join(entries) or "none"
    if not which:
        raise UserError(f"{source} has fresh weights; for trained ones say {source}@ENTRY, one of {there}")
    if which[1:] not in entries:
        raise UserError(f"torchvision:{name} has no weights {which[1:]}{nearest(which[1:], entries)}; it has {there}")
    return entries[which[1:]]


def images_of(name: str | None) -> Preprocessing | None:
    """How a library says that a network's images are shown; None where it does not.

    name: timm:NAME, which has a default, or torchvision:NAME@ENTRY, whose weights say it.
    """
    match = LIBRARY.fullmatch(name or "")
    library, network, which = match.groups() if match else (None, None, None)
    if library == "timm" and (told := timm_with(network).get_pretrained_cfg(network)):
        size, resize = told.input_size[-1], int(told.input_size[-1] / told.crop_pct + 1e-6)
        return Preprocessing(size, resize, tuple(told.mean), tuple(told.std), told.interpolation)
    if which:
        told = entry(name).transforms()
        how = tuple(told.mean), tuple(told.std), told.interpolation.value
        return Preprocessing(told.crop_size[0], told.resize_size[0], *how)
    return None


def from_file(file: Path, function: str, kwargs: dict) -> nn.Module:
    what, maker = f"{file}:{function}", user_files.function_of(file, function)
    try:
        taken = inspect.signature(maker).parameters
    except (TypeError, ValueError):
        raise UserError(f"{what} does not say which arguments it takes: name a function of Python or a class") from None
    if any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        return made(what, lambda: maker(**kwargs), file)
    if CLASSES not in taken:
        kwargs = {name: value for name, value in kwargs.items() if name != CLASSES}
    if unknown := [name for name in kwargs if name not in taken]:
        takes = ", ".join(name for name in taken if name != CLASSES) or "none"
        raise UserError(f"{what} takes no argument {unknown[0]}; those that it takes: {takes}")
    needed = [each for each in taken.values() if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    if missing := [each.name for each in needed if each.name not in (*kwargs, CLASSES)]:
        raise UserError(f"{what} needs {', '.join(missing)}: give them as kwargs, or default values in the file")
    return made(what, lambda: maker(**kwargs), file)


def sha256_of(family: str | None) -> str | None:
    """The SHA-256 of the file that a network is from; None for one of a library or of ours."""
    match = FUNCTION.fullmatch(family or "")
    return match and user_files.sha256(Path(match[1]))


def made(what: str, make: Callable, file: Path | None = None) -> nn.Module:
    """What `make` gives, a network of Python; UserError for anything else and for whatever it raises.

    On the meta device a network that cannot be made there is made for real, and loses its values.
    """
    on_meta = torch.get_default_device().type == "meta"
    with user_files.running(what, file):
        try:
            network = make()
        except Exception as error:
            if not file and (unknown := UNKNOWN.search(str(error))):
                raise UserError(f"{what} takes no argument {unknown[1]}: leave it out of its kwargs") from None
            if not on_meta:
                raise
            network = None
        if network is None and on_meta:
            with torch.device("cpu"), torch.random.fork_rng(devices=()):
                network = make()
    check(what, network)
    values = *network.parameters(), *network.buffers()
    return meta_twin(network) if on_meta and not all(each.is_meta for each in values) else network


def check(what: str, network: object) -> None:
    """UserError for what is no network of Python whose parts can be seen."""
    if not isinstance(network, nn.Module):
        raise UserError(f"{what} gives a {type(network).__name__}, not an nn.Module")
    if any(isinstance(each, torch.jit.ScriptModule) for each in network.modules()):
        raise UserError(f"{what} gives a TorchScript module, which cannot be looked into: give the network of Python")
    if any("_orig_mod" in each._modules or each._compiled_call_impl is not None for each in network.modules()):
        raise UserError(f"{what} gives a compiled module: give the network itself (--compile compiles it)")
    if any(map(is_lazy, network.parameters())):
        raise UserError(f"{what} has lazy layers, which have no sizes yet: name their channels")


def near(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(found)}" if found else ""
