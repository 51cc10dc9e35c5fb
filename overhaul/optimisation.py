"""The optimiser, its schedule and the training step."""

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


def begin_epoch(optimizer: torch.optim.Optimizer, setup: Setup, epoch: int) -> float:
    """Set and return the learning rate after `epoch` finished epochs.

    Where it drops and the setup says so, momentum restarts from zero.
    """
    drops = setup.drops_before(epoch)
    lr = setup.lr / 10**drops
    for group in optimizer.param_groups:
        group["lr"] = lr
    if setup.restart_momentum and epoch > 0 and drops > setup.drops_before(epoch - 1):
        optimizer.state.clear()
    return lr


def training_step(
    accelerator, model: nn.Module, teacher: nn.Module | None, optimizer, images: Tensor, labels: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step on normalised images; gives logits, cross-entropy and weighted distillation loss, without a graph.

    model: a prepared module of distill.METHODS. teacher: see distill.as_teacher; None where the method needs none.
    labels: [batch] class numbers or [batch, classes] probabilities. weight: of the distillation loss.
    """
    stages = None
    if teacher is not None:
        with torch.no_grad(), accelerator.autocast():
            stages = teacher.forward_stages(images)
    logits, distill_loss = model(images, stages, labels)
    cross_entropy, distill_loss = F.cross_entropy(logits, labels), weight * distill_loss
    accelerator.backward(cross_entropy + distill_loss)
    optimizer.step()
    optimizer.zero_grad()
    return logits.detach(), cross_entropy.detach(), distill_loss.detach()
