"""A run on the CPU of a machine that has a GPU leaves that alone; no copy to any device is read too late."""

import os

import pytest
import torch
from support.runs import outcome, quick
from torch.overrides import TorchFunctionMode

from overhaul import bench
from overhaul.options import Run
from overhaul.training.trainer import Trainer, train


@pytest.fixture
def gpu(monkeypatch) -> None:
    """A GPU as PyTorch's checks see it, which nobody may start."""

    def seen() -> bool:
        return os.environ.get("CUDA_VISIBLE_DEVICES") != ""

    def touched(*_) -> None:
        pytest.fail("the GPU was touched")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", seen)
    for module in (torch.cuda, torch.cuda.random):
        monkeypatch.setattr(module, "device_count", lambda: int(seen()))
        monkeypatch.setattr(module, "_lazy_init", touched)
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.Tensor, "pin_memory", touched)


def test_a_run_on_the_cpu_leaves_the_gpu_alone(gpu, digits_teacher, finished, tmp_path, capsys):
    """From its plan to its end, with a resumption between."""
    setup, folder = quick(digits_teacher), str(tmp_path / "run")
    train(quick(digits_teacher, epochs=1), Run(output_dir=folder))
    result = train(setup, Run(output_dir=folder, resume_with="epochs=2"), show=True)
    said = capsys.readouterr().out
    assert "resumed after epoch 1" in said and "x cpu" in said
    assert "GiB at the peak of the first step, of this process" in said and "0.00 GiB" not in said
    assert outcome(result)["student and connectors"] == outcome(finished)["student and connectors"]


def test_a_benchmark_too(gpu, monkeypatch):
    monkeypatch.setattr(bench, "LARGE", (2, 64, 8, 8))
    found = bench.bench("digits", Run(), batch_size=16, steps=1)
    assert found["peak_memory"] > 2**27 and "cpu" in found["device"]


class Copies(TorchFunctionMode):
    """Notes the copies whose source the host may take back before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.unsafe = 0, []

    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in ("to", "copy_", "cuda", "_to_copy"):
            self.all += 1
            flagged = kwargs.get("non_blocking") or any(each is True for each in arguments[1:])
            source = arguments[1] if function.__name__ == "copy_" else arguments[0]
            if flagged and not source.is_pinned():
                self.unsafe.append((function.__name__, source.shape))
        return function(*arguments, **kwargs)


@pytest.fixture
def copies(monkeypatch) -> Copies:
    """Of each epoch of training, and of the tests."""
    copies, train = Copies(), Trainer.train

    def watched(*arguments):
        with copies:
            return train(*arguments)

    monkeypatch.setattr(Trainer, "train", watched)
    return copies


def test_no_copy_of_memory_that_may_be_taken_back_goes_on_by_itself(copies, digits_teacher, tmp_path):
    train(quick(digits_teacher, epochs=1), Run(output_dir=str(tmp_path / "run")))
    assert copies.all > 2 * 22 and not copies.unsafe
