"""Batches of an image set: order and augmentation as functions of (seed, epoch, sample index)."""

from collections.abc import Iterable, Iterator
from copy import copy
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import Dataset

from overhaul.data import sources
from overhaul.data.augmentation import Changed, changes, draw_mixing, pasted
from overhaul.data.images import Broken, EncodedImages, Images, checked
from overhaul.data.resident import Resident, fits
from overhaul.data.streaming import Centred, EvalStream, Stream, TrainStream, open_streams
from overhaul.data.transfer import to_device
from overhaul.data.transforms import PadCrop, ResizedCrop, check_batch, mixed
from overhaul.data.workers import check_workers, count_workers, load_batches
from overhaul.options import DataOptions, Run
from overhaul.recipe import Setup
from overhaul.system.processes import main_first


class TrainBatches(Dataset):
    """Augmented batches by what was drawn for them; holds nothing that an epoch changes, so workers may copy it."""

    def __init__(self, images: Images | EncodedImages, setup: Setup) -> None:
        self.images, self.size = images, setup.image_size
        crop = (ResizedCrop if setup.crop_area else PadCrop)(images, setup)
        self.augment = Changed(crop, setup) if changes(setup) else crop

    def shape(self, drawn) -> tuple[int, ...]:
        """Of a batch's pixels."""
        return len(drawn[0][0]), self.size, self.size, 3

    def __getitem__(self, drawn) -> tuple[Tensor, Tensor, list[Broken]]:
        (rows, *draws), mixing = drawn
        pixels, rows, broken = self.augment(rows, *draws)
        labels = torch.from_numpy(self.images.labels[rows])
        if mixing is None:
            return pixels, labels, broken
        (partner, *draws), how = mixing
        other, partner, also_broken = self.augment(partner, *draws)
        pixels = pixels if how.boxes is None else pasted(pixels, other, how.boxes)
        both = (pixels, labels), (other, torch.from_numpy(self.images.labels[partner]))
        shares = (None if each is None else torch.from_numpy(each) for each in (how.share, how.label_share))
        share, label_share = shares
        return *mixed(*both, share, len(self.images.classes), label_share), broken + also_broken


class TrainLoader:
    """Shuffled, augmented batches, equal to the last bit for any number of processes and workers.

    Order and augmentation of an epoch are drawn for the whole set from (seed, epoch), so that what happens to a sample
    depends on nothing else. Each process takes its slice of every global batch; the last partial batch is dropped.
    Yields uint8 images [batch, 3, size, size] in channels_last and labels: int64 [batch], or with mixup probabilities
    [batch, classes]. workers: processes that make the batches ahead; 0: made when asked for. Up to skip_broken images
    an epoch that cannot be decoded are replaced by their neighbours, and kept in `broken`. pin: see transfer.pinned.
    device: the run's. If the set fits a GPU it lies there as `resident`, and batches are what resident.make makes these
    images and labels of.
    """

    def __init__(
        self,
        images: Images | EncodedImages,
        setup: Setup,
        seed: int,
        rank=0,
        world=1,
        workers=0,
        skip_broken=0,
        pin=False,
        device: torch.device | None = None,
    ) -> None:
        check_batch(setup, len(images))
        self.images, self.setup, self.seed, self.rank, self.world = images, setup, seed, rank, world
        self.workers, self.skip_broken, self.pin = workers, skip_broken, pin
        self.batches = TrainBatches(images, setup)
        augment = self.batches.augment
        held = not setup.cutmix and fits(images, augment, device)
        self.resident = Resident(images, augment, device) if held else None
        check_workers(0 if held else workers, 3 * (setup.batch_size // world) * setup.image_size**2)
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.images) // self.setup.batch_size

    def set_epoch(self, epoch: int, step: int = 0, broken: Iterable[str] = ()) -> None:
        """Draw the order and the augmentation of every sample for that epoch.

        step: how many of its steps are done already; broken: the images that were found broken in them.
        """
        n, setup = len(self.images), self.setup
        draw = np.random.default_rng([self.seed, epoch])
        self.order = draw.permutation(n)
        self.draws = self.batches.augment.draw(draw, n)
        self.mixing = draw_mixing(setup, draw, n)
        self.step, self.broken = step, set(map(Broken, broken))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self.resident:
            return self.resident.upload(self.to_come())
        ahead = load_batches(self.batches, self.to_come(), self.workers, self.pin)
        return checked(ahead, self.broken, self.skip_broken)

    def to_come(self) -> list[tuple]:
        """What TrainBatches needs for each batch of this process that is still to come."""
        share, items = self.setup.batch_size // self.world, []
        for step in range(self.step, len(self)):
            start = step * self.setup.batch_size + self.rank * share
            rows = self.order[start : start + share]
            how = self.mixing and self.mixing.of(rows)
            mixing = (self.of(how.partner), how) if how else None
            items.append((self.of(rows), mixing))
        return items

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return rows, *(column[rows] for column in self.draws)


class CentredBatches(Dataset):
    """Images as they are shown in a test; a broken one has the label -1."""

    def __init__(self, images: Images | EncodedImages) -> None:
        self.images = images

    def shape(self, rows: np.ndarray) -> tuple[int, ...]:
        """Of a batch's pixels."""
        return len(rows), self.images.size, self.images.size, 3

    def __getitem__(self, rows: np.ndarray) -> tuple[Tensor, Tensor, list[Broken]]:
        pixels, broken = self.images.centres(rows)
        labels = np.where(np.isin(rows, list(broken)), -1, self.images.labels[rows])
        return torch.from_numpy(pixels), torch.from_numpy(labels), list(broken.values())


class EvalLoader:
    """Every image once over all processes: uint8 [batch, 3, size, size] and labels [batch], -1 for a broken image.

    workers, skip_broken, pin: see TrainLoader.
    """

    def __init__(
        self, images: Images | EncodedImages, batch_size=250, rank=0, world=1, workers=0, skip_broken=0, pin=False
    ) -> None:
        self.images, self.workers, self.skip_broken, self.pin = images, workers, skip_broken, pin
        self.is_part = False
        index = np.arange(rank, len(images), world)
        self.rows = [index[start : start + batch_size] for start in range(0, len(index), batch_size)]
        check_workers(workers, 3 * min(batch_size, len(index)) * images.size**2)

    @property
    def expected(self) -> int | None:
        """Test images of all processes; of a part nobody knows."""
        return None if self.is_part else len(self.images)

    def part(self, n: int = 250) -> "EvalLoader":
        """A loader of about n images of all processes, spread over the set."""
        part, every = copy(self), max(1, len(self.images) // n)
        part.rows, part.is_part = [rows for each in self.rows if len(rows := each[::every])], True
        return part

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.broken = set()
        ahead = load_batches(CentredBatches(self.images), self.rows, self.workers, self.pin)
        return checked(ahead, self.broken, self.skip_broken)


class Normalize:
    """uint8 images -> float32 on the device, channels_last, less mean, over std (a channel each, in 0..1).

    size: see to_size.
    """

    def __init__(self, mean, std, device, size: int | None = None) -> None:
        self.size = size
        mean, std = (torch.tensor(x, device=device) for x in (mean, std))
        self.scale, self.shift, self.device = 1 / (255 * std), -mean / std, device
        self.rows = {}  # the two of a whole row of pixels, by its width: three numbers are too few for a CPU's vectors

    def __call__(self, images: Tensor) -> Tensor:
        rows = to_device(images, self.device).permute(0, 2, 3, 1).flatten(2).float()
        width = images.shape[3]
        if width not in self.rows:
            self.rows[width] = self.shift.repeat(width), self.scale.repeat(width)
        shift, scale = self.rows[width]
        return to_size(torch.addcmul(shift, rows, scale).unflatten(2, (width, 3)).permute(0, 3, 1, 2), self.size)


def to_size(images: Tensor, size: int | None) -> Tensor:
    """Images of another size, bilinear, smoothed where they shrink; as they are where none is named."""
    if size is None or images.shape[-2:] == (size, size):
        return images
    how = {"mode": "bilinear", "align_corners": False, "antialias": size < images.shape[-1]}
    return F.interpolate(images, (size, size), **how).contiguous(memory_format=torch.channels_last)


def unaugmented(loader: TrainLoader | TrainStream, batches: int = 8, size: int = 64) -> Iterator[Tensor]:
    """The first training images of the first epoch as they are shown in a test: uint8 [up to size, 3, side, side].

    The same on all processes, but of a stream, of which each reads its own part. Broken ones are left out, and so is
    one that would be alone.
    """
    images = loader.images
    if isinstance(loader, TrainStream):
        found = islice(Centred(images, loader.setup.preprocessing, size), batches)
    else:
        order = np.random.default_rng([loader.seed, 0]).permutation(len(images))[: batches * size]
        rows = [order[start : start + size] for start in range(0, len(order), size)]
        found = load_batches(CentredBatches(images), rows, loader.workers)
    for pixels, labels, _ in found:
        if len(whole := pixels[labels >= 0]) > 1:
            yield whole.permute(0, 3, 1, 2)


def load_splits(
    setup: Setup, run: Run, num_classes: int, accelerator: Accelerator, classes: tuple[str, ...] | None = None
) -> list[Images | EncodedImages] | list[Stream]:
    """The training and the test images; those that are cropped by area stay as they are. classes: see sources.load."""
    with main_first(accelerator):
        if run.streaming:
            return open_streams(setup, run, num_classes, accelerator.process_index, accelerator.num_processes, classes)
        whole = setup.crop_area is not None
        return sources.load(setup.data, run, setup.preprocessing, num_classes, whole=whole, classes=classes)


def make_loaders(
    setup: Setup, run: Run, splits: list, accelerator: Accelerator
) -> tuple[TrainLoader | TrainStream, EvalLoader | EvalStream]:
    """This process's training and test loader. splits: of load_splits."""
    rank, world, pin = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    (images, test_images), workers = splits, count_workers(run.workers)
    if run.streaming:
        train_stream = TrainStream(images, setup, run, rank, world, workers, pin)
        return train_stream, EvalStream(test_images, setup, run, workers, pin=pin)
    how = loader_settings(images, run, accelerator, changes(setup))
    train_loader = TrainLoader(images, setup, run.seed, **how, device=accelerator.device)
    return train_loader, EvalLoader(test_images, **loader_settings(test_images, run, accelerator))


def loader_settings(
    images: Images | EncodedImages, options: DataOptions, accelerator: Accelerator, busy: bool = False
) -> dict:
    """What a loader of these images must know of this process; images in memory need workers only if they are busy."""
    rank, world, pin = accelerator.process_index, accelerator.num_processes, accelerator.device.type == "cuda"
    workers = 0 if isinstance(images, Images) and not busy else count_workers(options.workers)
    return {"rank": rank, "world": world, "workers": workers, "skip_broken": options.skip_broken, "pin": pin}
