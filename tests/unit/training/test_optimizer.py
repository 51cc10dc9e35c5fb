"""The optimisers but the paper's: whose parameters decay and how fast they learn; smoothing, clipping, going on."""

import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from overhaul import distill, models
from overhaul.setups import SETUPS, wide_resnet
from overhaul.system.accelerator import start
from overhaul.system.messages import UserError
from overhaul.training.optimisation import training_step
from overhaul.training.optimizer import begin_epoch, make_optimizer, set_rate

NAMED = {"epochs": 100, "batch_size": 64, "lr": 0.025, "lr_schedule": "step", "warmup_epochs": 0.0}
SHOWN = {"image_size": 16, "mean": (0,) * 3, "std": (1,) * 3}
SETUP = replace(SETUPS["own"], student=wide_resnet(10, 1, num_classes=3), **SHOWN, **NAMED)


def alone() -> nn.Module:
    torch.manual_seed(0)
    return distill.make("original", models.create(SETUP.student), None, {})


@pytest.mark.parametrize(("name", "kind"), [("sgd", "SGD"), ("adamw", "AdamW"), ("lamb", "Lamb")])
def test_norms_and_biases_do_not_decay_and_the_head_learns_at_its_own_rate(name, kind):
    model, setup = alone(), replace(SETUP, optimizer=name, no_decay_norms=True, head_lr_scale=10.0, weight_decay=0.1)
    optimizer = make_optimizer(model, setup)
    begin_epoch(optimizer, replace(setup, lr=0.01), 0)
    of = {id(each): group for group in optimizer.param_groups for each in group["params"]}
    assert type(optimizer).__name__ == kind and len(of) == len(list(model.parameters()))
    for path, parameter in model.student.named_parameters():
        group, last = of[id(parameter)], path.startswith("fc.")
        assert group["weight_decay"] == (0 if parameter.ndim == 1 else 0.1), path
        assert group["lr"] == pytest.approx(0.1 if last else 0.01), path
    assert any(path.startswith("fc.") for path, _ in model.student.named_parameters())


def test_the_papers_optimiser_has_one_group():
    assert len(make_optimizer(alone(), SETUP).param_groups) == 1


def test_lamb_without_timm_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(UserError, match="--optimizer lamb is timm's, which is not there"):
        make_optimizer(alone(), replace(SETUP, optimizer="lamb"))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_gradient_is_scaled_down_to_its_largest_norm_after_it_is_unscaled(scaled):
    accelerator, setup, model = start("no"), replace(SETUP, momentum=0.0, nesterov=False, weight_decay=0.0), alone()
    accelerator.scaler = torch.amp.GradScaler("cpu") if scaled else None
    optimizer = make_optimizer(model, setup)
    set_rate(optimizer, 1.0)
    before = [each.detach().clone() for each in model.parameters()]
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    training_step(accelerator, model, None, optimizer, images, labels, 0.0, clip_grad=0.01)
    moved = torch.cat([(one - other).flatten() for one, other in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
def test_labels_are_smoothed_as_pytorch_does(mixed):
    accelerator, model = start("no"), alone()
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    labels = 0.7 * F.one_hot(labels, 3) + 0.3 * F.one_hot(labels.flip(0), 3) if mixed else labels
    optimizer = make_optimizer(model, SETUP)
    logits, found, _ = training_step(
        accelerator, model, None, optimizer, images, labels, 0.0, label_smoothing=0.1, accumulation_steps=2
    )
    probabilities = labels if mixed else F.one_hot(labels, 3).float()
    smooth = 0.9 * probabilities + 0.1 / 3
    assert found.item() == pytest.approx(-(smooth * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)
