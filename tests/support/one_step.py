"""A step's losses and gradients with BatchNorm in eval mode, on whatever processes there are."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from overhaul.options import Run
from overhaul.training.build import build
from overhaul.training.metrics import Meter
from overhaul.training.optimisation import training_step
from overhaul.training.step import Step
from support.runs import DIGITS


def one_step(teacher: str, parts: int, comm_hook: str = "no") -> dict[str, torch.Tensor]:
    """The first step of the digits, in fp32, brought to the CPU; losses are means over all processes."""
    setup = replace(DIGITS, teacher=replace(DIGITS.teacher, weights=teacher))
    run = Run(gradient_accumulation_steps=parts, comm_hook=comm_hook, tf32=False)
    of = build(setup, run)
    of.model.eval()
    of.teacher.eval()
    step = Step(of, Meter(of.accelerator, setup))
    images, labels = step.normalized(*step.on_device(*next(iter(of.train_loader))))
    networks = of.accelerator, of.model, of.teacher_forward, SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    _, *losses = training_step(*networks, images, labels, setup.distill_weight, parts)
    gradients = {name: parameter.grad.clone() for name, parameter in of.method.named_parameters()}
    result = {"losses": of.accelerator.reduce(torch.stack(losses), "mean"), **gradients}
    of.accelerator.end_training()
    return {name: value.cpu() for name, value in result.items()}
