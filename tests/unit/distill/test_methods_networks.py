"""The methods between networks: the teacher's mode, sums, what networks do to their maps, and compilation."""

import copy

import pytest
import torch
from support.networks import Plain, Shared, shaken
from torch import nn

from overhaul import distill, models
from overhaul.models import Hooked

NAMES = tuple(name for name in distill.METHODS if name != "original")


def taught(teacher: nn.Module, name: str, images: torch.Tensor) -> models.Stages:
    with torch.no_grad():
        return distill.teaching(copy.deepcopy(teacher), distill.METHODS[name].teacher_norm).forward_embedded(images)


@pytest.fixture(scope="module")
def pair():
    """Student, teacher whose buffers are not the batch's statistics, images and labels."""
    torch.manual_seed(0)
    student, teacher = (models.create("wide_resnet", depth=10, width=n, num_classes=5) for n in (1, 2))
    shaken(teacher)
    return student, teacher.requires_grad_(False), 1 + 2 * torch.randn(4, 3, 16, 16), torch.arange(4)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_the_teacher_in_the_mode_that_its_paper_has(pair, name):
    """overhaul by the batch's statistics, all others as it classifies."""
    _, teacher, images, _ = pair
    given = taught(teacher, name, images)
    with torch.no_grad():
        in_eval = copy.deepcopy(teacher).eval().forward_stages(images)
    same = [torch.equal(mine, theirs) for mine, theirs in zip(given.features, in_eval.features, strict=True)]
    assert same == [name != "overhaul"] * 3 and torch.equal(given.logits, in_eval.logits) == (name != "overhaul")


def test_each_method_of_a_sum_gets_what_it_gets_alone(pair):
    student, teacher, images, labels = pair
    names = list(NAMES)
    settings = {"kd": {"temperature": 2.0}, "fitnets": {"stage": 2}}
    torch.manual_seed(1)
    both = distill.make("+".join(names), copy.deepcopy(student), teacher, settings)
    stages = {name: taught(teacher, name, images) for name in names}
    logits, losses = both(images, stages, labels)
    assert losses.shape == (len(names),) and len({*losses.tolist()}) == len(names)
    alone = {}
    for name in names:
        one = distill.make(name, copy.deepcopy(student), teacher, settings)
        one.connectors.load_state_dict(both.parts[name].connectors.state_dict())
        mine, alone[name] = one(images, stages[name], labels)
        assert torch.equal(mine, logits)
    torch.testing.assert_close(losses, torch.stack([*alone.values()]), rtol=1e-6, atol=0)
    mixed = both.parts["overhaul"].loss(student.forward_stages(images), stages["kd"])
    assert abs(mixed / alone["overhaul"] - 1) > 0.01  # the mode is no matter of rounding


def test_what_is_learned_beside_the_student(pair):
    student, teacher = pair[:2]
    learned = {name: len([*distill.make(name, student, teacher).connectors.parameters()]) for name in NAMES}
    assert {name: n for name, n in learned.items() if n} == {"overhaul": 9, "fitnets": 4, "reviewkd": 4 * 6 + 3 * 2}


def test_what_is_compared(pair):
    compared = {name: distill.make(name, *pair[:2]).pairs for name in NAMES}
    whole = [(0, 0), (1, 1), (2, 2)]
    assert compared == {
        **{name: whole for name in ("overhaul", "at", "reviewkd")},
        **{"fitnets": whole[1:2], "sp": whole[2:]},
        **{name: [] for name in ("kd", "dkd", "dist", "rkd")},
    }


@pytest.mark.parametrize("name", NAMES)
def test_activations_that_write_in_place_change_nothing(name):
    """The maps are those before the ReLU, whether it writes over them or not; so are the gradients."""
    found = []
    for kind in (Plain, Shared):
        torch.manual_seed(0)
        student, teacher = Hooked(shaken(kind()), 32), Hooked(shaken(kind()), 32).requires_grad_(False)
        method = distill.make(name, student, teacher)
        images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
        loss = method(images, taught(teacher, name, images), labels)[1]
        loss.backward()
        found.append([loss.detach(), *(each.grad for each in method.parameters() if each.grad is not None)])
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_compiled_as_one_graph(pair, name):
    student, teacher, images, labels = pair
    plain, stages = distill.make(name, copy.deepcopy(student), teacher), taught(teacher, name, images)
    twin = copy.deepcopy(plain)
    torch.compiler.reset()
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    found = [method(images, stages, labels) for method in (plain, compiled)]
    for logits, loss in found:
        (logits.square().mean() + loss).backward()
    torch.testing.assert_close(*found)
    for mine, theirs in zip(plain.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
