"""What a config.json says of a network, in timm's layout: which one it is, and what timm knows of it."""

import json
from functools import cache
from pathlib import Path

import torch
from torch import nn

from overhaul import models
from overhaul.models.limits import plain_arguments
from overhaul.recipe import FUNCTION, LIBRARY, Net, Setup
from overhaul.setups import SETUPS
from overhaul.system.files import sha256
from overhaul.system.messages import UserError, printable

TORCHVISION, FILE = "overhaul_torchvision", "overhaul_file"  # the architectures of networks that timm lacks
CLASSES = "num_classes"
NAMES = {  # of our families' networks in timm's registry, see timm_models
    "wide_resnet": "wrn_{depth}_{width}",
    "cifar_resnet": "resnet{depth}_cifar",
    "pyramidnet": "pyramidnet_{depth}",
    "mobilenet": "mobilenet",
}


def named() -> dict[str, Setup]:
    """The first setup with each network of those families, by the network's name, and by its family's."""
    found = {}
    for row in SETUPS.values():
        net = row.student
        if net.family in NAMES:
            for name in (net.family, NAMES[net.family].format(**net.kwargs)):
                found.setdefault(f"overhaul_{name}", row)
    return found


NAMED = named()


def library_of(family: str) -> str:
    """timm, torchvision, file, or "" for a family of ours."""
    if FUNCTION.fullmatch(family):
        return "file"
    match = LIBRARY.fullmatch(family)
    return match[1] if match else ""


def without_folder(family: str) -> str:
    """Of a function of a file: only the file's last name, as folders of a machine are told to nobody."""
    match = FUNCTION.fullmatch(family)
    return f"{Path(match[1]).name}:{match[2]}" if match else family


def net_entries(net: Net) -> dict:
    """The entries of a config.json that say which net it is."""
    arguments, library = net.arguments, library_of(net.family)
    name = net.family.partition(":")[2]
    if net.family == "resnet":
        name, arguments = f"resnet{arguments['depth']}", {}
    elif library == "torchvision":
        name, arguments = TORCHVISION, {"name": name, **arguments}
    elif library == "file":
        name, arguments = FILE, {**file_entries(net.family), **({"kwargs": arguments} if arguments else {})}
    elif not library:
        name = f"overhaul_{net.family}"
    return {"architecture": name, CLASSES: net.kwargs[CLASSES], **({"model_args": arguments} if arguments else {})}


def file_entries(family: str) -> dict:
    """A function by its name, that of its file without the folder, and what was in the file."""
    file, function = FUNCTION.fullmatch(family).groups()
    return {"function": function, "file": Path(file).name, "sha256": digest(file)}


@cache
def digest(file: str) -> str | None:
    """SHA-256 of a user's file as it was when this process first asked; None where it is not there."""
    try:
        return sha256(Path(file).expanduser())
    except OSError:
        return None


def file_named(config: dict) -> str:
    """For people: the file and the function that an overhaul_file's config.json names."""
    arguments = config.get("model_args")
    said = [arguments.get(key) if isinstance(arguments, dict) else None for key in ("file", "function")]
    file, function = (printable(each)[:80] if isinstance(each, str) and each else "?" for each in said)
    return f"{file}:{function}"


def is_of_file(config: dict) -> bool:
    return config.get("architecture") == FILE


def file_net(config: dict, classes: int, named: Net | None) -> Net:
    """The net of an overhaul_file, which is that of the function that the user has named."""
    told = config.get("model_args") if isinstance(config.get("model_args"), dict) else {}
    if named is None or library_of(named.family) != "file":
        raise UserError(
            f"its network is the function {file_named(config)}, and code is run from no file but one that you name: "
            f"say --net FILE.py:FUNCTION, or in a training --teacher FILE.py:FUNCTION --teacher.weights (--student ...)"
        )
    return Net(family=named.family, kwargs={**named.kwargs, **plain_arguments(told.get("kwargs")), CLASSES: classes})


def file_notes(config: dict, net: Net) -> tuple[str, ...]:
    """What is told where the code is not what the weights were trained with."""
    told, now = (config.get("model_args") or {}).get("sha256"), digest(FUNCTION.fullmatch(net.family)[1])
    return () if told in (None, now) else (f"{net.family} is not the code that the weights were saved with",)


@cache
def own_entries(family: str, kwargs: str, size: int) -> dict:
    """Of a network of our families: the name of its first convolution, and the size of its last map."""
    network = models.outline(Net(family=family, kwargs=json.loads(kwargs)))
    convolutions = (name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    last = network.forward_stages(torch.empty(2, 3, size, size, device="meta")).features[-1]
    return {"first_conv": next(convolutions, None), "pool_size": list(last.shape[2:])}


def library_entries(net: Net, size: int) -> tuple[dict, dict]:
    """What timm writes of a network into a config.json, and into its pretrained_cfg.

    size: of its images, in pixels. Of a network of torchvision or of a file: the last layer, and those of auxiliary
    heads after it.
    """
    library = library_of(net.family)
    if library != "timm":
        last, layers = models.classifier(net), models.class_layers(net)
        heads = [last, *(name for name in layers if name != last)]
        own = {} if library else own_entries(net.family, json.dumps(net.kwargs), size)
        return {}, {"classifier": heads if len(heads) > 1 else last, **own}
    network = models.outline(net).bare
    cfg = dict(network.pretrained_cfg)
    told = {"classifier": cfg.get("classifier") or models.classifier(net), "first_conv": cfg.get("first_conv")}
    sizes = {cfg["input_size"][-1]: cfg.get("pool_size")}
    if cfg.get("test_input_size"):
        sizes.setdefault(cfg["test_input_size"][-1], cfg.get("test_pool_size"))
    told["pool_size"] = sizes.get(size)
    if cfg.get("fixed_input_size"):
        told["fixed_input_size"] = True
    return {"num_features": network.num_features}, told
