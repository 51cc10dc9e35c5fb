"""The networks of timm, of torchvision and of a user's own file: made by name, with fresh weights."""

import importlib.util
import inspect
from pathlib import Path

from torch import nn

from overhaul.recipe import FUNCTION, LIBRARY
from overhaul.system.messages import UserError, first_line, nearest

TIMM = "timm is not installed, so {} cannot be made: pip install timm"


def make(family: str, kwargs: dict) -> nn.Module:
    """The plain network; UserError for one that there is not, or that cannot be made with these arguments."""
    if match := FUNCTION.fullmatch(family):
        return from_file(Path(match[1]).expanduser(), match[2], kwargs)
    library, name, _ = LIBRARY.fullmatch(family).groups()
    return (from_timm if library == "timm" else from_torchvision)(name, kwargs)


def from_timm(name: str, kwargs: dict) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(TIMM.format(f"timm:{name}")) from None
    if "." in name:
        raise UserError(f"timm:{name} names trained weights: say timm/{name}, which is on the Hub")
    if not timm.is_model(name):
        raise UserError(f"timm has no network {name}{nearest(name, timm.list_models(), 0.5)}")
    return made(f"timm:{name}", lambda: timm.create_model(name, **kwargs))


def from_torchvision(name: str, kwargs: dict) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UserError(f"torchvision has no network {name}{nearest(name, models.list_models(module=models), 0.5)}")
    return made(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **kwargs))


def from_file(file: Path, function: str, kwargs: dict) -> nn.Module:
    make = function_of(file, function)
    taken = inspect.signature(make).parameters
    if "num_classes" not in taken and not any(each.kind is each.VAR_KEYWORD for each in taken.values()):
        kwargs = {name: value for name, value in kwargs.items() if name != "num_classes"}
    return made(f"{file}:{function}", lambda: make(**kwargs))


def function_of(file: Path, function: str):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file") from None
    except AttributeError:
        raise UserError(f"{file} has no {function}{nearest(function, vars(module))}") from None


def made(what: str, make) -> nn.Module:
    try:
        network = make()
    except Exception as error:  # code of others may raise anything
        raise UserError(f"{what} cannot be made: {first_line(error)}") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"{what} gives a {type(network).__name__}, not an nn.Module")
    return network
