"""What teacher and labels ask of a fresh student on the first batch, measured on a copy of it."""

import copy
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.recipe import Setup
from overhaul.system.processes import reduced
from overhaul.training.build import Components
from overhaul.training.optimisation import distill_weights
from overhaul.training.progress import forget_peak
from overhaul.training.teaching import autocast


def measure_first_batch(of: Components, images: Tensor, labels: Tensor) -> dict:
    """The losses of the first step, and how the gradients of the two compare, over all processes; nothing is changed.

    images: normalised; labels: see training_step. stage_losses: without their weights; distill_loss: weighted;
    gradient_ratio: the norm of its gradient over that of the cross-entropy's, in the parameters of the student that
    both reach; None where it is no number. With fp16, computed in fp32, as gradients are not scaled.
    """
    with random_numbers_kept(images.device):
        method, n = copy.deepcopy(of.method), of.run.gradient_accumulation_steps
        parts = zip(images.chunk(n), labels.chunk(n), strict=True)
        found = [measure_part(of, method, *part) for part in parts]
    losses, reached, *gradients = (reduced(of.accelerator, sum(each) / n, "mean") for each in zip(*found, strict=True))
    sizes = torch.tensor([each.numel() for each in learned(of.method)], device=images.device)
    by_both = reached.all(0).repeat_interleave(sizes)
    to_labels, to_teacher = (gradient[by_both].norm().item() for gradient in gradients)
    cross_entropy, distill_loss, *stages = losses.tolist()
    forget_peak(images.device)  # of the copy and its gradients, which no step has
    ratio = to_teacher / to_labels if to_labels else math.nan
    numbers = {"cross_entropy": cross_entropy, "distill_loss": distill_loss, "gradient_ratio": ratio}
    return {"stage_losses": list(map(finite, stages)), **{name: finite(value) for name, value in numbers.items()}}


def measure_part(of: Components, method: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Cross-entropy, distillation loss, both weighted, and the stages' losses or, of a sum, the methods', weighted;
    which parameters the first two reach, as numbers [2, parameters]; their gradients. A pass that skips layers at
    random reaches others each time.
    """
    stages, in_fp32 = of.teacher_forward(images), of.accelerator.mixed_precision == "fp16"
    with nullcontext() if in_fp32 else autocast(of.accelerator):
        if hasattr(method, "stage_losses"):
            logits, features = method.student.forward_stages(images)
            by_stage = method.stage_losses(features, stages.features)
            distilled = method.weighted(by_stage)
        else:
            by_stage = []
            logits, distilled = type(method).forward(method, images, stages, labels)
    distilled = distill_weights(method, of.setup, 0, len(images)) * distilled
    by_stage = [*by_stage, *(distilled if distilled.ndim else ())]
    both = of.setup.label_weight * F.cross_entropy(logits.float(), labels), distilled.sum()
    learn = learned(method)
    found = [torch.autograd.grad(loss, learn, retain_graph=True, allow_unused=True) for loss in both]
    reached = torch.tensor([[float(each is not None) for each in side] for side in found], device=images.device)
    losses = torch.stack([each.detach().float() for each in (*both, *by_stage)])
    return losses, reached, *(flat(side, learn) for side in found)


def learned(method: nn.Module) -> list[nn.Parameter]:
    return [each for each in method.student.parameters() if each.requires_grad]


def flat(gradients: tuple[Tensor | None, ...], parameters: list[nn.Parameter]) -> Tensor:
    """In a row, with zeros where there is none."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Whatever draws random numbers in between leaves those that come after as they would have been."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def first_batch_lines(found: dict, setup: Setup) -> str:
    """For people; no verdict, as none is known."""

    def shown(value: float | None) -> str:
        return "no finite number" if value is None else f"{value:.3g}"

    losses, stages, methods = list(map(shown, found["stage_losses"])), "", ""
    if len(setup.methods) > 1:
        methods = f" ({', '.join(map(' '.join, zip(setup.methods, losses, strict=True)))})"
    elif losses:
        stages = f"stage losses {', '.join(losses)}, "
    return (
        f"  1st batch  {stages}distillation loss {shown(found['distill_loss'])}{methods} with its weight, "
        f"cross-entropy {shown(found['cross_entropy'])}{' with its own' * (setup.label_weight != 1)}\n"
        f"             the gradient of the distillation loss is {shown(found['gradient_ratio'])} times the "
        f"cross-entropy's, in the parameters that both reach"
    )
