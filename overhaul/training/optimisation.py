"""The optimiser, its schedule and the training step, with all that makes the networks fast in it."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul import distill
from overhaul.distill import Distiller, Sum
from overhaul.nets import FUNCTION
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.system.processes import meet
from overhaul.training.teaching import COMPILE, Shift, Shown, TeacherForward, make_teaching


def make_ready(
    model: Distiller | Sum,
    teacher: nn.Module | None,
    setup: Setup,
    run: Run,
    accelerator,
    shift: Shift | None = None,
    order: Sequence[int] | None = None,
) -> tuple:
    """What training_step takes of a module of distill.make and its teacher: model, optimiser, TeacherForward.

    Both go to the device, in channels_last, and are compiled if the run says so. shift, order: see teaching.Shown.
    """
    model.to(memory_format=torch.channels_last)
    if run.sync_bn:  # of the student before anything hung on its modules, see networks.synchronised
        for part in distill.parts(model):
            part.connectors = nn.SyncBatchNorm.convert_sync_batchnorm(part.connectors)
    if run.compile in COMPILE:
        model.compile(**COMPILE[run.compile])
    if accelerator.num_processes > 1 and FUNCTION.fullmatch(setup.student.family):
        accelerator.ddp_handler.find_unused_parameters = True  # a user's network may skip layers at random
    teacher_forward = None
    if teacher is not None:
        teacher.to(accelerator.device, memory_format=torch.channels_last)
        shown = Shown(shift, setup.teacher.image_size, order)
        teacher_forward = make_teaching(teacher, model, setup, shown, accelerator, run.compile)
    meet()
    return *accelerator.prepare(model, make_optimizer(model, setup)), teacher_forward


def make_optimizer(model: nn.Module, setup: Setup) -> torch.optim.SGD:
    """SGD over student and connectors, weight decay on every parameter, with a momentum of zero."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=setup.lr,
        momentum=setup.momentum,
        weight_decay=setup.weight_decay,
        nesterov=setup.nesterov,
        fused=True,
    )
    optimizer.register_state_dict_post_hook(with_numbers)
    zero_momentum(optimizer)
    return optimizer


def in_tensor(device: torch.device) -> bool:
    """Whether a learning rate is a tensor there, in every run, as one in fp32 gives other bits than a number."""
    return device.type == "cuda"


def with_numbers(_, state: dict) -> dict:
    """What an optimiser writes down, its learning rate as a number."""
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def zero_momentum(optimizer: torch.optim.Optimizer, restart: bool = False) -> None:
    """Give every parameter a momentum of zero: one that has none, as in an old checkpoint, or all at a restart."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                # fused SGD would make it in its first step and, where GradScaler skips that, leave it uninitialised
                state["momentum_buffer"] = torch.zeros_like(parameter)
            elif restart:
                state["momentum_buffer"].zero_()


def begin_epoch(optimizer: torch.optim.Optimizer, setup: Setup, epoch: int, step: int = 0) -> float:
    """Set and return the learning rate after `epoch` finished epochs.

    Where it drops and the setup says so, momentum restarts from zero, unless the epoch goes on after some of its steps.
    On a CUDA GPU the rate lies there in a tensor, which a captured step reads.
    """
    drops = setup.drops_before(epoch)
    lr = setup.lr / 10**drops
    for group in optimizer.param_groups:
        device = group["params"][0].device
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = torch.tensor(lr, device=device) if in_tensor(device) else lr
    restart = setup.restart_momentum and epoch > 0 and not step and drops > setup.drops_before(epoch - 1)
    zero_momentum(optimizer, restart)
    return lr


def distill_weights(model: Distiller | Sum, setup: Setup, epoch: int, images: int) -> float | Tensor:
    """What the distillation losses weigh after `epoch` finished epochs: a number, or [methods] of a sum.

    images: that a process sends through the networks at once.
    """
    given = setup.of_methods("distill_weight"), setup.of_methods("ramp_epochs"), distill.parts(model)
    found = [
        weight * (min((epoch + 1) / ramp, 1) if ramp else 1) * part.scale(images)
        for weight, ramp, part in zip(*given, strict=True)
    ]
    return torch.tensor(found, device=next(model.parameters()).device) if isinstance(model, Sum) else found[0]


def training_step(
    accelerator,
    model: nn.Module,
    teacher_forward: TeacherForward | None,
    optimizer,
    images: Tensor,
    labels: Tensor,
    weight: float | Tensor,
    accumulation_steps: int = 1,
    label_weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step on normalised images; gives logits, cross-entropy and weighted distillation loss, without a graph.

    model, teacher_forward, optimizer: see make_ready; teacher_forward is None where the method needs no teacher.
    labels: [batch] class numbers or [batch, classes] probabilities. weight: of the distillation loss, [methods] of a
    sum, whose losses are a vector too. accumulation_steps: parts of equal size that the batch goes through one after
    the other; their gradients add up to the mean over the batch.
    """
    if accumulation_steps == 1:
        results = forward_and_backward(accelerator, model, teacher_forward, images, labels, weight, label_weight)
    else:
        how = weight, label_weight, accumulation_steps
        results = in_parts(accelerator, model, teacher_forward, images, labels, *how)
    update(accelerator, optimizer)
    return results


def in_parts(
    accelerator, model, teacher_forward, images: Tensor, labels: Tensor, weight, label_weight: float, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """forward_and_backward of n parts of a batch, whose gradients the processes exchange with the last."""
    results = []
    for i, part in enumerate(zip(images.chunk(n), labels.chunk(n), strict=True)):
        with nullcontext() if i == n - 1 else accelerator.no_sync(model):
            results.append(forward_and_backward(accelerator, model, teacher_forward, *part, weight, label_weight, n))
    logits, *both = zip(*results, strict=True)
    return torch.cat(logits), *(sum(each / n for each in losses) for losses in both)


def forward_and_backward(
    accelerator, model, teacher_forward, images: Tensor, labels: Tensor, weight, label_weight: float, n: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and losses as in training_step; their gradients, over n, are added to those that are there."""
    logits, cross_entropy, distill_loss = losses(model, teacher_forward, images, labels, weight)
    loss = total(cross_entropy, distill_loss, label_weight)
    loss = loss if n == 1 else loss / n
    loss = accelerator.scaler.scale(loss) if accelerator.scaler else loss
    loss.backward()
    return logits.detach(), cross_entropy.detach(), distill_loss.detach()


def update(accelerator, optimizer) -> None:
    """The optimiser's step, past Accelerate's, which looks on the disk for other optimisers each time."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if accelerator.scaler:
        accelerator.scaler.step(optimizer)
        accelerator.scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad()


def total(cross_entropy: Tensor, distill_loss: Tensor, label_weight: float) -> Tensor:
    """The loss of a step. distill_loss: weighted, a scalar or [methods]."""
    labelled = cross_entropy if label_weight == 1 else label_weight * cross_entropy
    return labelled + (distill_loss.sum() if distill_loss.ndim else distill_loss)


def warm_up_ddp(accelerator, model, teacher_forward: TeacherForward | None, setup: Setup, share: int) -> None:
    """Let DistributedDataParallel lay out its buckets as they are after the first step of a run.

    Of more than two processes, the order in which gradients are summed depends on it. The step, of `share` images,
    leaves BatchNorm statistics behind, which a checkpoint then replaces.
    """
    if accelerator.num_processes > 2:
        images = torch.zeros(share, 3, setup.image_size, setup.image_size, device=accelerator.device)
        labels = torch.zeros(share, dtype=torch.int64, device=accelerator.device)
        images = images.to(memory_format=torch.channels_last)
        results = losses(model, teacher_forward, images, labels, 1.0)
        accelerator.backward(total(*results[1:], setup.label_weight))
        model.zero_grad()


def losses(
    model, teacher_forward: TeacherForward | None, images: Tensor, labels: Tensor, weight: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, cross-entropy and weighted distillation loss, with their graph; see training_step."""
    logits, distill_loss = model(images, teacher_forward(images) if teacher_forward else None, labels)
    return logits, F.cross_entropy(logits, labels), weight * distill_loss
