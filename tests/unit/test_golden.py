"""The networks and the method give the values of the authors' release, field by field."""

import copy
from collections.abc import Callable

import pytest
import torch
from support.golden_case import LATER, NAMES, check, close, make_case, take_first_step
from torch import nn

from overhaul import distill
from overhaul.options import Run
from overhaul.system import accelerator as engine
from overhaul.training.optimisation import training_step
from overhaul.training.optimizer import make_optimizer
from overhaul.training.teaching import make_teacher_forward

BIG = ("cifar_f", "imagenet_b")
BIG_ONES_SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name in BIG)) for name in NAMES]
# Of single gradients in fp32, whose rounding is as large on one CPU or the other; float64 is held to 1e-3 and 5e-3
SINGLE = {"cifar_a": 1e-3, "cifar_d": 3e-2, "cifar_f": 1e-2, "imagenet_b": 3e-2}


@pytest.fixture(scope="module", params=NAMES)
def case(request, golden):
    """See make_case."""
    return make_case(request.param, golden(request.param))


@pytest.fixture(scope="module")
def first_step(case):
    """The first step in fp32, and .targets and .features: the maps of teacher and student, as they were on the way."""
    seen = {}

    def noting(kind: type) -> Callable:
        forward_stages = kind.forward_stages

        def noted(net, images):
            stages = forward_stages(net, images)
            seen["features" if next(net.parameters()).requires_grad else "targets"] = stages.features
            return stages

        return noted

    with pytest.MonkeyPatch.context() as patch:
        for kind in {type(case.teacher), type(case.student)}:
            patch.setattr(kind, "forward_stages", noting(kind))
        step = take_first_step(case, Run())
    step.targets, step.features = seen["targets"], [feature.detach() for feature in seen["features"]]
    return step


def test_parameter_counts(case):
    counts = [sum(p.numel() for p in net.parameters()) for net in (case.teacher, case.student)]
    assert counts == case.expected["params"]


def test_eval_logits(case):
    for net, expected in ((case.teacher, "teacher_eval_logits"), (case.student, "student_eval_logits")):
        with torch.no_grad():
            close(net.eval()(case.images)[:, :8], case.expected[expected])
        net.train()


def test_margins(case):
    for norm, expected in zip(case.teacher.norms, case.expected["margins"], strict=True):
        close(distill.margin(norm)[:40], expected, atol=1e-6)


def test_features_and_stage_losses(case, first_step):
    assert [list(x.shape) for x in first_step.targets] == case.expected["stage_shapes"]
    assert [list(x.shape) for x in first_step.features] == case.expected["student_shapes"]
    stages = zip(case.model.connectors, first_step.features, first_step.targets, case.teacher.norms, strict=True)
    with torch.no_grad():
        found = [distill.partial_l2(each(mine), theirs, distill.margin(norm)) for each, mine, theirs, norm in stages]
    close(torch.stack(found), case.expected["stage_losses"])


def check_gradients(case, model: nn.Module, rtol: float) -> None:
    """The norm of each parameter's gradient, in student and connectors."""
    largest = max(case.expected["grad_norms"].values())
    for part, expected in ((model.student, "grad_norms"), (model.connectors, "connector_grad_norms")):
        norms = {name: parameter.grad.norm().item() for name, parameter in part.named_parameters()}
        assert set(norms) == set(case.expected[expected])
        for name, value in case.expected[expected].items():
            # a few gradients are zero but for rounding: they are compared on the scale of the largest
            assert norms[name] == pytest.approx(value, rel=rtol, abs=1e-6 * largest), name


def test_first_step_logits_losses_and_gradients(case, first_step):
    assert case.setup.distill_weight == case.expected["scale"]
    close(first_step.logits[:, :8], case.expected["student_train_logits"], rtol=1e-3, atol=1e-4)
    check(case, first_step, rtol=1e-4)
    check_gradients(case, first_step.model, rtol=SINGLE[case.name])


@pytest.mark.parametrize("case", BIG_ONES_SLOW, indirect=True)
def test_gradients_in_fp64(case):
    """Rounding apart; of the golden values, too, those of the two large settings hold it, up to 0.4 %."""
    model, teacher = (copy.deepcopy(net).double() for net in (case.model, case.teacher))
    images = case.images.double()
    with torch.no_grad():
        stages = teacher.forward_stages(images)
    logits, distilled = model(images, stages, case.labels)
    (nn.functional.cross_entropy(logits, case.labels) + case.expected["scale"] * distilled).backward()
    check_gradients(case, model, rtol=5e-3 if case.name in BIG else 1e-3)


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * (name != "cifar_d")) for name in NAMES], indirect=True
)
def test_the_first_step_in_bf16(case):
    """Many CPUs have no bf16, and take half a minute for the large settings."""
    check(case, take_first_step(case, Run(mixed_precision="bf16")), rtol=3e-2)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["cifar_a"], indirect=True)
def test_the_first_step_compiled(case):
    """Half a minute to compile, so of one setting."""
    check(case, take_first_step(case, Run(compile="default")), rtol=1e-4)


@pytest.mark.parametrize("case", BIG_ONES_SLOW, indirect=True)
def test_three_steps_through_our_training_step(case):
    """Not in channels_last."""
    expected = case.expected
    assert case.setup.weight_decay == expected["weight_decay"]
    model, teacher, accelerator = copy.deepcopy(case.model), copy.deepcopy(case.teacher), engine.start()
    model.zero_grad()
    optimizer = make_optimizer(model, case.setup)
    for group in optimizer.param_groups:
        group["lr"] = expected["lr"]
    model, optimizer = accelerator.prepare(model, optimizer)
    teach = make_teacher_forward(teacher, accelerator)
    for number, golden_losses in enumerate(expected["losses"]):
        _, mine, distilled = training_step(
            accelerator, model, teach, optimizer, case.images, case.labels, case.setup.distill_weight
        )
        close(mine, golden_losses[0], rtol=LATER[case.name] if number else 1e-4)
        close([distilled, mine + distilled], golden_losses[1:], rtol=2e-3 if number else 1e-4)
