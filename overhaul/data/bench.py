"""How fast images come, beside the way of the authors' release."""

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from overhaul.data import sources
from overhaul.data.images import EncodedImages, Images
from overhaul.data.loaders import TrainLoader
from overhaul.data.workers import load_batches
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.setups import SETUPS

ROUNDS = 5


def bench_data(imagenet: str | None, cifar100: str | None, seconds: float) -> list[dict]:
    """Images a second of one core, ours and the release's, for ImageNet's and CIFAR-100's training batches.

    imagenet, cifar100: a local copy of the data; made-up images without one. seconds: for each way with each data, in
    five rounds, ours and the release's in turn. Each way has one core. A line holds the medians {"data", "images",
    "ours", "release", "ratio"} and the spread of the ratios, {"lowest", "highest"}.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # both before anything is timed, so that a wrong path is told at once
            both = [jpegs(imagenet, Path(folder)), small_images(cifar100)]
            return [compare(*each, seconds) for each in both]
    finally:
        torch.set_num_threads(threads)


def jpegs(path: str | None, folder: Path) -> tuple:
    """What `compare` takes, for ImageNet."""
    setup = SETUPS["imagenet_b"]
    if path:
        options = {"splits": ("train",), "resize": setup.test_resize, "in_memory": False}
        (images,) = sources.load("imagenet", setup.image_size, Run(data_path=path), 1000, **options)
    else:
        images = made_up_jpegs(setup)
    few = np.arange(min(len(images), 1000))
    for row, (encoded, _) in zip(few, images.read(few), strict=True):
        file = folder / "a class" / f"{row}.JPEG"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded)
    normalize = [transforms.ToTensor(), transforms.Normalize(setup.mean, setup.std)]
    flip = transforms.RandomHorizontalFlip()
    changes = transforms.Compose([transforms.RandomResizedCrop(setup.image_size), flip, *normalize])
    setup = replace(setup, batch_size=min(32, len(few)))
    theirs = DataLoader(ImageFolder(str(folder), changes), setup.batch_size, sampler=Endless(len(few)), num_workers=1)
    images = replace(images, table=images.table.select(few), labels=images.labels[few])
    return f"ImageNet, {path or 'made up'}", images, setup, theirs, 1


def small_images(path: str | None) -> tuple:
    """What `compare` takes, for CIFAR-100."""
    setup = SETUPS["cifar_a"]
    if path:
        (images,) = sources.load("cifar100", setup.image_size, Run(data_path=path), 100, splits=("train",))
    else:
        images = made_up(setup, 10_000)
    setup = replace(setup, batch_size=min(setup.batch_size, len(images)))
    theirs = DataLoader(AsTorchvision(images, setup), setup.batch_size, sampler=Endless(len(images)), num_workers=1)
    return f"CIFAR-100, {path or 'made up'}", images, setup, theirs, 0


def made_up(setup: Setup, n: int) -> Images | EncodedImages:
    """n images of the kind that a setup trains on: in memory, or encoded where they are cropped by area."""
    classes = setup.student.kwargs["num_classes"]
    if setup.crop_area:
        images, rows = made_up_jpegs(setup), np.arange(n) % 64
        return replace(images, table=images.table.select(rows), labels=rows % classes)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (n, setup.image_size, setup.image_size, 3), dtype=np.uint8)
    return Images(pixels, draw.integers(0, classes, n), tuple(map(str, range(classes))))


def made_up_jpegs(setup: Setup) -> EncodedImages:
    """64 images as large, in pixels and in bytes, as ImageNet's are on average."""
    import datasets

    draw, encoded = np.random.default_rng(0), []
    for _ in range(64):
        coarse = Image.fromarray(draw.integers(0, 256, (47, 63, 3), dtype=np.uint8)).resize((500, 375))
        noisy = np.asarray(coarse) + draw.normal(0, 12, (375, 500, 1))
        file = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
        encoded.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": encoded}, features).with_format("arrow")
    classes = tuple(map(str, range(1000)))
    return EncodedImages(table, np.arange(64), classes, "train", setup.image_size, setup.test_resize)


class AsTorchvision(Dataset):
    """An image at a time through PIL, as torchvision's CIFAR100 with the release's transforms."""

    def __init__(self, images: Images, setup: Setup) -> None:
        self.images = images
        crop = [transforms.Pad(setup.pad, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
        normalize = [transforms.ToTensor(), transforms.Normalize(setup.mean, setup.std)]
        self.transform = transforms.Compose([*crop, transforms.RandomCrop(setup.image_size), *normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int):
        return self.transform(Image.fromarray(self.images.pixels[row])), int(self.images.labels[row])


class Endless:
    """Shuffled indices, epoch after epoch."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.n).tolist()


def endless_batches(loader: TrainLoader, workers: int):
    """The loader's batches, epoch after epoch, without the pause between two of them."""
    epochs = 400 if workers else 1  # starting workers is what takes time between two
    while True:
        drawn = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            drawn += loader.drawn()
        yield from load_batches(loader.batches, drawn, workers)


def compare(name: str, images, setup: Setup, theirs, workers: int, seconds: float) -> dict:
    """A line of `bench_data`; theirs: the release's endless loader, workers: processes that make our batches."""
    loader = TrainLoader(images, setup, seed=0, workers=workers)
    rounds = []
    for _ in range(ROUNDS):
        ours = images_per_second(endless_batches(loader, workers), seconds / ROUNDS)
        release = images_per_second(theirs, seconds / ROUNDS)
        rounds.append((ours, release, ours / release))
    ours, release, ratio = map(statistics.median, zip(*rounds, strict=True))
    ratios = [each for _, _, each in rounds]
    line = {"data": name, "images": len(images), "ours": ours, "release": release, "ratio": ratio}
    return {**line, "lowest": min(ratios), "highest": max(ratios)}


def images_per_second(batches, seconds: float) -> float:
    """Of an endless loader, the first four batches and the start of workers left out."""
    stream = iter(batches)
    for _ in range(4):
        next(stream)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += len(next(stream)[0])
    return count / (time.perf_counter() - started)
