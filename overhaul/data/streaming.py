"""Batches of a set that is read as it comes, for sets that do not fit the disk."""

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from overhaul.data.augmentation import Change, changes
from overhaul.data.bounds import IN_NO_FILE, Bounds
from overhaul.data.classes import name_untrained, number_labels, read_class_names, read_labels, renumber
from overhaul.data.columns import PEEK, find_columns, find_split
from overhaul.data.decoding import Unscaled, centre, decode
from overhaul.data.images import Broken, check_variation, checked
from overhaul.data.sources import image_column, read_tables
from overhaul.data.transforms import RandomCrop, check_batch
from overhaul.data.workers import check_workers, work_pinned
from overhaul.options import Run
from overhaul.recipe import Preprocessing, Setup
from overhaul.system.messages import UserError


@dataclass(frozen=True)
class Stream:
    """This process's part of a split, as it comes.

    rows: a datasets.IterableDataset, split by node and shuffled, with the columns image and label; number_of: the class
    of a label; n: the images of all processes, or None where the data do not say; bounds: see EncodedImages.
    """

    rows: object
    image: str
    label: str
    number_of: dict[int | str, int]
    classes: tuple[str, ...]
    split: str
    n: int | None
    bounds: Bounds = IN_NO_FILE

    revision = None  # datasets does not say which commit a stream reads

    def __len__(self) -> int:
        return self.n

    @property
    def fingerprint(self) -> str:
        return f"a stream of {self.n:,} images of {len(self.classes)} classes"

    @property
    def shards(self) -> int:
        """How many workers can read side by side."""
        return max(1, self.rows.num_shards)

    def first_images(self) -> Iterator[Tensor | Broken]:
        for each in islice(self.decode(0), PEEK):
            yield each if isinstance(each, Broken) else each[0]

    def decode(self, epoch: int) -> Iterator[tuple[Tensor, int] | Broken]:
        """Each image, uint8 [3, height, width], and its label; in a worker, those of its share of the shards."""
        self.rows.set_epoch(epoch)
        for row in self.rows:
            image, label = row[self.image] or {"bytes": None, "path": None}, self.number_of.get(row[self.label])
            name = image["path"] or f"an image without a name, {len(image['bytes'] or b'')} bytes,"
            if label is None:
                raise UserError(
                    f"{name} of the {self.split} stream has the label {row[self.label]!r}, which is none of the "
                    f"{len(self.classes)} classes"
                )
            try:
                encoded = image["bytes"] or self.bounds.read(image["path"] or "")
                yield decode(encoded, self.bounds.max_pixels), label
            except Unscaled as error:
                raise UserError(f"{name} of the {self.split} stream: {error}") from None
            except UserError as error:
                # with the label, as several images may have one name
                yield Broken.of(f"{name} of the {self.split} stream, of the label {row[self.label]!r},", error)


def open_streams(
    setup: Setup, run: Run, num_classes: int, rank: int, world: int, classes: tuple[str, ...] | None = None
) -> list[Stream]:
    """The training and the test stream of this process; UserError for data that do not fit. classes: see sources.load.

    A few images of each are looked at before.
    """
    from datasets.distributed import split_dataset_by_node

    tables, streams, labels = read_tables(setup.data, run, streaming=True), [], []
    names, numbers = read_class_names(run.class_names), None
    for split in ("train", "test"):
        name = find_split(tables.splits, split, setup.data, run)
        rows = tables.splits[name]
        image, label = find_columns(rows, run)
        number_of, names = number_labels(rows.features[label], label, names, num_classes, classes)
        if name in tables.whole:
            labels.append(read_labels(tables.whole[name], label, names, num_classes, name)[0])
        if classes:
            numbers = renumber(classes, names) if numbers is None else numbers
            number_of = {each: int(numbers[n]) for each, n in number_of.items() if n is not None}
        rows = image_column(rows, image).select_columns([image, label])
        n = (run.stream_images if split == "train" else None) or tables.counts.get(name)
        if split == "train" and not n:
            raise UserError("the data do not say how many training images they have: add --stream_images N")
        stream = Stream(rows, image, label, number_of, tuple(classes or names), name, n, tables.bounds_of(name))
        check_variation(stream.first_images(), name)
        if split == "train":
            rows = rows.shuffle(seed=run.seed, buffer_size=run.shuffle_buffer)
        streams.append(replace(stream, rows=split_dataset_by_node(rows, rank, world)))
    if len(labels) == len(streams):
        name_untrained(names, *labels)
    return streams


class TrainStream:
    """Augmented batches of a stream; as many an epoch as the images make, so that no process waits for another.

    Where this process's part has fewer it begins anew. Order and augmentation depend on the number of processes and
    workers. Yields what data.TrainLoader does. pin: see transfer.pinned.
    """

    resident = None  # it is nowhere whole

    def __init__(self, images: Stream, setup: Setup, run: Run, rank: int, world: int, workers: int, pin=False) -> None:
        check_batch(setup, len(images))
        if setup.mixup or setup.cutmix or not setup.crop_area:
            raise UserError("--streaming makes random resized crops (--crop_area), and neither mixup nor cutmix")
        self.images, self.setup, self.skip_broken, self.pin = images, setup, run.skip_broken, pin
        self.seed, self.share, self.workers = [run.seed, rank], setup.batch_size // world, min(workers, images.shards)
        check_workers(self.workers, 3 * self.share * setup.image_size**2)
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.images) // self.setup.batch_size

    def set_epoch(self, epoch: int, step: int = 0, broken: Iterable[str] = ()) -> None:
        """Begin an epoch, or go on after some of its steps with other images; broken: those found in them."""
        self.epoch, self.step, self.broken = epoch, step, set(map(Broken, broken))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = Augmented(self.images, self.setup, [*self.seed, self.step, self.epoch], self.share)
        steps, ahead = self.step, islice(work_pinned(batches, self.workers, self.pin), len(self) - self.step)
        for batch in checked(ahead, self.broken, self.skip_broken):
            steps += 1
            yield batch
        if steps < len(self):
            raise UserError(f"the training stream ended after {steps} of {len(self)} steps")


class Augmented(IterableDataset):
    """A training stream's crops in batches, pass after pass. seed: run's seed, process, steps done before, epoch."""

    def __init__(self, images: Stream, setup: Setup, seed: list[int], share: int) -> None:
        self.images, self.seed, self.share = images, seed, share
        self.crop, self.nbytes = RandomCrop(setup), 3 * share * setup.image_size**2
        self.change = Change(setup) if changes(setup) else None

    def show(self, image: Tensor, draw: np.random.Generator) -> Tensor:
        """uint8 [size, size, 3], as it is trained on."""
        shown = self.crop(image, int(draw.integers(2**63)))
        return self.change(shown, int(draw.integers(2**63))) if self.change else shown

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[Broken]]]:
        worker = get_worker_info()
        draw = np.random.default_rng([*self.seed, worker.id if worker else 0])
        crops, labels, broken = [], [], []
        _, _, step, epoch = self.seed
        for again in count():
            empty = True
            for each in self.images.decode(epoch + 10**5 * again + 10**9 * step):
                if isinstance(each, Broken):
                    broken.append(each)
                    continue
                empty = False
                crops.append(self.show(each[0], draw))
                labels.append(each[1])
                if len(crops) == self.share:
                    yield default_collate(crops), torch.tensor(labels), broken
                    crops, labels, broken = [], [], []
            if empty:
                return


class EvalStream:
    """Every image of a test stream once over all processes; yields what data.EvalLoader does. pin: see TrainStream."""

    def __init__(self, images: Stream, setup: Setup, run: Run, workers: int, batch_size: int = 250, pin=False) -> None:
        self.images, self.setup, self.batch_size, self.pin = images, setup, batch_size, pin
        self.workers, self.skip_broken, self.most = min(workers, images.shards), run.skip_broken, None
        check_workers(self.workers, 3 * batch_size * setup.image_size**2)

    @property
    def expected(self) -> int | None:
        return None if self.most else self.images.n

    def part(self, n: int = 250) -> "EvalStream":
        """A stream of the first n images of each process, or a few more."""
        part = copy(self)
        part.most = -(-n // self.batch_size)
        return part

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = Centred(self.images, self.setup.preprocessing, self.batch_size)
        yield from checked(islice(work_pinned(batches, self.workers, self.pin), self.most), set(), self.skip_broken)


class Centred(IterableDataset):
    """A test stream's images as they are shown in a test, in batches; a broken one is black and has the label -1."""

    def __init__(self, images: Stream, show: Preprocessing, batch_size: int) -> None:
        self.images, self.show, self.batch_size = images, show, batch_size
        self.nbytes = 3 * batch_size * show.size**2

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, list[Broken]]]:
        show = self.show
        pixels, labels, broken = [], [], []
        for each in self.images.decode(0):
            if isinstance(each, Broken):
                broken.append(each)
                each = torch.zeros(3, show.size, show.size, dtype=torch.uint8), -1
            pixels.append(centre(each[0], show.size, show.resize, show.interpolation).permute(1, 2, 0))
            labels.append(each[1])
            if len(pixels) == self.batch_size:
                yield default_collate(pixels), torch.tensor(labels), broken
                pixels, labels, broken = [], [], []
        if pixels:
            yield default_collate(pixels), torch.tensor(labels), broken
