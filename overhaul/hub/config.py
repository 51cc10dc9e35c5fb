"""A student's config.json, in timm's layout: which net it is, what its classes are called, how its images are made."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from overhaul import models
from overhaul.hub.entries import FILE, NAMED, TORCHVISION, file_net, library_entries, net_entries
from overhaul.models import libraries
from overhaul.models.limits import plain_arguments
from overhaul.recipe import Net, Preprocessing, Setup, is_mean, is_std
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError, choose, printable, warn_once

LARGEST_FILE = 16 * 2**20  # bytes
LARGEST_SIDE = 4096  # pixels
INTERPOLATIONS = ("bilinear", "bicubic")
ARCHITECTURE = re.compile(r"([a-z0-9_]{1,80})(\.\w{1,80})?", re.ASCII)  # of timm; behind the dot: of which weights


def read_config(path: Path) -> dict:
    """The contents of a config.json; UserError for a file that is none."""
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is no model's configuration: it is larger than {LARGEST_FILE >> 20} MiB")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's configuration")
    return config


def net_of(config: dict, named: Net | None = None) -> Net:
    """The net that a config.json names: one of ours, of timm or of torchvision; nothing that it says is run or opened.

    named: by the user; the function of a file is taken from nowhere else. Raises UserError for a network that there is
    not, or that is absurd.
    """
    classes = config.get("num_classes")
    refuse_transformers(config)
    if type(classes) is not int or not 0 <= classes <= models.LARGEST["num_classes"]:
        raise UserError("a model's config.json needs num_classes, a number, and may have model_args, an object")
    if not classes:
        raise UserError("it has no classifier (num_classes 0), and networks that classify are read here")
    match = ARCHITECTURE.fullmatch(str(config.get("architecture")))
    name = match[1] if match else ""
    if name == FILE:
        return file_net(config, classes, named)
    said = plain_arguments(config.get("model_args"))
    arguments = own_arguments(said)
    depth = re.fullmatch(r"resnet(18|34|50|101|152)", name)
    wanted = named.family if named else None
    if name == TORCHVISION:
        family = f"torchvision:{arguments.pop('name', None)}"
    elif depth and not arguments and wanted != f"timm:{name}":
        family, arguments = "resnet", {"depth": int(depth[1])}
    elif name.removeprefix("overhaul_") in models.FAMILIES:
        family = name.removeprefix("overhaul_")
    elif name in NAMED:
        own = NAMED[name].student
        family, arguments = own.family, {**own.kwargs, **arguments}
    elif match and not name.startswith("overhaul_"):
        family, arguments = f"timm:{name}", {key: said[key] for key in said if key not in ("num_classes", "in_chans")}
    else:
        known, shown = ", ".join(models.FAMILIES), printable(str(config.get("architecture"))[:80])
        raise UserError(f"the architecture {shown} is none of ours ({known}), nor of timm's or torchvision's")
    return checked(Net(family=family, kwargs={**arguments, "num_classes": classes}))


def checked(net: Net) -> Net:
    """The net; UserError for arguments that it does not take, and for one that is too large to be made."""
    models.check(net)
    models.outline(net, limited=True)
    return net


def refuse_transformers(config: dict) -> None:
    theirs = config.get("architectures") or config.get("model_type")
    if theirs and "architecture" not in config:
        raise UserError(
            f"it is a model of transformers ({printable(str(theirs))[:80]}), in a layout that is not read here; timm's "
            f"is: take the network from timm/..., or save the state_dict of one of our families and name the file"
        )


def own_arguments(arguments: dict) -> dict:
    """A model_args without what timm adds for every network, where it says what is so here anyway."""
    if arguments.get("in_chans", 3) != 3:
        raise UserError(f"it takes images of {arguments['in_chans']} channels, and images here have 3")
    usual = {"in_chans": 3, "global_pool": "avg"}
    return {
        key: value
        for key, value in arguments.items()
        if key != "num_classes" and not (key in usual and value == usual[key])
    }


def class_names(config: dict) -> tuple[str, ...] | None:
    """The names of the classes, where a config.json has them; UserError for names that are none."""
    own = config.get("pretrained_cfg")
    names = config.get("label_names", own.get("label_names") if isinstance(own, dict) else None)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= 1000 for name in names):
        raise UserError("the label_names of a model's config.json must be a list of names")
    if len(names) != config["num_classes"]:
        raise UserError(f"the config.json has {config['num_classes']} classes and {len(names)} label_names")
    return tuple(map(printable, names))


def preprocessing(config: dict, source: str) -> Preprocessing | None:
    """How a config.json wants its images, in timm's terms; None where it does not say."""
    own = config.get("pretrained_cfg", config if "input_size" in config else None)  # timm's earliest have it all in one
    if not own:
        return None
    try:
        size, mean, std = own["input_size"][-1], *(tuple(map(float, own[key])) for key in ("mean", "std"))
        resize = int(size / own.get("crop_pct", 1.0) + 1e-6)
        wanted = own.get("interpolation", "bilinear"), own.get("crop_mode", "center")
        sizes = type(size) is int and len(mean) == len(std) == 3 and 1 <= size <= resize <= LARGEST_SIDE
        whole = sizes and is_mean(mean) and is_std(std)
    except (TypeError, KeyError, IndexError, ValueError, OverflowError, ZeroDivisionError, AttributeError):
        whole = False
    if not whole:
        raise UserError(
            f"the config.json of {source} has a pretrained_cfg whose input_size, mean, std or crop_pct is wrong"
        )
    choose(f"the interpolation of {source}", wanted[0], INTERPOLATIONS)
    tell_crop(source, str(wanted[1]))
    return Preprocessing(size, resize, mean, std, wanted[0])


@cache
def tell_crop(source: str, mode: str) -> None:
    if mode != "center":
        warn_once(
            f"{source} was tested with images not cropped at the centre ({printable(mode)[:40]}), as they are here"
        )


def preprocessing_of(config: dict, source: str, row: Setup | None) -> Preprocessing:
    """How a source's images are shown: as its config.json says, else as the row does; UserError where neither does."""
    if found := preprocessing(config, source) or (row and row.preprocessing):
        return found
    raise UserError(
        f"{source} does not say how its images are normalised; name a setup of the kind with --setup, or --mean and "
        f"--std"
    )


def normalised(config: dict, net: Net, source: str, named: Net, row: Setup | None) -> dict:
    """A config.json, or that of a bare file of the net, with the mean and std named; UserError where it has others.

    Images have the row's size, else that of the first setup with a net of the family. A bare file of one of timm's
    networks has what timm says of that network.
    """
    if named.mean is None and config:
        return config
    if named.mean is None:
        usual = libraries.images_of(net.family)
        return {**net_entries(net), "pretrained_cfg": images_entry(usual)} if usual else config
    wanted = tuple(named.mean), tuple(named.std)
    if own := preprocessing(config, source):
        if wanted != (own.mean, own.std):
            raise UserError(f"the config.json of {source} says its mean {own.mean} and std {own.std}; name no others")
        return config
    show = (row and row.preprocessing) or Preprocessing(*2 * (usual_size(net),), *wanted)
    images = images_entry(replace(show, mean=wanted[0], std=wanted[1]))
    return {**net_entries(net), **config, "pretrained_cfg": images}


def usual_size(net: Net) -> int:
    """Side of the images, in pixels, of the first setup that has a net of this family; of timm's, as timm has it."""
    if usual := libraries.images_of(net.family):
        return usual.size
    rows = (row for row in SETUPS.values() if net.family in {own.family for own in (row.student, row.teacher) if own})
    return next((row.image_size for row in rows), 224)


def crop_share(size: int, resize: int) -> float:
    """The crop_pct from which timm finds `resize`, the next lower number where it would round to a pixel less."""
    share = size / resize
    return share if math.floor(size / share) == resize else math.nextafter(share, 0)


def images_entry(show: Preprocessing) -> dict:
    """What a pretrained_cfg says of its images."""
    return {
        "input_size": [3, show.size, show.size],
        "crop_pct": crop_share(show.size, show.resize),
        "crop_mode": "center",
        "interpolation": show.interpolation,
        "mean": list(show.mean),
        "std": list(show.std),
    }


def student_config(setup: Setup, classes: Sequence[str], licence: str = "mit") -> dict:
    """The config.json of a setup's student. licence: of its weights, as the Hub calls it."""
    entries, told = library_entries(setup.student, setup.preprocessing.size)
    images = {
        **images_entry(setup.preprocessing),
        "num_classes": len(classes),
        **told,
        "license": licence,
        "paper_ids": "arXiv:1904.01866",
    }
    return {**net_entries(setup.student), **entries, "label_names": list(classes), "pretrained_cfg": images}
