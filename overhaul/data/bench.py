"""How fast training images come."""

import io
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from overhaul.data import sources
from overhaul.data.images import EncodedImages, Images
from overhaul.data.loaders import TrainLoader
from overhaul.data.workers import load_batches
from overhaul.options import DataOptions
from overhaul.recipe import Setup
from overhaul.setups import SETUPS

ROUNDS = 5


def bench_data(imagenet: str | None, cifar100: str | None, seconds: float) -> list[dict]:
    """Images a second of one core, for ImageNet's and CIFAR-100's training batches.

    imagenet, cifar100: a local copy of the data; synthetic images without one. seconds: for each of the two, in five
    rounds. A line holds "data", the number of "images" that the batches are made of, and of the rounds the median,
    "images_per_second", the "lowest" and the "highest".
    """
    with one_thread():
        both = [jpegs(imagenet), small_images(cifar100)]  # before anything is timed: a wrong path is told at once
        return [measure(*each, seconds) for each in both]


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch has one thread in this process; its workers have one each anyway."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def jpegs(path: str | None) -> tuple[str, EncodedImages, Setup, int]:
    """What `measure` takes, for ImageNet: of 1,000 images at most, which the system keeps in memory."""
    setup = SETUPS["imagenet_b"]
    if path:
        options = DataOptions(data_path=path)
        (images,) = sources.load("imagenet", options, setup.preprocessing, 1000, splits=("train",), whole=True)
    else:
        images = synthetic_jpegs(setup)
    few = np.arange(min(len(images), 1000))
    images = replace(images, table=images.table.select(few), labels=images.labels[few])
    return f"ImageNet, {path or 'synthetic'}", images, replace(setup, batch_size=min(32, len(few))), 1


def small_images(path: str | None) -> tuple[str, Images, Setup, int]:
    """What `measure` takes, for CIFAR-100."""
    setup = SETUPS["cifar_a"]
    if path:
        options = DataOptions(data_path=path)
        (images,) = sources.load("cifar100", options, setup.preprocessing, 100, splits=("train",))
    else:
        images = synthetic(setup, 10_000)
    setup = replace(setup, batch_size=min(setup.batch_size, len(images)))
    return f"CIFAR-100, {path or 'synthetic'}", images, setup, 0


def measure(name: str, images: EncodedImages | Images, setup: Setup, workers: int, seconds: float) -> dict:
    """A line of `bench_data`; workers: processes that make the batches."""
    loader = TrainLoader(images, setup, seed=0, workers=workers)
    rounds = [images_per_second(endless_batches(loader), seconds / ROUNDS) for _ in range(ROUNDS)]
    spread = {"lowest": min(rounds), "highest": max(rounds)}
    return {"data": name, "images": len(images), "images_per_second": statistics.median(rounds), **spread}


def endless_batches(loader: TrainLoader):
    """The loader's batches, epoch after epoch, without the pause between two of them."""
    epochs = 400 if loader.workers else 1  # starting workers is what takes time between two
    while True:
        to_come = []
        for epoch in range(epochs):
            loader.set_epoch(epoch)
            to_come += loader.to_come()
        yield from load_batches(loader.batches, to_come, loader.workers)


def images_per_second(batches, seconds: float) -> float:
    """Of an endless loader, the first four batches and the start of workers left out."""
    stream = iter(batches)
    for _ in range(4):
        next(stream)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += len(next(stream)[0])
    return count / (time.perf_counter() - started)


def synthetic(setup: Setup, n: int) -> Images | EncodedImages:
    """n images of the kind that a setup trains on: in memory, or encoded where they are cropped by area."""
    classes = setup.student.kwargs["num_classes"]
    if setup.crop_area:
        images, rows = synthetic_jpegs(setup), np.arange(n) % 64
        return replace(images, table=images.table.select(rows), labels=rows % classes)
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (n, setup.image_size, setup.image_size, 3), dtype=np.uint8)
    return Images(pixels, draw.integers(0, classes, n), tuple(map(str, range(classes))))


def synthetic_jpegs(setup: Setup) -> EncodedImages:
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
    return EncodedImages(table, np.arange(64), classes, "train", setup.preprocessing)
