"""Image sets that tests make."""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

NAMES = ["cat", "dog", "eel"]


def some_images(n: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def some_split(n: int, image="img", label="fine_label", labels=None, feature=None) -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), label: feature or datasets.ClassLabel(names=NAMES)})
    labels = [i % 3 for i in range(n)] if labels is None else labels
    return datasets.Dataset.from_dict({image: some_images(n), label: labels}, features=features)


def write_parquet(folder: Path, **splits: datasets.Dataset) -> str:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)
