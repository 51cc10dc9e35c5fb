"""First steps by every method, on whatever processes there are."""

from types import SimpleNamespace

import torch

from overhaul.training.build import build
from overhaul.training.first_batch import measure_first_batch
from overhaul.training.optimisation import distill_weights, training_step
from support.methods import taught


def first_steps(teacher: str, images: str, methods: tuple[str, ...], parts: int = 1) -> dict[str, dict]:
    """By method the losses of the first step, means over all processes, and its gradients; BatchNorm in eval mode."""
    how = {"batch_size": 48, "gradient_accumulation_steps": parts}
    return {method: first_step(*taught(teacher, images, method, **how)) for method in methods}


def first_step(setup, run) -> dict[str, torch.Tensor]:
    of, n = build(setup, run), run.gradient_accumulation_steps
    of.model.eval()
    of.teacher.eval()
    images, labels = next(iter(of.train_loader))
    images, weight = of.normalize(images), distill_weights(of.method, setup, 0, of.share // n)
    first = measure_first_batch(of, images, labels)
    networks = of.accelerator, of.model, of.teacher_forward, SimpleNamespace(step=lambda: None, zero_grad=lambda: None)
    _, *losses = training_step(*networks, images, labels, weight, n, setup.label_weight)
    found = {name: parameter.grad.clone() for name, parameter in of.method.named_parameters()}
    found["losses"] = of.accelerator.reduce(torch.cat([each.reshape(-1) for each in losses]), "mean")
    found["first batch"] = torch.tensor([first["cross_entropy"], first["distill_loss"]])
    return found
