"""What would be compared between two networks and learned for it, or what one has: without data or training."""

from dataclasses import replace
from pathlib import Path

import torch

from overhaul import distill, hub, listing, models
from overhaul.hub.config import preprocessing
from overhaul.models import Backbone
from overhaul.models.libraries import images_of
from overhaul.recipe import MOST, Net, Setup
from overhaul.system.messages import UserError, check_source
from overhaul.training.positions import alone, compared

PIXELS, CLASSES = 224, 1000  # where nothing says others


def inspect(
    source: Net | None = None,
    student: Net | None = None,
    teacher: Net | None = None,
    row: Setup | None = None,
    image_size: int | None = None,
) -> dict:
    """The networks looked at, by role, and the maps of them: see positions.compared, of one network positions.alone.

    Each network: {"network", "parameters", "image_size"}. Networks that are not named are the row's. image_size: of the
    student or of the one network, in pixels; else the row's, else what it was trained on.
    """
    if image_size is not None and not 1 <= image_size <= MOST["image_size"]:
        raise UserError(f"--image_size must be at least 1 and at most {MOST['image_size']:,}, not {image_size}")
    if row:
        student, teacher = student or (None if row.student.is_any else row.student), teacher or row.teacher
        image_size = image_size or row.image_size
    for net, flags in ((source, "--"), (student, "--student."), (teacher, "--teacher.")):
        if net:
            net.check(flags)
    if source:
        if student or teacher:
            raise UserError("overhaul inspect shows one network, SOURCE, or a pair, --teacher and --student; name one")
        network, size = made(source, image_size)
        return {"networks": {"network": summary(source, network, size)}, **alone(network, size)}
    if not (student and teacher):
        raise UserError("overhaul inspect needs a SOURCE, or both --teacher and --student, or a --setup with both")
    mine, size = made(student, image_size)
    theirs, seen = made(teacher, teacher.image_size or size)
    networks = {"teacher": summary(teacher, theirs, seen), "student": summary(student, mine, size)}
    return {"networks": networks, **compared(mine, theirs, (size, seen))}


def made(net: Net, image_size: int | None) -> tuple[Backbone, int]:
    """The network without values, and the side in pixels of the images that it is looked at with."""
    config = {}
    if net.weights:
        check_source(net.weights)
    if net.weights and (not net.family or Path(net.weights).expanduser().exists()):
        found, config = hub.told(net)
        net = Net(family=found.family, kwargs=found.kwargs, positions=net.positions)
    own = preprocessing(config, net.weights or "") or images_of(net.weights) or images_of(net.family)
    size = image_size or (own and own.size) or PIXELS
    return models.outline(replace(net, kwargs={"num_classes": CLASSES, **net.kwargs}), size), size


def summary(net: Net, network: Backbone, size: int) -> dict:
    return {"network": net.weights or str(net), "parameters": models.parameters(network), "image_size": size}


def methods(row: Setup) -> list[dict]:
    """See api.methods."""
    nets = [net if net and not net.is_any else None for net in (row.student, row.teacher)]
    networks = [net and models.outline(net, net.image_size or row.image_size) for net in nets]
    return [each | learned(each, row, *networks) for each in listing.methods(row)]


def learned(told: dict, row: Setup, student: Backbone | None, teacher: Backbone | None) -> dict:
    """How many numbers a method learns beside the student, or None and why it cannot be had for the two."""
    try:
        if student is None or (teacher is None and told["needs"]):
            raise UserError(f"{row.name} does not name both networks")
        with torch.device("meta"):
            made = distill.make(told["method"], student, teacher, {told["method"]: told["settings"]})
    except UserError as error:
        return {"learned_parameters": None, "without": str(error)}
    return {"learned_parameters": models.parameters(made.connectors), "without": None}
