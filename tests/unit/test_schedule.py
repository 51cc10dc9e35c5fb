"""The learning rate of each step: as a pure function, and as it reaches the optimiser."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from overhaul.schedule import moves, rate
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

BASE = replace(SETUPS["cifar_c"], epochs=10)
STEPS = 7


def rates(**changes) -> list[float]:
    setup = replace(BASE, **changes)
    return [rate(setup, step, STEPS) for step in range(setup.epochs * STEPS)]


def pytorch(schedulers, milestones: list[int], n: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE.lr)
    scheduler, found = SequentialLR(optimizer, [each(optimizer) for each in schedulers], milestones), []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0, 2, 0.5])
def test_cosine_after_a_warm_up_is_pytorchs(warmup):
    warm, n = round(warmup * STEPS), 10 * STEPS
    ours = rates(lr_schedule="cosine", warmup_epochs=warmup, lr_min=0.001)
    rise = [lambda each: LinearLR(each, 1 / warm, 1, warm - 1)] if warm else []
    fall = [lambda each: CosineAnnealingLR(each, n - warm, 0.001)]
    assert ours == pytest.approx(pytorch(rise + fall, [warm] if warm else [], n), rel=1e-9)


def test_linear_falls_by_the_same_amount_each_step_to_its_end():
    found = rates(lr_schedule="linear", lr_min=0.02)
    assert found[0] == 0.1 and found[-1] == pytest.approx(0.02 + 0.08 / (10 * STEPS))
    assert {round(one - other, 9) for one, other in itertools.pairwise(found)} == {round(0.08 / 70, 9)}


def test_the_papers_schedule_is_constant_within_an_epoch_and_warms_up_where_it_is_told():
    assert not moves(BASE) and rates() == [0.1] * 35 + [0.1 / 10] * 21 + [0.1 / 100] * 14
    warmed = rates(warmup_epochs=1)
    assert warmed[:STEPS] == [0.1 * (step + 1) / STEPS for step in range(STEPS)] and warmed[STEPS:] == rates()[STEPS:]


def test_another_length_is_another_pure_function():
    """What --resume_with epochs=N promises: from the step on, the rates are those of a run of N epochs."""
    longer = replace(BASE, epochs=20, lr_schedule="cosine", warmup_epochs=1)
    assert rate(longer, 100, STEPS) == pytest.approx(0.05 * (1 + math.cos(math.pi * (100 - STEPS) / (19 * STEPS))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"warmup_epochs": 10}, "--warmup_epochs 10 must be fewer than --epochs 10"),
        ({"warmup_epochs": -1}, "--warmup_epochs must be 0 or more"),
        ({"lr_min": 1.0, "lr_schedule": "cosine"}, "--lr_min 1 must not be above --lr 0.1"),
        ({"lr_schedule": "cosin"}, "did you mean cosine?"),
        ({"optimizer": "adam"}, "did you mean adamw?"),
        ({"label_smoothing": 1.0}, "--label_smoothing must be below 1"),
        ({"clip_grad": 0.0}, "--clip_grad must be above 0"),
        ({"clip_grad": math.nan}, "--clip_grad must be above 0"),
        ({"head_lr_scale": 0.0}, "--head_lr_scale must be above 0"),
    ],
)
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(UserError) as raised:
        replace(BASE, **changes)
    assert words in str(raised.value)
