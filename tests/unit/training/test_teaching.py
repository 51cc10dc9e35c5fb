"""The teacher's passes: one for each mode, over one set of tensors, and how its logits and images are given on."""

import copy
from dataclasses import replace

import pytest
import torch
from support.networks import NETWORKS, shaken
from support.runs import DIGITS
from torch import nn

from overhaul import distill, models
from overhaul.models import Embedded, Hooked, Stages
from overhaul.recipe import Setup
from overhaul.system.accelerator import start
from overhaul.training.teaching import Shown, in_mode, make_teacher_forward, make_teaching

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def small(width: int) -> nn.Module:
    torch.manual_seed(width)
    return shaken(models.create("wide_resnet", depth=10, width=width, num_classes=5))


def setup_of(method: str, **changes) -> Setup:
    weights = dict.fromkeys(method.split("+"), 1.0)
    return replace(DIGITS, method=method, **{"distill_weight": weights, "teacher_norm": "running", **changes})


def teaching_of(method: str, teacher: nn.Module, norm, precision: str = "no"):
    """The pass of a teacher for a method or a sum, with what its BatchNorms normalise by."""
    module = distill.make(method, small(1), teacher)
    setup = setup_of(method, teacher_norm=norm)
    return make_teaching(distill.as_teacher(teacher), module, setup, Shown(), start(precision), "no")


def counted(teacher: nn.Module, monkeypatch) -> list:
    """A list that grows by the mode of the first BatchNorm whenever a teacher of this kind runs."""
    passes, kind = [], type(teacher)
    run = kind.forward_stages

    def forward_stages(self, images):
        passes.append(next(each for each in self.modules() if isinstance(each, nn.BatchNorm2d)).training)
        return run(self, images)

    monkeypatch.setattr(kind, "forward_stages", forward_stages)
    return passes


@pytest.mark.parametrize(
    ("method", "norm", "modes"),
    [
        ("overhaul", "batch", [True]),
        ("kd", "running", [False]),
        ("overhaul+kd", {"overhaul": "batch", "kd": "running"}, [True, False]),
        ("kd+overhaul+at", {"kd": "running", "overhaul": "batch", "at": "running"}, [False, True]),
        ("overhaul+kd", "running", [False]),
        ("overhaul+kd", {"overhaul": "running", "kd": "running"}, [False]),
        ("overhaul+kd", "batch", [True]),
    ],
)
def test_the_teacher_runs_once_for_each_mode(monkeypatch, method, norm, modes):
    teacher = small(2)
    passes = counted(teacher, monkeypatch)
    given = teaching_of(method, teacher, norm)(IMAGES)
    assert passes == modes and isinstance(given, dict) == (len(modes) > 1)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("first", ["overhaul", "kd"])
def test_each_method_gets_its_mode_and_no_buffer_changes(first, precision):
    """Whichever of the two modes is that of the teacher itself and which that of the copy."""
    teacher, other = small(2), "kd" if first == "overhaul" else "overhaul"
    before, norms = copy.deepcopy(teacher.state_dict()), {"overhaul": "batch", "kd": "running"}
    given = teaching_of(f"{first}+{other}", teacher, norms, precision)(IMAGES)
    for name, norm in norms.items():
        alone = teaching_of(name, small(2), norm, precision)(IMAGES)
        assert torch.equal(given[name].logits, alone.logits)
        assert all(map(torch.equal, given[name].features, alone.features))
        assert len(given[name].features) == (3 if name == "overhaul" else 0)
    assert not torch.equal(given["overhaul"].logits, given["kd"].logits)
    buffers = dict(teacher.named_buffers())
    assert buffers and all(torch.equal(each, before[name]) for name, each in buffers.items())


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("norm", distill.method.NORMS)
def test_a_copy_in_another_mode_has_the_same_tensors(name, norm):
    """Of networks of other people's habits, too, which the hooks of the one would be none of the other's."""
    torch.manual_seed(0)
    teacher = Hooked(shaken(NETWORKS[name]()), 32).requires_grad_(False)
    distill.teaching(teacher, "batch")
    images = torch.randn(4, 3, 32, 32)
    before = teacher.forward_stages(images)
    other = in_mode(teacher, norm)
    mine, theirs = ({name: each.data_ptr() for name, each in net.state_dict().items()} for net in (teacher, other))
    assert mine == theirs
    alone = distill.teaching(copy.deepcopy(teacher), norm)
    found, expected = other.forward_stages(images), alone.forward_stages(images)
    assert torch.equal(found.logits, expected.logits)
    assert all(map(torch.equal, found.features, expected.features))
    again = teacher.forward_stages(images)
    assert torch.equal(again.logits, before.logits) and all(map(torch.equal, again.features, before.features))


def test_what_is_asked_for_is_given():
    teacher = small(2)
    given = {
        "kd": (Stages, 0),
        "kd+dist": (Stages, 0),
        "at": (Stages, 3),
        "rkd": (Embedded, 3),
        "kd+reviewkd": (Embedded, 3),
    }
    for method, (kind, maps) in given.items():
        found = teaching_of(method, teacher, "running")(IMAGES)
        assert (type(found), len(found.features)) == (kind, maps)
        assert not any(each.requires_grad for each in (found.logits, *found.features))


def test_shift_size_and_order():
    teacher = distill.as_teacher(small(2), "running")
    shown = Shown(shift=([2.0, 1.0, 0.5], [0.1, 0.2, 0.3]), size=24, order=[4, 0, 2])
    found = make_teacher_forward(teacher, start("no"), shown=shown)(IMAGES)
    images = IMAGES * torch.tensor([2.0, 1.0, 0.5])[:, None, None] + torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    images = nn.functional.interpolate(images, (24, 24), mode="bilinear")
    with torch.no_grad():
        expected = teacher.forward_stages(images)
    torch.testing.assert_close(found.logits, expected.logits[:, [4, 0, 2]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.features[-1], expected.features[-1], rtol=1e-4, atol=1e-5)
