"""The trained weights that torchvision offers for its networks, by name: torchvision:NAME@ENTRY."""

import re
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from overhaul import models
from overhaul.hub.config import images_entry
from overhaul.hub.entries import net_entries
from overhaul.hub.renaming import converted
from overhaul.models import libraries
from overhaul.recipe import LIBRARY, Net
from overhaul.system.files import sha256
from overhaul.system.messages import UserError, first_line
from overhaul.system.network import TooLate, within

HASH = re.compile(r"-([0-9a-f]{8,})\.")  # in the name of a file of torchvision


def is_entry(source: str) -> bool:
    match = LIBRARY.fullmatch(source)
    return bool(match and match[1] == "torchvision")


def resolved(source: str) -> str:
    """The source by the entry's own name, which DEFAULT is not."""
    return f"{source.partition('@')[0]}@{libraries.entry(source).name}"


def download(entry, what: str) -> tuple[dict[str, Tensor], Path]:
    """The weights of an entry, their hash checked, those of torch's cache too, and the file that they lie in."""
    fetch = partial(entry.get_state_dict, progress=False, check_hash=True, weights_only=True)
    file = Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])
    try:
        state = within(fetch, round(entry.meta.get("_file_size", 1000) * 1e6))
    except (OSError, RuntimeError, TooLate) as error:
        raise UserError(
            f"the weights {what} could not be downloaded ({first_line(error)}); give a file of them in their place"
        ) from None
    if (named := HASH.search(file.name)) and not sha256(file).startswith(named[1]):
        raise UserError(f"the weights {what} in {file} are others than it names, by their SHA-256; delete the file")
    return state, file


def fetch(source: str, named: Net | None) -> tuple[Net, dict[str, Tensor], dict, Path]:
    """The net of a source, its weights, a config.json for them, and their file."""
    entry, family = libraries.entry(source), source.partition("@")[0]
    state, file = download(entry, source)
    kwargs = as_trained(family, entry) | (named.kwargs if named and named.family == family else {})
    names = entry.meta.get("categories")
    net = Net(family=family, kwargs=kwargs)
    state = converted(net, state)
    last = state.get(f"{models.classifier(net)}.weight")
    net.kwargs["num_classes"] = len(names or (last if last is not None else ()))
    return net, state, config_of(source, entry, net, names), file


def as_trained(family: str, entry) -> dict:
    """The arguments with which torchvision itself makes a network for its weights."""
    name = family.partition(":")[2]
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True}
    size = entry.meta.get("min_size", (224,))[0]
    return {"image_size": size} if name.startswith("vit_") and size != 224 else {}


def config_of(source: str, entry, net: Net, names: list[str] | None) -> dict:
    licence = {"license": entry.meta["license"]} if "license" in entry.meta else {}
    labels = {"label_names": list(names)} if names else {}
    return {**net_entries(net), **labels, "pretrained_cfg": {**images_entry(libraries.images_of(source)), **licence}}
