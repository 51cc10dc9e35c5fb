"""A training step written plainly, as the authors' release has it: fp32, NCHW, the teacher's graph kept and dropped."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import distill, models
from overhaul.setups import SETUPS


def plain_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """partial_l2 before the mean over the batch."""
    target = torch.max(teacher, margin.view(1, -1, 1, 1))
    squares = F.mse_loss(student, target, reduction="none")
    return (squares * ((student > target) | (target > 0)).float()).sum()


def make_plain_step(name: str, device: str = "cpu") -> Callable[[Tensor, Tensor], Tensor]:
    """step(images, labels) -> loss of a setup's networks with fresh weights, all on the device."""
    setup = SETUPS[name]
    torch.manual_seed(0)
    teacher, student = (models.create(net).train().to(device) for net in (setup.teacher, setup.student))
    pairs = list(zip(student.norms, teacher.norms, strict=True))
    connectors = nn.ModuleList(distill.connector(s.num_features, t.num_features).to(device) for s, t in pairs)
    margins = [distill.margin(norm).to(device) for norm in teacher.norms]
    parameters = [*student.parameters(), *connectors.parameters()]
    how = {"momentum": setup.momentum, "weight_decay": setup.weight_decay, "nesterov": setup.nesterov}
    optimizer = torch.optim.SGD(parameters, lr=setup.lr, **how)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        targets = teacher.forward_stages(images).features
        logits, features = student.forward_stages(images)
        loss, last = F.cross_entropy(logits, labels), len(features) - 1
        for i, (mine, target) in enumerate(zip(features, targets, strict=True)):
            distance = plain_distance(connectors[i](mine), target.detach(), margins[i])
            loss = loss + setup.distill_weight * distance / len(images) / 2 ** (last - i)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
