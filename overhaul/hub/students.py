"""Students out: the files of a folder that other programs read too."""

import json
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from overhaul.hub.config import student_config
from overhaul.hub.weights import Weights
from overhaul.models.backbone import Backbone
from overhaul.recipe import Setup
from overhaul.system.files import write_folder

OWN = "mit"  # the licence of weights that began fresh
UNKNOWN = "unknown"


def student_files(
    network: Backbone, setup: Setup, classes: Sequence[str], started_from: Weights | None = None
) -> dict[str, bytes]:
    """The files of a student's folder: config.json and model.safetensors.

    started_from: the trained weights that it began with, whose licence it has.
    """
    licence = (started_from.licence or UNKNOWN) if started_from else OWN
    config = json.dumps(student_config(setup, classes, licence), indent=2) + "\n"
    return {"model.safetensors": packed(plain_state(network)), "config.json": config.encode()}


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network under its own names: fp32 where they are floating, contiguous, none shared by two."""
    plain = network.bare if isinstance(network, Backbone) else network
    return {name: apart(value.detach()) for name, value in plain.state_dict().items()}


def apart(value: Tensor) -> Tensor:
    kind = torch.float32 if value.is_floating_point() else value.dtype
    return value.to("cpu", kind, copy=True).contiguous(memory_format=torch.contiguous_format)


def packed(state: dict[str, Tensor], **told: str) -> bytes:
    """A safetensors file of a state, with words about it."""
    return safetensors.torch.save(state, {"format": "pt", **told})


def save(
    folder: Path, network: Backbone, setup: Setup, classes: Sequence[str], started_from: Weights | None = None
) -> None:
    """Write a student's folder, each file replaced in one step."""
    write_folder(folder, student_files(network, setup, classes, started_from))
