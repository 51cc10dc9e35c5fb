"""Trained networks of a setup, its teacher and what its student starts from: fetched, and matched to the data."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from overhaul import hub, models
from overhaul.data.classes import renumber
from overhaul.data.loaders import Normalize
from overhaul.hub.config import class_names, normalised, preprocessing
from overhaul.models import libraries
from overhaul.recipe import Net, Setup, is_foreign
from overhaul.setups import SETUPS, same_net
from overhaul.system.messages import UserError
from overhaul.system.processes import agreed, main_first
from overhaul.training.evaluation import TeacherTest


def fetch(role: str, setup: Setup, accelerator) -> hub.Weights | None:
    """The weights of a setup's teacher or student, with their mean and std in config; None where none are named.

    A source of another net than the row's is taken for what it is, with a note where that was only recognised; of
    another than the user has named it is refused.
    """
    net, row = getattr(setup, role), SETUPS.get(setup.name)
    if net is None or net.weights is None:
        return None
    source = agreed(accelerator, lambda: hub.at_commit(net.weights))
    usual = getattr(row, role) if row else None
    is_usual = usual is not None and same_net(net, usual)
    expected = unnumbered(net, usual).named
    with main_first(accelerator):
        weights = hub.fetch(source, None if is_usual else expected, expected, net.key)
    notes = list(weights.notes)
    if is_usual and expected and not weights.config and not hub.same(expected, weights.net):
        notes.append(f"the {role} {net.weights} is {weights.net}, not the setup's {expected}, and taken as it is")
    config = normalised(weights.config, weights.net, net.weights, net, setup)
    return replace(weights, config=config, notes=tuple(notes))


def with_images(setup: Setup, weights: hub.Weights | None) -> Setup:
    """The setup with size, mean and std of its student's images, where it leaves them open.

    The student's are those that its weights name, or its library, or else 224 pixels and ImageNet's mean and std.
    """
    if setup.preprocessing:
        return setup
    usual = replace(SETUPS["imagenet_a"].preprocessing, resize=224)
    theirs = setup.student.weights, weights.net.family if weights else setup.student.family
    library = next((name for name in theirs if is_foreign(name)), None)
    own = (weights and preprocessing(weights.config, weights.source)) or libraries.images_of(library) or usual
    size = setup.image_size or own.size
    resize = setup.test_resize or round(size * own.resize / own.size)
    return replace(setup, image_size=size, test_resize=resize, mean=setup.mean or own.mean, std=setup.std or own.std)


def unnumbered(net: Net, usual: Net | None) -> Net:
    """The net for any number of classes, unless another number is named than the row's."""
    if usual and usual.kwargs.get("num_classes") != net.kwargs.get("num_classes"):
        return net
    return replace(net, kwargs=net.arguments)


def check_number(setup: Setup, classes: Sequence[str]) -> None:
    """UserError where another number of classes was asked for than the data have."""
    row, own = SETUPS.get(setup.name), setup.student.kwargs.get("num_classes")
    asked = own if row and own != row.student.kwargs.get("num_classes") else None
    for flag, n in (("--num_classes", setup.num_classes), ("--student.kwargs.num_classes", asked)):
        if n not in (None, len(classes)):
            raise UserError(f"{flag} {n} would change nothing: the data have {len(classes)} classes; leave it out")


def numbers(weights: hub.Weights, classes: Sequence[str]) -> list[int]:
    """For each class of the data its number among the weights' classes, by name where both sides have names.

    Raises UserError where they are other classes.
    """
    known = weights.net.kwargs["num_classes"]
    if names := class_names(weights.config):
        return renumber(names, classes).tolist()
    if known != len(classes):
        raise UserError(f"it knows {known} classes and the data have {len(classes)}")
    return list(range(known))


def teacher_test(
    weights: hub.Weights, setup: Setup, classes: Sequence[str], device, notes: list[str]
) -> TeacherTest | None:
    """How the teacher is measured, or None where it knows other classes. notes: what it says is added to them."""
    notes += weights.notes
    own = preprocessing(weights.config, weights.source) or setup
    try:
        order = numbers(weights, classes)
    except UserError as error:
        notes.append(f"the teacher's classifier is not used and its accuracy not measured: {error}")
        return None
    return TeacherTest(setup.teacher.weights, Normalize(own.mean, own.std, device, setup.teacher.image_size), order)


def shift(weights: hub.Weights, setup: Setup) -> tuple[list[float], list[float]] | None:
    """Factor and summand a channel that make the student's normalised images the teacher's; None where they are."""
    own = preprocessing(weights.config, weights.source)
    if own is None or (tuple(own.mean), tuple(own.std)) == (tuple(setup.mean), tuple(setup.std)):
        return None
    channels = list(zip(setup.mean, setup.std, own.mean, own.std, strict=True))
    factors = [std / own_std for _, std, _, own_std in channels]
    return factors, [(mean - own_mean) / own_std for mean, _, own_mean, own_std in channels]


@torch.no_grad()
def start_from(
    student: nn.Module, weights: hub.Weights, setup: Setup, classes: Sequence[str], notes: list[str]
) -> None:
    """Load trained weights into a fresh student of the same net; a last layer of other classes stays fresh.

    Rows of the last layer are put into the data's order of classes. notes: what it says is added to them.
    """
    notes += weights.notes
    if shift(weights, setup):
        notes.append(f"the weights of {weights.source} were trained with another mean and std than the setup's")
    seen = preprocessing(weights.config, weights.source)
    if seen and seen.size != setup.image_size:
        notes.append(
            f"the weights of {weights.source} were trained on images of {seen.size} pixels, and the student sees "
            f"{setup.image_size} here (--image_size)"
        )
    trained, layers = hub.build(weights).bare.state_dict(), models.class_layers(setup.student)
    own = [name for name in trained if name.startswith(tuple(f"{layer}." for layer in layers))]
    try:
        order, known = numbers(weights, classes), weights.net.kwargs["num_classes"]
        if len(order) != known:
            raise UserError(f"it knows {known} classes and the data have {len(order)}")
        if order != list(range(known)):
            if any(len(trained[name]) != known for name in own):
                raise UserError("its classes have another order, and not a row each in it")
            trained |= {name: trained[name][order] for name in own}
    except UserError as error:
        trained = {name: value for name, value in trained.items() if name not in own}
        which = f"its last layer, {layers[0]}, which is" if len(layers) == 1 else f"{', '.join(layers)}, which are"
        notes.append(f"the student starts from {weights.source} but for {which} fresh: {error}")
    hub.put(student, {**student.bare.state_dict(), **trained})
