"""What goes to a device: pinned and without waiting where that is safe, on CUDA GPUs, and nowhere else."""

from dataclasses import replace
from types import SimpleNamespace

import datasets
import pytest
import torch
from support.images import some_split, write_parquet

from overhaul.data.loaders import load_splits, make_loaders
from overhaul.data.transfer import to_device
from overhaul.options import Run
from overhaul.recipe import Net
from overhaul.setups import SETUPS

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
NET = Net(family="pyramidnet", kwargs={"depth": 8, "alpha": 6, "bottleneck": False, "num_classes": 3})
SETUP = replace(SETUPS["digits_teacher"], image_size=16, batch_size=4, student=NET)
CROPPED = replace(SETUP, crop_area=(0.2, 1.0))


class Source:
    """In place of a tensor, as there is no GPU: tells how it is copied."""

    def __init__(self, pinned: bool) -> None:
        self.pinned = pinned

    def is_pinned(self) -> bool:
        return self.pinned

    def to(self, device, non_blocking: bool) -> tuple:
        return str(device), non_blocking


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("device", ["cpu", "mps", "xpu", "cuda", "cuda:1", torch.device("cuda", 1)])
def test_the_host_goes_on_while_cuda_reads_pinned_memory_alone(device, pinned):
    assert to_device(Source(pinned), device) == (str(device), pinned and "cuda" in str(device))


def test_values_arrive():
    assert to_device(torch.ones(2), "meta").is_meta
    assert to_device(torch.ones(2), torch.device("cpu")).tolist() == [1, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return write_parquet(tmp_path_factory.mktemp("transfer") / "set", train=some_split(8), test=some_split(5))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize(
    ("setup", "how"),
    [
        (SETUP, {}),
        (replace(SETUP, mixup=1.0), {}),
        (CROPPED, {"workers": 0}),
        (CROPPED, {"workers": 1}),
        (CROPPED, {"workers": 0, "streaming": True}),
        (CROPPED, {"workers": 1, "streaming": True}),
    ],
    ids=["in memory", "mixed", "encoded", "encoded, by a worker", "a stream", "a stream, by a worker"],
)
def test_pixels_and_labels_are_pinned_for_a_run_on_cuda_alone(folder, monkeypatch, setup, how, device):
    places = set()

    def pin_memory(tensor) -> torch.Tensor:
        copied = tensor.clone()
        places.add(copied.untyped_storage().data_ptr())
        kept.append(copied)
        return copied

    kept = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    accelerator = SimpleNamespace(process_index=0, num_processes=1, device=torch.device(device), is_main_process=True)
    run = Run(data_path=folder, **how)
    for loader in make_loaders(setup, run, load_splits(setup, run, 3, accelerator), accelerator):
        batches = list(loader)
        assert batches
        for tensor in (each for batch in batches for each in batch):
            assert (tensor.untyped_storage().data_ptr() in places) == (device == "cuda")
    assert bool(places) == (device == "cuda")
