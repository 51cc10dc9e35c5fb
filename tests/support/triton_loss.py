"""The loss by Triton's kernels beside the loss piece by piece: value and gradient, over sizes, precisions and layouts.

As a program it compares all cases on a CPU, which takes TRITON_INTERPRET=1.
"""

from itertools import product

import torch
from torch import Tensor

from overhaul.distill.overhaul import FusedPartialL2
from overhaul.distill.triton_l2 import TritonPartialL2

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
PRECISIONS = ((FP32, FP32), (BF16, BF16), (FP16, FP16), (BF16, FP32), (FP32, FP16), (FP16, BF16))  # student, teacher
SHAPES = (
    *((2, 5, 7, 3), (3, 64, 8, 8), (5, 24, 13, 9), (3, 2048, 1, 2), (4, 57, 1, 1), (1, 1, 1, 1)),
    *((0, 3, 4, 4), (2, 3, 0, 4)),
)
LAYOUTS = {
    "channels_last": lambda feature: feature.contiguous(memory_format=torch.channels_last),
    "contiguous": lambda feature: feature.contiguous(),
    "every other": lambda feature: feature.repeat_interleave(2, 3)[..., ::2],
    "offset": lambda feature: LAYOUTS["channels_last"](torch.cat([feature[:1], feature]))[1:],
}
CASES = [*product(SHAPES, PRECISIONS, LAYOUTS)]
NUMBERS = (0.0, 1.0, -1.0, 6e4, -6e4, torch.inf, -torch.inf, torch.nan)  # 6e4 less -6e4 is too much for fp16


def value_and_gradient(way: type[torch.autograd.Function], student: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    loss = way.apply(student, *others)
    (gradient,) = torch.autograd.grad(loss, student, torch.tensor(0.37, device=student.device))
    return loss, gradient


def compare(device: str, student: Tensor, teacher: Tensor, margin: Tensor, layout: str) -> None:
    """The pieces on a CPU against the kernels on the device: the value but for its rounding, the gradient to the bit.

    Triton's interpreter cuts what it turns to bf16, twice here, where a GPU rounds to the nearest.
    """
    arrange = LAYOUTS[layout]
    ways = (FusedPartialL2, "cpu"), (TritonPartialL2, device)
    (theirs, expected), (mine, gradient) = (
        value_and_gradient(way, arrange(student.to(at)), arrange(teacher.to(at)), margin.to(at)) for way, at in ways
    )
    assert mine.dtype == FP32
    torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-6, atol=0, equal_nan=True)
    cut = 2 * 2**-7 if device == "cpu" and student.dtype == BF16 else 0
    torch.testing.assert_close(gradient.cpu(), expected, rtol=cut, atol=0, equal_nan=True)
    assert gradient.stride() == expected.stride()


def compare_case(device: str, shape: tuple, precisions: tuple, layout: str) -> None:
    torch.manual_seed(0)
    student, teacher = (torch.randn(shape).to(each) for each in precisions)
    compare(device, student, teacher, 0.1 - torch.rand(shape[1]), layout)


def compare_numbers(device: str, precisions: tuple) -> None:
    """Every number against every other, infinities and NaN too: the student's by image, the margin's by channel."""
    numbers = torch.tensor(NUMBERS)
    shape = len(numbers), len(numbers), len(numbers), 1
    student = numbers.view(-1, 1, 1, 1).expand(shape).to(precisions[0])
    teacher = numbers.view(1, 1, -1, 1).expand(shape).to(precisions[1])
    for image in range(len(numbers)):
        compare(device, student[image : image + 1], teacher[image : image + 1], numbers, "channels_last")


if __name__ == "__main__":
    for case in CASES:
        compare_case("cpu", *case)
    for each in PRECISIONS:
        compare_numbers("cpu", each)
