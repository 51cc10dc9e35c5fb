"""The optimiser, its schedule and the training step, with all that makes the networks fast in it."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overhaul.data.loaders import to_size
from overhaul.models import Stages
from overhaul.nets import FUNCTION
from overhaul.options import Run
from overhaul.recipe import Setup

LOW_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE = {"default": {"dynamic": False}, "max": {"dynamic": False, "mode": "max-autotune"}}  # for torch.compile

TeacherForward = Callable[[Tensor], Stages]
Shift = tuple[list[float], list[float]]


def make_ready(
    model: nn.Module, teacher: nn.Module | None, setup: Setup, run: Run, accelerator, shift: Shift | None = None
) -> tuple:
    """What training_step takes of a module of distill.METHODS and its teacher: model, optimiser, TeacherForward.

    Both go to the device, in channels_last, and are compiled if the run says so. shift: see make_teacher_forward.
    """
    model.to(memory_format=torch.channels_last)
    if run.sync_bn:  # of the student before anything hung on its modules, see networks.synchronised
        model.connectors = nn.SyncBatchNorm.convert_sync_batchnorm(model.connectors)
    if run.compile != "no":
        model.compile(**COMPILE[run.compile])
    if accelerator.num_processes > 1 and FUNCTION.fullmatch(setup.student.family):
        accelerator.ddp_handler.find_unused_parameters = True  # a user's network may skip layers at random
    teacher_forward = None
    if teacher is not None:
        teacher.to(accelerator.device, memory_format=torch.channels_last)
        teacher_forward = make_teacher_forward(teacher, accelerator, run.compile, shift, setup.teacher.image_size)
    return *accelerator.prepare(model, make_optimizer(model, setup)), teacher_forward


def make_teacher_forward(
    teacher: nn.Module, accelerator, compile: str = "no", shift: Shift | None = None, size: int | None = None
) -> TeacherForward:
    """The teacher's pass, without a graph, in the accelerator's precision: that of its weights, too, from now on.

    shift: factor and summand a channel that make the student's normalised images the teacher's, where they differ.
    size: side in pixels of the images that it sees, in place of the student's.
    """
    scale = shift and [torch.tensor(each, device=accelerator.device)[:, None, None] for each in shift]
    precision, stages = autocast(accelerator), compiled(teacher.forward_stages, compile)
    for module in teacher.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(low_precision(accelerator))

    def teacher_forward(images: Tensor) -> Stages:
        if compile == "max":
            torch.compiler.cudagraph_mark_step_begin()  # the features of the step before are no longer needed
        with torch.no_grad(), precision:
            images = torch.addcmul(scale[1], images, scale[0]) if scale else images
            return stages(to_size(images, size))

    return teacher_forward


def autocast(accelerator) -> torch.autocast:
    """The accelerator's precision, which another Accelerator of the process would change for accelerator.autocast()."""
    low = low_precision(accelerator)
    return torch.autocast(accelerator.device.type, low, enabled=low is not None)


def low_precision(accelerator) -> torch.dtype | None:
    """What convolutions and products are computed in, where it is not fp32."""
    return LOW_PRECISIONS.get(accelerator.mixed_precision)


def compiled(function: Callable, compile: str) -> Callable:
    """The function, compiled as --compile says."""
    return function if compile == "no" else torch.compile(function, **COMPILE[compile])


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
    zero_momentum(optimizer)
    return optimizer


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
    """
    drops = setup.drops_before(epoch)
    lr = setup.lr / 10**drops
    for group in optimizer.param_groups:
        group["lr"] = lr
    restart = setup.restart_momentum and epoch > 0 and not step and drops > setup.drops_before(epoch - 1)
    zero_momentum(optimizer, restart)
    return lr


def training_step(
    accelerator,
    model: nn.Module,
    teacher_forward: TeacherForward | None,
    optimizer,
    images: Tensor,
    labels: Tensor,
    weight: float,
    accumulation_steps: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step on normalised images; gives logits, cross-entropy and weighted distillation loss, without a graph.

    model, teacher_forward, optimizer: see make_ready; teacher_forward is None where the method needs no teacher.
    labels: [batch] class numbers or [batch, classes] probabilities. weight: of the distillation loss.
    accumulation_steps: parts of equal size that the batch goes through one after the other; their gradients add up to
    the mean over the batch.
    """
    results, n = [], accumulation_steps
    for i, (some_images, some_labels) in enumerate(zip(images.chunk(n), labels.chunk(n), strict=True)):
        with nullcontext() if i == n - 1 else accelerator.no_sync(model):
            logits, cross_entropy, distill_loss = losses(model, teacher_forward, some_images, some_labels, weight)
            accelerator.backward((cross_entropy + distill_loss) / n)
        # a copy of the logits, as the next part's CUDA graph writes over them
        results.append((logits.detach().clone(), cross_entropy.detach() / n, distill_loss.detach() / n))
    optimizer.step()
    optimizer.zero_grad()
    logits, cross_entropy, distill_loss = zip(*results, strict=True)
    return torch.cat(logits), sum(cross_entropy), sum(distill_loss)


def warm_up_ddp(accelerator, model, teacher_forward: TeacherForward | None, setup: Setup, share: int) -> None:
    """Let DistributedDataParallel lay out its buckets as they are after the first step of a run.

    Of more than two processes, the order in which gradients are summed depends on it. The step, of `share` images,
    leaves BatchNorm statistics behind, which a checkpoint then replaces.
    """
    if accelerator.num_processes > 2:
        images = torch.zeros(share, 3, setup.image_size, setup.image_size, device=accelerator.device)
        labels = torch.zeros(share, dtype=torch.int64, device=accelerator.device)
        images = images.to(memory_format=torch.channels_last)
        results = losses(model, teacher_forward, images, labels, setup.distill_weight)
        accelerator.backward(results[1] + results[2])
        model.zero_grad()


def losses(
    model, teacher_forward: TeacherForward | None, images: Tensor, labels: Tensor, weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, cross-entropy and weighted distillation loss, with their graph; see training_step."""
    logits, distill_loss = model(images, teacher_forward(images) if teacher_forward else None, labels)
    return logits, F.cross_entropy(logits, labels), weight * distill_loss
