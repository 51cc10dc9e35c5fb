"""A set that lies on the device gives the batches of one in memory, to the last bit; a CPU stands for the GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from overhaul.data.images import Images
from overhaul.data.loaders import TrainLoader
from overhaul.data.resident import Resident, fits
from overhaul.data.transforms import PadCrop, ResizedCrop
from overhaul.setups import SETUPS

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SETUP = replace(SETUPS["cifar_c"], image_size=8, batch_size=12)
DRAW = np.random.default_rng(0)
IMAGES = Images(DRAW.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8), DRAW.integers(0, 7, 50), tuple("abcdefg"))


def both(setup, *where) -> tuple[TrainLoader, TrainLoader]:
    """A loader of the set in memory, and one of the set on the device."""
    loaders = [TrainLoader(IMAGES, setup, 3, *where) for _ in range(2)]
    loaders[1].resident = Resident(IMAGES, PadCrop(IMAGES, setup), CPU)
    return tuple(loaders)


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.8}, {"flip": False, "pad": 0}], ids=str)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_are_the_same_to_the_last_bit(changes, world):
    """For each process, in two epochs, of which the second goes on after a step."""
    compared = 0
    for rank in range(world):
        plain, resident = both(replace(SETUP, **changes), rank, world)
        for epoch, step in ((0, 0), (5, 1)):
            for loader in (plain, resident):
                loader.set_epoch(epoch, step)
            for expected, drawn in zip(plain, resident, strict=True):
                for one, other in zip(expected, resident.resident.make(*drawn), strict=True):
                    assert torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()
                    compared += 1
    assert compared == 2 * world * (4 + 3)


def test_every_way_of_rounding_a_mixture_is_the_same():
    """Shares of a half put pixels between two numbers."""
    plain, resident = both(replace(SETUP, mixup=1.0))
    for loader in (plain, resident):
        loader.mixing.share[:] = np.where(np.arange(50) % 2, 0.5, 1 / 3).astype(np.float32)
    for expected, drawn in zip(plain, resident, strict=True):
        assert torch.equal(expected[0], resident.resident.make(*drawn)[0])


def test_an_epoch_that_is_over_has_no_batches():
    _, resident = both(SETUP)
    resident.set_epoch(0, len(resident))
    assert not list(resident)


class Operations(TorchDispatchMode):
    """Counts what a GPU launches, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if not any(function is each for each in VIEWS):
            self.names.append(function.overloadpacket.__name__)
        return function(*arguments, **(kwargs or {}))


aten = torch.ops.aten
VIEWS = (aten.unsqueeze.default, aten.select.int, aten.slice.Tensor, aten.unbind.int, aten.permute.default)


def test_a_batch_takes_three_launches_and_none_from_the_host():
    _, resident = both(SETUP)
    (drawn,) = next(iter(resident))
    with Operations() as seen:
        resident.resident.make(drawn)
    assert seen.names == ["addcmul", "add", "index"]


def test_what_lies_on_a_gpu(monkeypatch):
    """Images in memory that take a quarter of what is free there."""
    augment = PadCrop(IMAGES, SETUP)
    needed = 50 * 16 * 16 * 3
    for free, expected in ((4 * needed, True), (4 * needed - 4, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert fits(IMAGES, augment, GPU) is expected
    cropped = ResizedCrop(IMAGES, replace(SETUP, crop_area=(0.1, 1.0)))
    others = [(IMAGES, augment, CPU), (IMAGES, augment, None), (object(), augment, GPU), (IMAGES, cropped, GPU)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**12, 10**12))
    assert not any(fits(*each) for each in others) and fits(IMAGES, augment, GPU)
