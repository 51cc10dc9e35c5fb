"""The optimiser, its schedule and the training step."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.setups import Setup


def make_optimizer(model: nn.Module, setup: Setup) -> torch.optim.SGD:
    """SGD over student and connectors, weight decay on every parameter."""
    return torch.optim.SGD(
        model.parameters(),
        lr=setup.lr,
        momentum=setup.momentum,
        weight_decay=setup.weight_decay,
        nesterov=setup.nesterov,
    )


def begin_epoch(optimizer: torch.optim.Optimizer, setup: Setup, epoch: int, step: int = 0) -> float:
    """Set and return the learning rate after `epoch` finished epochs.

    Where it drops and the setup says so, momentum restarts from zero, unless the epoch goes on after some of its steps.
    """
    drops = setup.drops_before(epoch)
    lr = setup.lr / 10**drops
    for group in optimizer.param_groups:
        group["lr"] = lr
    if setup.restart_momentum and epoch > 0 and not step and drops > setup.drops_before(epoch - 1):
        optimizer.state.clear()
    return lr


def training_step(
    accelerator,
    model: nn.Module,
    teacher: nn.Module | None,
    optimizer,
    images: Tensor,
    labels: Tensor,
    weight: float,
    parts: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step on normalised images; gives logits, cross-entropy and weighted distillation loss, without a graph.

    model: a prepared module of distill.METHODS. teacher: see distill.as_teacher; None where the method needs none.
    labels: [batch] class numbers or [batch, classes] probabilities. weight: of the distillation loss. parts: of equal
    size, that the batch goes through one after the other; their gradients add up to the mean over the batch.
    """
    results = []
    for i, (some_images, some_labels) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
        with nullcontext() if i == parts - 1 else accelerator.no_sync(model):
            logits, cross_entropy, distill_loss = losses(accelerator, model, teacher, some_images, some_labels, weight)
            accelerator.backward((cross_entropy + distill_loss) / parts)
        results.append((logits.detach(), cross_entropy.detach() / parts, distill_loss.detach() / parts))
    optimizer.step()
    optimizer.zero_grad()
    logits, cross_entropy, distill_loss = zip(*results, strict=True)
    return torch.cat(logits), sum(cross_entropy), sum(distill_loss)


def losses(accelerator, model, teacher, images: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, cross-entropy and weighted distillation loss, with their graph; see training_step."""
    stages = None
    if teacher is not None:
        with torch.no_grad(), accelerator.autocast():
            stages = teacher.forward_stages(images)
    logits, distill_loss = model(images, stages, labels)
    return logits, F.cross_entropy(logits, labels), weight * distill_loss
