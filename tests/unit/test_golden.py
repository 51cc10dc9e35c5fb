"""The networks and the method give the values of the authors' release, field by field."""

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from support import golden as weights
from torch import nn

from overhaul import distill, models
from overhaul.options import Run
from overhaul.setups import SETUPS
from overhaul.system import accelerator as engine
from overhaul.training.build import start_accelerator
from overhaul.training.optimisation import losses, make_optimizer, make_ready, training_step
from overhaul.training.teaching import make_teacher_forward

NAMES = ("cifar_a", "cifar_d", "cifar_f", "imagenet_b")
BIG = ("cifar_f", "imagenet_b")
BIG_ONES_SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (name in BIG)) for name in NAMES]
# Of single gradients in fp32, whose rounding is as large on one CPU or the other; float64 is held to 1e-3 and 5e-3
SINGLE = {"cifar_a": 1e-3, "cifar_d": 3e-2, "cifar_f": 1e-2, "imagenet_b": 3e-2}
# Of the cross-entropy after the first step. The gradients of cifar_d and imagenet_b at these weights are so large that
# fp32 rounding alone (threads, kernels) moves it by 1.5 and 2.6 %; float64 lies 0.05 and 1.4 % from the golden values
LATER = {"cifar_a": 1e-3, "cifar_d": 3e-2, "cifar_f": 1e-3, "imagenet_b": 5e-2}


def close(actual, expected, rtol=1e-4, atol=1e-5):
    torch.testing.assert_close(torch.as_tensor(actual), torch.tensor(expected), rtol=rtol, atol=atol)


def shapes(net: nn.Module) -> dict:
    return {name: list(value.shape) for name, value in net.state_dict().items()}


@pytest.fixture(scope="module", params=NAMES)
def case(request, golden):
    """A setting with the golden weights in teacher, student and connectors, and the golden batch.

    .model: the distilled student in training mode; .teacher: in teaching mode. Whoever changes them takes a copy.
    """
    name, expected = request.param, golden(request.param)
    setup = SETUPS[name]
    teacher, student = models.create(setup.teacher), models.create(setup.student)
    assert shapes(teacher) == expected["teacher_state"]
    assert shapes(student) == expected["student_state"]
    teacher.load_state_dict(weights.state(expected["teacher_state"], salt=1), strict=True)
    student.load_state_dict(weights.state(expected["student_state"], salt=2), strict=True)
    model = distill.METHODS["overhaul"](student, distill.as_teacher(teacher))
    for number, connector in enumerate(model.connectors):
        connector.load_state_dict(weights.state(shapes(connector), salt=10 + number), strict=True)
    images, labels = weights.batch(*expected["batch"])
    return SimpleNamespace(
        name=name,
        setup=setup,
        expected=expected,
        teacher=teacher,
        student=student,
        model=model.train(),
        images=images,
        labels=labels,
    )


def take_first_step(case, run: Run) -> SimpleNamespace:
    """Its losses and gradients, in channels_last, through what the loop makes ready; .model: the one with gradients."""
    method, teacher, accelerator = copy.deepcopy(case.model), copy.deepcopy(case.teacher), start_accelerator(run)
    model, _, teach = make_ready(method, teacher, case.setup, run, accelerator)
    model.zero_grad()
    images = case.images.to(memory_format=torch.channels_last)
    logits, cross_entropy, distilled = losses(model, teach, images, case.labels, case.setup.distill_weight)
    accelerator.backward(cross_entropy + distilled)
    return SimpleNamespace(model=method, logits=logits.detach(), losses=[cross_entropy.item(), distilled.item()])


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


def check(case, step: SimpleNamespace, rtol: float) -> None:
    """Losses, and the length of the whole gradient of student and of connectors."""
    close(step.losses, case.expected["losses"][0][:2], rtol=rtol)
    for part, names in ((step.model.student, "grad_norms"), (step.model.connectors, "connector_grad_norms")):
        expected = sum(norm**2 for norm in case.expected[names].values()) ** 0.5
        found = sum(parameter.grad.square().sum() for parameter in part.parameters()) ** 0.5
        close(found, expected, rtol=10 * rtol)


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
