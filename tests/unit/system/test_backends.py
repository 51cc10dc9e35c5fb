"""What a run sets for its whole process: by its own device and flags, whatever was set before."""

import gc
import os
import weakref
from collections.abc import Iterator

import pytest
import torch

from overhaul.options import Run
from overhaul.system.accelerator import forget_runs, keep_memory, set_up_backends
from overhaul.training.build import start_accelerator

BACKENDS = torch.backends
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def set_back(monkeypatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    yield
    set_up_backends(CPU, deterministic=False, tf32=True)


def tf32() -> list[bool]:
    """Of products and convolutions, asked in the old way and in the new one, which PyTorch refuses to mix."""
    asked = [BACKENDS.cuda.matmul.allow_tf32, BACKENDS.cudnn.allow_tf32]
    precisions = BACKENDS.cuda.matmul.fp32_precision, BACKENDS.cudnn.conv.fp32_precision
    assert [each == "tf32" for each in precisions] == asked
    assert (torch.get_float32_matmul_precision() == "high") == asked[0]
    return asked


@pytest.mark.parametrize(
    ("device", "deterministic", "allowed", "products", "convolutions"),
    [
        (CUDA, False, True, True, True),
        (CUDA, False, False, False, False),
        (CUDA, True, True, False, False),
        (CPU, False, True, False, True),
        (CPU, True, True, False, False),
    ],
)
def test_a_run_sets_it_all_whatever_was_before(device, deterministic, allowed, products, convolutions):
    for before in (CUDA, False, True), (CUDA, True, False), (CPU, False, True):
        set_up_backends(*before)
        set_up_backends(device, deterministic, allowed)
        assert tf32() == [products, convolutions]
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert BACKENDS.cudnn.benchmark == (device == CUDA and not deterministic)


def test_a_later_run_may_be_deterministic(monkeypatch):
    """PyTorch reads this once, before its first product on a GPU, and refuses products if it was not there then."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    set_up_backends(CUDA, deterministic=False, tf32=True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_what_a_program_set_in_the_new_way_is_no_hindrance():
    BACKENDS.cudnn.conv.fp32_precision, BACKENDS.cuda.matmul.fp32_precision = "ieee", "tf32"
    set_up_backends(CUDA, deterministic=False, tf32=False)
    assert tf32() == [False, False]


def test_a_run_passes_its_flags_on():
    for run, expected in ((Run(), True), (Run(tf32=False), False), (Run(deterministic=True), False), (Run(), True)):
        start_accelerator(run)
        assert BACKENDS.cudnn.allow_tf32 == expected
        assert torch.are_deterministic_algorithms_enabled() == run.deterministic


def test_memory_is_kept_on_a_cpu_alone(monkeypatch):
    asked = []
    library = type("Library", (), {"mallopt": lambda self, *option: asked.append(option)})
    monkeypatch.setattr("overhaul.system.accelerator.ctypes.CDLL", lambda name: library())
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    keep_memory(CUDA)
    assert not asked
    keep_memory(CPU)
    assert len(asked) == 2


def test_a_run_on_a_gpu_begins_without_what_one_before_has_left():
    class Left:
        """Knows itself."""

        def __init__(self) -> None:
            self.it = self

    gc.disable()
    try:
        left = weakref.ref(Left())
        forget_runs(CPU)
        assert left()
        forget_runs(CUDA)
        assert not left()
    finally:
        gc.enable()
