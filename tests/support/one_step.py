"""A step's losses and gradients with BatchNorm in eval mode, on whatever processes there are."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from overhaul.options import Run
from overhaul.system import accelerator as engine
from overhaul.training.build import make_job
from overhaul.training.optimisation import training_step
from support.runs import DIGITS


def one_step(teacher: str, parts: int, comm_hook: str = "no") -> dict[str, torch.Tensor]:
    """The first step of the digits, in fp32; losses are means over all processes."""
    setup = replace(DIGITS, teacher=replace(DIGITS.teacher, weights=teacher))
    run = Run(gradient_accumulation_steps=parts, comm_hook=comm_hook)
    accelerator = engine.start(run)
    job = make_job(setup, run, accelerator)
    job.model.eval()
    job.teacher.eval()
    images, labels = next(iter(job.train_loader))
    optimizer = SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    _, *losses = training_step(
        accelerator, job.model, job.teach, optimizer, job.normalize(images), labels, setup.distill_weight, parts
    )
    gradients = {name: parameter.grad.clone() for name, parameter in job.method.named_parameters()}
    result = {"losses": accelerator.reduce(torch.stack(losses), "mean"), **gradients}
    accelerator.end_training()
    return result
