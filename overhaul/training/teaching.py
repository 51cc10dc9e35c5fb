"""The teacher's passes: in the precision of the run, and in the modes that the methods ask for."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from overhaul import distill
from overhaul.data.loaders import to_size
from overhaul.distill import Distiller, Sum
from overhaul.models import Backbone, Embedded, Stages
from overhaul.recipe import Setup

LOW_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE = {"default": {"dynamic": False}, "max": {"dynamic": False, "mode": "reduce-overhead"}}  # for torch.compile

Taught = Stages | Embedded
TeacherForward = Callable[[Tensor], Taught | dict[str, Taught]]
Shift = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Shown:
    """How a teacher sees the student's normalised images, and how its logits are given on.

    shift: factor and summand a channel that make the images its own, where they differ. size: side in pixels, in place
    of the student's. order: for each class of the data its number in the logits, where the teacher has another order.
    """

    shift: Shift | None = None
    size: int | None = None
    order: Sequence[int] | None = None


def make_teaching(
    teacher: Backbone, model: Distiller | Sum, setup: Setup, shown: Shown, accelerator: Accelerator, compile: str
) -> TeacherForward:
    """The teacher's pass for a module of distill.make.

    Where the methods of a sum want the teacher in different modes, a pass for each mode; it gives them by the methods'
    names.
    """
    norms, parts = setup.of_methods("teacher_norm"), distill.parts(model)
    passes = {}
    for norm in dict.fromkeys(norms):
        asking = [part for part, its in zip(parts, norms, strict=True) if its == norm]
        network = in_mode(teacher, norm) if passes else distill.teaching(teacher, norm)
        passes[norm] = make_teacher_forward(network, accelerator, compile, shown, asking, first=not passes)
    if len(passes) == 1:
        return passes[norms[0]]

    def teacher_forward(images: Tensor) -> dict[str, Taught]:
        taught = {norm: each(images) for norm, each in passes.items()}
        return {name: taught[norm] for name, norm in zip(setup.methods, norms, strict=True)}

    return teacher_forward


def in_mode(teacher: nn.Module, norm: str) -> nn.Module:
    """The teacher in a mode, see distill.teaching: a copy that has the same tensors."""
    tensors = (*teacher.parameters(), *teacher.buffers())
    return distill.teaching(copy.deepcopy(teacher, {id(each): each for each in tensors}), norm)


def make_teacher_forward(
    teacher: Backbone,
    accelerator: Accelerator,
    compile: str = "no",
    shown: Shown = Shown(),
    asking: Sequence[Distiller] = (),
    first: bool = True,
) -> TeacherForward:
    """A pass, without a graph, in the accelerator's precision: that of the teacher's weights, too, from now on.

    asking: the methods that it is for, which tell what it gives; without them logits and features. first: of a step.
    """
    scale = shown.shift and [torch.tensor(each, device=accelerator.device)[:, None, None] for each in shown.shift]
    order = shown.order and torch.tensor(shown.order, device=accelerator.device)
    precision, network = autocast(accelerator), compiled(distill.needed(teacher, asking), compile)
    for module in teacher.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(low_precision(accelerator))

    def teacher_forward(images: Tensor) -> Taught:
        if compile == "max" and first:
            torch.compiler.cudagraph_mark_step_begin()  # the features of the step before are no longer needed
        with torch.no_grad(), precision:
            images = torch.addcmul(scale[1], images, scale[0]) if scale else images
            stages = network(to_size(images, shown.size))
            return stages if order is None else stages._replace(logits=stages.logits.index_select(1, order))

    return teacher_forward


def autocast(accelerator) -> torch.autocast:
    """The accelerator's precision, which another Accelerator of the process would change for accelerator.autocast()."""
    low = low_precision(accelerator)
    return torch.autocast(accelerator.device.type, low, enabled=low is not None)


def low_precision(accelerator) -> torch.dtype | None:
    """What convolutions and products are computed in, where it is not fp32."""
    return LOW_PRECISIONS.get(accelerator.mixed_precision)


def compiled(function: Callable, compile: str) -> Callable:
    """The function, by torch.compile if --compile asks for that."""
    return torch.compile(function, **COMPILE[compile]) if compile in COMPILE else function
