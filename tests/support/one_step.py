"""A step's losses and gradients with BatchNorm in eval mode: python one_step.py TEACHER PARTS HOOK OUT, launched."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import torch

from overhaul.options import Run
from overhaul.setups import SETUPS
from overhaul.system import accelerator as engine
from overhaul.training.build import make_job
from overhaul.training.optimisation import training_step


def one_step(teacher: str, parts: int, comm_hook: str = "no") -> dict[str, torch.Tensor]:
    """The first step of the digits, in fp32; losses are means over all processes."""
    setup = replace(SETUPS["digits"], teacher=replace(SETUPS["digits"].teacher, weights=teacher))
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
    gradients = {name: parameter.grad for name, parameter in job.method.named_parameters()}
    result = {"losses": accelerator.reduce(torch.stack(losses), "mean"), **gradients}
    result["rank"] = accelerator.process_index
    accelerator.end_training()
    return result


if __name__ == "__main__":
    result = one_step(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    torch.save(result, f"{sys.argv[4]}.{result.pop('rank')}")
