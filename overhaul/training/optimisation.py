"""The training step, with all that makes the networks fast in it."""

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
from overhaul.training.optimizer import make_optimizer
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
    label_smoothing: float = 0.0,
    clip_grad: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step on normalised images; gives logits, cross-entropy and weighted distillation loss, without a graph.

    model, teacher_forward, optimizer: see make_ready; teacher_forward is None where the method needs no teacher.
    labels: [batch] class numbers or [batch, classes] probabilities. weight: of the distillation loss, [methods] of a
    sum, whose losses are a vector too. accumulation_steps: parts of equal size that the batch goes through one after
    the other; their gradients add up to the mean over the batch. clip_grad: the norm that the gradient has at most.
    """
    how = weight, label_weight, label_smoothing
    if accumulation_steps == 1:
        results = forward_and_backward(accelerator, model, teacher_forward, images, labels, *how)
    else:
        results = in_parts(accelerator, model, teacher_forward, images, labels, how, accumulation_steps)
    update(accelerator, optimizer, clip_grad)
    return results


def in_parts(
    accelerator, model, teacher_forward, images: Tensor, labels: Tensor, how: tuple, n: int
) -> tuple[Tensor, Tensor, Tensor]:
    """forward_and_backward of n parts of a batch, whose gradients the processes exchange with the last."""
    results = []
    for i, part in enumerate(zip(images.chunk(n), labels.chunk(n), strict=True)):
        with nullcontext() if i == n - 1 else accelerator.no_sync(model):
            results.append(forward_and_backward(accelerator, model, teacher_forward, *part, *how, n))
    logits, *both = zip(*results, strict=True)
    return torch.cat(logits), *(sum(each / n for each in losses) for losses in both)


def forward_and_backward(
    accelerator, model, teacher_forward, images: Tensor, labels: Tensor, weight, label_weight, label_smoothing, n=1
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and losses as in training_step; their gradients, over n, are added to those that are there."""
    logits, cross_entropy, distill_loss = losses(model, teacher_forward, images, labels, weight, label_smoothing)
    loss = total(cross_entropy, distill_loss, label_weight)
    loss = loss if n == 1 else loss / n
    loss = accelerator.scaler.scale(loss) if accelerator.scaler else loss
    loss.backward()
    return logits.detach(), cross_entropy.detach(), distill_loss.detach()


def update(accelerator, optimizer, clip_grad: float | None = None) -> None:
    """The optimiser's step, past Accelerate's, which looks on the disk for other optimisers each time."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    if clip_grad:
        if accelerator.scaler:
            accelerator.scaler.unscale_(optimizer)
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip_grad)
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
    model,
    teacher_forward: TeacherForward | None,
    images: Tensor,
    labels: Tensor,
    weight: float | Tensor,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, cross-entropy and weighted distillation loss, with their graph; see training_step."""
    logits, distill_loss = model(images, teacher_forward(images) if teacher_forward else None, labels)
    return logits, F.cross_entropy(logits, labels, label_smoothing=label_smoothing), weight * distill_loss
