"""partial_l2 on NVIDIA GPUs: one Triton kernel a map for the loss, one for its gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048  # elements of a map that a program takes


class TritonPartialL2(torch.autograd.Function):
    """partial_l2 for fp16, bf16 and fp32, in one launch a map and one small sum, and one launch for the gradient.

    An element costs one read of each map and one write of the kept difference, 6 bytes in bf16. Nothing is added up in
    an order that chance decides, so that the loss repeats itself to the bit. Maps in another layout than channels_last
    are copied.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
        student, teacher = (each.contiguous(memory_format=torch.channels_last) for each in (student, teacher))
        kept, size = torch.empty_like(student, memory_format=torch.channels_last), student.numel()
        programs = max(1, triton.cdiv(size, BLOCK))
        partial = torch.empty(programs, dtype=torch.float32, device=student.device)
        with torch.cuda.device_of(student):
            difference_kernel[(programs,)](
                *(student, teacher, margin.contiguous(), kept, partial, size, float(len(student))),
                CHANNELS=len(margin),
                BLOCK=BLOCK,
            )
        ctx.save_for_backward(kept)
        return partial.sum()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        (kept,) = ctx.saved_tensors
        result, size = torch.empty_like(kept), kept.numel()
        with torch.cuda.device_of(kept):
            gradient_kernel[(max(1, triton.cdiv(size, BLOCK)),)](
                kept, gradient, result, size, 2 / max(1, len(kept)), BLOCK=BLOCK
            )
        return result, None, None


@triton.jit
def difference_kernel(
    student, teacher, margin, kept, partial, size, images, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """kept: overhaul.differences of a block of both maps; partial: the sum of its squares, over the images."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    mine = tl.load(student + place, inside, 0.0).to(tl.float32)
    theirs = tl.load(teacher + place, inside, 0.0).to(tl.float32)
    least = tl.load(margin + place % CHANNELS, inside, 0.0).to(tl.float32)
    target = tl.maximum(theirs, least, propagate_nan=tl.PropagateNan.ALL)
    difference = mine - target
    positive = tl.maximum(difference, target, propagate_nan=tl.PropagateNan.ALL)
    difference = tl.where(positive <= 0, 0.0, difference)
    tl.store(kept + place, difference, inside)
    tl.store(partial + tl.program_id(0), tl.sum(difference * difference, 0) / images)


@triton.jit
def gradient_kernel(kept, gradient, result, size, share, BLOCK: tl.constexpr):
    """result: kept times the loss's gradient, a scalar, and share, multiplied in fp32."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    difference = tl.load(kept + place, inside, 0.0).to(tl.float32)
    tl.store(result + place, difference * (tl.load(gradient) * share), inside)
