"""The schedule: where the learning rate drops, and where momentum restarts."""

import pytest
import torch
from torch import nn

from overhaul.setups import SETUPS
from overhaul.training.optimisation import begin_epoch, make_optimizer


def schedule(name: str, **changes) -> list[float]:
    from dataclasses import replace

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
    assert optimizer.state
    begin_epoch(optimizer, setup, epoch)
    return bool(optimizer.state)


def test_momentum_restarts_at_the_cifar_drops_and_nowhere_else():
    kept = {epoch: momentum_after("cifar_a", epoch) for epoch in (0, 1, 99, 100, 101, 149, 150, 151)}
    assert [epoch for epoch, still in kept.items() if not still] == [100, 150]


def test_momentum_is_kept_at_the_imagenet_drops():
    assert all(momentum_after("imagenet_a", epoch) for epoch in (29, 59, 89))


def test_a_restart_equals_a_new_optimiser():
    """Two steps after a drop with cleared momentum are the two first steps of a fresh SGD."""
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
