"""The schedule: where the learning rate drops, and where momentum restarts; the momentum of a step that is skipped."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.runs import DIGITS, SMALL_NET
from torch import Tensor, nn

from overhaul import distill, models
from overhaul.options import Run
from overhaul.setups import SETUPS
from overhaul.system.accelerator import start
from overhaul.training import optimisation
from overhaul.training import optimizer as rates
from overhaul.training.optimisation import make_ready, training_step
from overhaul.training.optimizer import begin_epoch, make_optimizer


def schedule(name: str, **changes) -> list[float]:
    setup = replace(SETUPS[name], **changes)
    optimizer = make_optimizer(nn.Linear(2, 2), setup)
    return [begin_epoch(optimizer, setup, epoch) for epoch in range(setup.epochs)]


def drops(rates: list[float]) -> list[int]:
    """The numbers of finished epochs after which the rate fell."""
    return [epoch for epoch in range(1, len(rates)) if rates[epoch] < rates[epoch - 1]]


@pytest.mark.parametrize("name", [name for name in SETUPS if name.startswith("cifar")])
def test_cifar_drops_after_100_and_150_epochs(name):
    rates = schedule(name)
    assert drops(rates) == [100, 150]
    assert [rates[0], rates[100], rates[150]] == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_b"])
def test_imagenet_drops_after_29_59_and_89_epochs(name):
    rates = schedule(name)
    assert drops(rates) == [29, 59, 89]
    assert rates[-1] == pytest.approx(1e-4)


@pytest.mark.parametrize(("epochs", "expected"), [(1, []), (2, [1]), (6, [3, 5]), (8, [4, 6]), (10, [5, 8])])
def test_drops_scale_with_the_length_of_the_run(epochs, expected):
    rates = schedule("cifar_c", epochs=epochs)
    assert drops(rates) == expected and rates[0] == 0.1


def momentum_after(name: str, epoch: int) -> bool:
    """Whether SGD still holds momentum once the epoch has begun."""
    setup = SETUPS[name]
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, setup)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    buffers = [each["momentum_buffer"] for each in optimizer.state.values()]
    assert len(buffers) == 2 and all(buffer.any() for buffer in buffers)
    begin_epoch(optimizer, setup, epoch)
    assert len({bool(buffer.any()) for buffer in buffers}) == 1
    return bool(buffers[0].any())


def test_momentum_restarts_at_the_cifar_drops_and_nowhere_else():
    kept = {epoch: momentum_after("cifar_a", epoch) for epoch in (0, 1, 99, 100, 101, 149, 150, 151)}
    assert [epoch for epoch, still in kept.items() if not still] == [100, 150]


def test_momentum_is_kept_at_the_imagenet_drops():
    assert all(momentum_after("imagenet_a", epoch) for epoch in (29, 59, 89))


def test_a_restart_equals_a_new_optimiser():
    """Two steps after a drop with momentum at zero are the two first steps of a fresh SGD."""
    torch.manual_seed(0)
    setup, ends = SETUPS["cifar_a"], []
    gradients = torch.randn(2, 3)
    for fresh in (False, True):
        weight = nn.Parameter(torch.ones(3))
        module = nn.ParameterList([weight])
        optimizer = make_optimizer(module, setup)
        if not fresh:
            weight.grad = torch.randn(3)
            optimizer.step()
            weight.data.fill_(1)
        begin_epoch(optimizer, setup, 100)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weight.detach().clone())
    assert torch.equal(*ends)


def test_weight_decay_is_on_every_parameter():
    optimizer = make_optimizer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), SETUPS["imagenet_a"])
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


@pytest.fixture(autouse=True)
def set_back() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def pytorch_sgd(fused: bool):
    """make_optimizer, but with the momentum that PyTorch makes in the first step."""

    def make(model: nn.Module, setup) -> torch.optim.SGD:
        optimizer = make_optimizer(model, setup)
        how = {"lr": setup.lr, **{name: optimizer.defaults[name] for name in ("momentum", "weight_decay", "nesterov")}}
        return torch.optim.SGD(model.parameters(), **how, fused=fused)

    return make


def cleared(optimizer, setup, epoch: int) -> float:
    """begin_epoch, but with a restart as PyTorch makes its first step."""
    rate = schedule(setup.name, epochs=setup.epochs)[epoch]
    for group in optimizer.param_groups:
        group["lr"] = rate
    if epoch == 1:
        optimizer.state.clear()
    return rate


def distilled(overflows: set[int], steps=range(6), scaled: bool = True) -> list[Tensor]:
    """Student and connectors after the steps of two epochs, of which momentum restarts before the second, step 3.

    The scaled gradients of the steps in `overflows` are too large for fp32, as others are for fp16 on a GPU. What is
    not initialised is NaN.
    """
    setup, accelerator = replace(DIGITS, epochs=2), start("no", deterministic=True)
    accelerator.scaler = torch.amp.GradScaler("cpu") if scaled else None
    torch.manual_seed(0)
    teacher, batches = distill.as_teacher(models.create(DIGITS.teacher)), torch.randn(6, 8, 3, 16, 16)
    method = distill.METHODS["overhaul"](models.create(SMALL_NET), teacher)
    model, optimizer, teacher_forward = make_ready(method, teacher, setup, Run(), accelerator)
    for step in steps:
        if step in (0, 3):
            rates.begin_epoch(optimizer, setup, step // 3)
        images = batches[step].to(memory_format=torch.channels_last)
        labels = F.one_hot(torch.arange(8), 10) * (2.0**120 if step in overflows else 1.0)
        training_step(accelerator, model, teacher_forward, optimizer, images, labels, setup.distill_weight)
    assert not scaled or accelerator.scaler.get_scale() == 2.0 ** (16 - len(overflows))
    return [parameter.detach() for parameter in method.parameters()]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, *([each.view(torch.int32) for each in weights] for weights in (one, other))))


def test_momentum_of_zero_changes_no_bit(monkeypatch):
    """Against what PyTorch's fused SGD does in its first step, at the start and after a restart."""
    ours = distilled(set(), scaled=False)
    monkeypatch.setattr(optimisation, "make_optimizer", pytorch_sgd(fused=True))
    monkeypatch.setattr(rates, "begin_epoch", cleared)
    assert same_bits(ours, distilled(set(), scaled=False))


@pytest.mark.parametrize("overflows", [{0}, {0, 1, 2}, {3}, {0, 3, 4}, {2, 5}], ids=str)
def test_an_overflow_leaves_weights_and_momentum_alone(monkeypatch, overflows):
    """In the first step, after a restart of momentum or anywhere: as unfused SGD, whose momentum begins later."""
    ours = distilled(overflows)
    monkeypatch.setattr(optimisation, "make_optimizer", pytorch_sgd(fused=False))
    monkeypatch.setattr(rates, "begin_epoch", cleared)
    torch.testing.assert_close(ours, distilled(overflows), rtol=1e-5, atol=1e-7)


def test_a_skipped_step_might_as_well_not_have_been():
    assert same_bits(distilled({0, 1}), distilled(set(), steps=range(2, 6)))


@pytest.mark.parametrize("lost", ["all", "half", "None"])
def test_momentum_that_a_checkpoint_lacks_is_zero(lost):
    """A checkpoint before the first step, or of an older release."""
    optimizer = make_optimizer(nn.Linear(2, 2), SETUPS["cifar_a"])
    state = optimizer.state_dict()
    state["state"] = {"all": {}, "half": {0: state["state"][0]}, "None": {0: {"momentum_buffer": None}}}[lost]
    optimizer.load_state_dict(state)
    begin_epoch(optimizer, SETUPS["cifar_a"], 0)
    assert [each["momentum_buffer"].tolist() for each in optimizer.state.values()] == [[[0, 0], [0, 0]], [0, 0]]


def test_momentum_lies_in_memory_as_its_parameter_does():
    network = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, SETUPS["cifar_a"])
    for parameter, state in optimizer.state.items():
        assert state["momentum_buffer"].stride() == parameter.stride() and not state["momentum_buffer"].requires_grad


def test_without_momentum_there_are_no_buffers():
    setup = replace(SETUPS["cifar_a"], momentum=0.0, nesterov=False)
    optimizer = make_optimizer(nn.Linear(2, 2), setup)
    begin_epoch(optimizer, setup, 100)
    assert not optimizer.state_dict()["state"]
