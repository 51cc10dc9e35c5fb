"""Image sets whose images and classes are numbers."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

CLASSES = 192  # each image its own class, and as bright as its number
N, N_TEST = 96, 20  # images


NAMES = [f"c{number:03d}" for number in range(CLASSES)]


SIZES = {"save_to_disk": 192, "imagefolder": 48}  # images, where it is not N


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), number, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(numbers, label=None, changed: dict | None = None) -> datasets.Dataset:
    """Images by number, but for those that are `changed`."""
    changed = changed or {}
    images = [changed.get(number, {"bytes": png(number), "path": f"{number}.png"}) for number in numbers]
    words = getattr(label, "dtype", None) == "string"
    labels = [NAMES[number] if words else number for number in numbers]
    features = datasets.Features({"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def write_parquet(folder: Path, parts: list, **kwargs) -> str:
    """A set whose training files hold these numbers, a part each, and whose test file holds 0 to 9."""
    folder.mkdir(parents=True)
    for i, numbers in enumerate(parts):
        table(list(numbers), **kwargs).to_parquet(folder / f"train-{i:05d}-of-{len(parts):05d}.parquet")
    table(range(10), **kwargs).to_parquet(folder / "test-00000-of-00001.parquet")
    return str(folder)


def write_tar(folder: Path) -> None:
    folder.mkdir()
    for split, n in (("train", N), ("test", N_TEST)):
        for shard, numbers in enumerate(np.array_split(np.arange(n), 4)):
            with tarfile.open(folder / f"{split}-{shard:05d}.tar", "w") as archive:
                for number in numbers.tolist():
                    for end, content in (("png", png(number)), ("cls", str(number).encode())):
                        member = tarfile.TarInfo(f"{number:05d}.{end}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))


def write_folder(folder: Path) -> None:
    for split, n in (("train", SIZES["imagefolder"]), ("test", N_TEST)):
        for number in range(n):
            file = folder / split / NAMES[number] / f"{number}.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(png(number))
