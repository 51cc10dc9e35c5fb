"""JPEGs that tests make."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

SIZES = [(300, 260), (90, 120), (224, 224), (40, 300), (250, 410)]  # height and width, in turn


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def gradient(number: int) -> np.ndarray:
    """An image that grows redder to the right and greener downwards, and as blue as its number."""
    height, width = SIZES[number % len(SIZES)]
    right, down = np.meshgrid(np.linspace(20, 235, width), np.linspace(20, 235, height))
    return np.stack([right, down, np.full_like(right, 10 * number)], -1).round().astype(np.uint8)


CONTENTS = [jpeg(gradient(number)) for number in range(22)]


def write_jpegs(folder: Path) -> str:
    """The folder, with 22 JPEGs for training, one of them broken, and 22 for testing."""
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(num_classes=22)})
    for split in ("train", "test"):
        cut = [content[:200] if (split, row) == ("train", 5) else content for row, content in enumerate(CONTENTS)]
        columns = {"image": [{"bytes": content, "path": None} for content in cut], "label": np.arange(len(cut))}
        datasets.Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return str(folder)
