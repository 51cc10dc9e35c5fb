"""The loss on an NVIDIA GPU: Triton's kernels against the pieces on a CPU, their launches, and that they repeat."""

import pytest
import torch

from overhaul import distill
from overhaul.distill.overhaul import FusedPartialL2, fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available() or torch.version.cuda is None, reason="needs an NVIDIA GPU"),
]
support = pytest.importorskip("support.triton_loss", reason="needs Triton")
GIB = 2**30


def maps(shape: tuple, precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student, teacher, margin, made on the GPU."""
    torch.manual_seed(0)
    pair = [torch.randn(shape, dtype=precision, device="cuda") for _ in range(2)]
    student, teacher = (each.contiguous(memory_format=torch.channels_last) for each in pair)
    return student.requires_grad_(), teacher, -torch.rand(shape[1], device="cuda")


@pytest.mark.parametrize("precisions", support.PRECISIONS, ids=str)
def test_it_is_the_loss_of_the_pieces_and_so_is_its_gradient(precisions):
    """Value to 1e-6, gradient to the bit: odd sizes, layouts, infinities and NaN."""
    for shape, theirs, layout in support.CASES:
        if theirs == precisions:
            support.compare_case("cuda", shape, precisions, layout)
    support.compare_numbers("cuda", precisions)


def test_partial_l2_takes_the_kernels_but_for_fp64():
    for precision in (torch.float16, torch.bfloat16, torch.float32):
        assert type(distill.partial_l2(*maps((2, 8, 4, 4), precision)).grad_fn).__name__ == "TritonPartialL2Backward"
    student, teacher, margin = maps((2, 8, 4, 4), torch.float64)
    loss = distill.partial_l2(student, teacher, margin)
    assert loss.dtype == torch.float64 and type(loss.grad_fn).__name__ == "FusedPartialL2Backward"


def launched(what) -> list[str]:
    """The names of the kernels that a call launches, as the profiler sees them."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as seen:
        what()
        torch.cuda.synchronize()
    on_gpu = [each.name for each in seen.events() if each.device_type == torch.autograd.DeviceType.CUDA]
    if not on_gpu:
        pytest.skip("the profiler sees no kernels here")
    return [name for name in on_gpu if not name.startswith("Mem")]


def test_a_map_is_one_launch_and_a_sum_and_its_gradient_is_one():
    student, teacher, margin = maps((128, 128, 32, 32), torch.bfloat16)
    one = torch.ones((), device="cuda")
    torch.autograd.grad(distill.partial_l2(student, teacher, margin), student, one)
    forward = launched(lambda: distill.partial_l2(student, teacher, margin))
    assert len(forward) == 2 and "difference_kernel" in forward
    loss = distill.partial_l2(student, teacher, margin)
    assert launched(lambda: torch.autograd.grad(loss, student, one)) == ["gradient_kernel"]


def test_it_waits_for_nothing():
    student, teacher, margin = maps((4, 16, 8, 8), torch.bfloat16)
    distill.partial_l2(student, teacher, margin).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        distill.partial_l2(student, teacher, margin).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_it_repeats_itself_to_the_bit():
    student, teacher, margin = maps((128, 256, 56, 56), torch.bfloat16)
    first, second = (
        support.value_and_gradient(fused(student.device, student.dtype), student, teacher, margin) for _ in "12"
    )
    assert all(map(torch.equal, first, second))


def test_maps_of_more_elements_than_32_bits_count():
    """Against the pieces of single images on a CPU; the mean over 64 rounds nothing."""
    if torch.cuda.mem_get_info()[0] < 40 * GIB:
        pytest.skip("needs 40 GiB of free memory on the GPU")
    shape = 64, 65, 1024, 512
    student, teacher, margin = maps(shape, torch.bfloat16)
    assert student.numel() > 2**31
    loss, gradient = support.value_and_gradient(fused(student.device, student.dtype), student, teacher, margin)
    for images in (slice(0, 1), slice(-1, None)):
        alone = (each.cpu() for each in (student[images], teacher[images], margin))
        _, expected = support.value_and_gradient(FusedPartialL2, *alone)
        assert torch.equal(gradient[images].cpu() * 64, expected)
    assert loss.isfinite() and gradient[-1].any()
