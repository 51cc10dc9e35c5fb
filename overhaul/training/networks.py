"""The two networks of a training: built for the size and classes of the data, and what is odd in them told."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from overhaul import distill, hub, methods, models
from overhaul.discovery import uncertain
from overhaul.hub.config import preprocessing
from overhaul.models import Backbone
from overhaul.models.hooked import Hooked
from overhaul.nets import LIBRARY, Net, is_foreign
from overhaul.recipe import Setup
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError, some
from overhaul.training.evaluation import check_logits
from overhaul.training.pretrained import start_from

ROLES = ("teacher", "student")
LOWER = (0.01, 0.1)  # of a row's weight: what to try between distant networks


def sizes(setup: Setup) -> tuple[int, int]:
    """Sides in pixels of the images that student and teacher see."""
    return setup.image_size, setup.teacher.image_size or setup.image_size


def by_features(setup: Setup) -> bool:
    """Whether feature maps are compared."""
    return "features" in methods.needs(setup.method)


def make_teacher(weights: hub.Weights, setup: Setup, notes: list[str]) -> Backbone:
    """The teacher with its weights, in teaching mode, its features those of the images that it sees."""
    named, (_, size) = setup.teacher, sizes(setup)
    trained = preprocessing(weights.config, weights.source)
    if trained and trained.size > 2 * size:
        notes.append(
            f"the teacher was trained on images of {trained.size} pixels and sees {size} here: "
            f"--teacher.image_size {trained.size} shows it the same images enlarged"
        )
    teacher = hub.build(replace(weights, net=replace(weights.net, positions=named.positions)), size)
    check_logits(teacher, weights.net.family, size, weights.net.kwargs["num_classes"], "--teacher.image_size")
    return distill.as_teacher(teacher, setup.of_methods("teacher_norm")[0])


def make_student(
    setup: Setup,
    weights: hub.Weights | None,
    classes: Sequence[str],
    notes: list[str],
    sync_bn: bool,
) -> Backbone:
    """The student with fresh weights, or those that it starts from."""
    student = models.create(setup.student, setup.image_size)
    check_logits(student, setup.student.family, setup.image_size, len(classes), "--image_size")
    if weights:
        start_from(student, weights, setup, classes, notes)
    student = models.sync_bn(student) if sync_bn else student
    if by_features(setup):
        check_calls(student, setup)
    freeze_unreached(student, setup, notes)
    if not any(each.requires_grad for each in student.parameters()):
        raise UserError(f"{setup.student.family} has no parameter that learns: let some have requires_grad")
    return student


def check_student(setup: Setup, weights: hub.Weights | None, classes: int) -> None:
    """UserError for a student of others that cannot be trained on these images, before a teacher is downloaded."""
    net = weights.net if weights else setup.student
    net = replace(net, kwargs={**net.kwargs, "num_classes": classes}, positions=setup.student.positions)
    if is_foreign(net.family):
        with torch.random.fork_rng(devices=()):
            student = models.create(net, setup.image_size)
        check_logits(student, net.family, setup.image_size, classes, "--image_size")
        if by_features(setup):
            models.stages(student, setup.image_size)


def check_calls(student: Backbone, setup: Setup) -> None:
    """UserError for features that were found in eval mode and may be others in training mode."""
    if isinstance(student, Hooked) and (names := uncertain(student.bare, setup.image_size, student.features)):
        raise UserError(
            f"{setup.student.family} calls the modules of {some(names)} another number of times in training (an "
            f"auxiliary head?), so these maps cannot be told by number: name modules that are called once "
            f"(--student.positions)"
        )


def freeze_unreached(student: Backbone, setup: Setup, notes: list[str]) -> None:
    """Let parameters on which nothing depends, as auxiliary heads', learn nothing: processes would wait for them."""
    if isinstance(student, Hooked) and (names := models.unreached(student, setup.image_size, by_features(setup))):
        parameters = dict(student.bare.named_parameters())
        for name in names:
            parameters[name].requires_grad_(False)
        notes.append(f"nothing depends on these parameters of the student, so they stay as they are: {some(names)}")


def check_needs(setup: Setup, knows_classes: bool) -> None:
    """UserError for a method that compares logits, with a teacher of other classes."""
    if "logits" in methods.needs(setup.method) and not knows_classes:
        raise UserError(
            f"--method {setup.method} compares logits, and the teacher knows other classes than the data have; name a "
            f"teacher of the data's classes, or --method overhaul, which compares features"
        )


def weight_note(setup: Setup) -> str | None:
    """What is known of overhaul's weight between networks of different make; None between those of a kind, or of a row.

    None for other methods too.
    """
    row = SETUPS.get(setup.name)
    published = row and row.published and all(alike(getattr(setup, role), getattr(row, role)) for role in ROLES)
    makes = [make_of(getattr(setup, role)) for role in ROLES]
    if published or makes[0] == makes[1] or "overhaul" not in setup.methods:
        return None
    return (
        f"teacher and student are of different make ({', '.join(Path(each).name for each in makes)}): between distant "
        f"networks the authors' weight lost 2 points and a hundredth of it gained 0.6 (issue 16 of their repository); "
        f"try {weights_to_try(setup)}"
    )


def weights_to_try(setup: Setup) -> str:
    """Lower ones: of overhaul than its row's, of another method, or the first that is summed up, than the run's."""
    name, row = next((each for each in setup.methods if each == "overhaul"), setup.methods[0]), SETUPS.get(setup.name)
    own = setup.of_methods("distill_weight")[setup.methods.index(name)]
    weight = row.distill_weight if row and name == "overhaul" else own
    flag = f"--distill_weight.{name}" if len(setup.methods) > 1 else "--distill_weight"
    return " and ".join(f"{flag} {share * weight:g}" for share in LOWER)


def alike(one: Net, other: Net) -> bool:
    """Whether two nets are the same but for their number of classes."""
    return (one.family, one.arguments) == (other.family, other.arguments)


def make_of(net: Net) -> str:
    """The family of a network's name: resnet of timm:resnet50d, efficientnet of timm:tf_efficientnet_b3."""
    library = LIBRARY.fullmatch(net.family)
    if not library:
        return net.family
    return re.sub(r"^tf_|(?<!v)\d.*|_.*", "", library[2])


def positions(network: nn.Module | None) -> list[str] | None:
    """Where a network's features are taken, where that was found or named."""
    if not isinstance(network, Hooked):
        return None
    return [" + ".join(map(str, each.at)) for each in network.features]
