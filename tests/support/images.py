"""Image sets that tests make."""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from overhaul.data import sources
from overhaul.options import DataOptions
from overhaul.recipe import Preprocessing

SMALL = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)
NAMES = ["cat", "dog", "eel"]


def some_images(n: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def some_split(n: int, image="img", label="fine_label", labels=None, feature=None) -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), label: feature or datasets.ClassLabel(names=NAMES)})
    labels = [i % 3 for i in range(n)] if labels is None else labels
    return datasets.Dataset.from_dict({image: some_images(n), label: labels}, features=features)


def write_digits(folder: Path, train: int = 96, test: int = 40) -> str:
    """The first digits of each split, for runs of a few steps."""
    columns = {}
    for images, n in zip(sources.load("digits", DataOptions(), SMALL, 10), (train, test), strict=True):
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=images.classes)})
        pictures = [Image.fromarray(pixels) for pixels in images.pixels[:n]]
        rows = {"image": pictures, "label": images.labels[:n]}
        columns["test" if columns else "train"] = datasets.Dataset.from_dict(rows, features=features)
    return write_parquet(folder, **columns)


def write_parquet(folder: Path, **splits: datasets.Dataset) -> str:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)
