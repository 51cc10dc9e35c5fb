"""Image sets by name or path: from scikit-learn, the Hub or a local copy, in memory or left encoded."""

import re
import sys
from pathlib import Path

import numpy as np
import torch

from overhaul.data.columns import find_columns, find_split, read_class_names, read_labels
from overhaul.data.decoding import centre
from overhaul.data.images import EncodedImages, Images, report_broken
from overhaul.options import Run
from overhaul.system.messages import choose, first_line

HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
NAMES = ("digits", *HUB_IDS)


def load(
    data: str,
    image_size: int,
    run: Run,
    num_classes: int,
    splits=("train", "test"),
    resize: int | None = None,
    in_memory: bool = True,
    interpolation: str = "bilinear",
) -> list[Images | EncodedImages]:
    """The splits of a data set.

    data: digits, cifar10, cifar100, imagenet, the Hub id of a data set or a folder; run.data_path: a local copy of it.
    num_classes counts only where the data name no classes. image_size, resize, interpolation: see pixels.centre.
    in_memory: decode them once to RGB of image_size pixels a side; else they are decoded when they are wanted. Raises
    ValueError for data that are missing or do not fit.
    """
    if data == "digits" and not run.data_path and in_memory:
        return [digits(image_size, split) for split in splits]
    tables = read_tables(data, run.data_path)
    classes = read_class_names(run.class_names)
    loaded = []
    for split in splits:
        name = find_split(tables, split, data)
        image, label = find_columns(tables[name], run)
        labels, classes = read_labels(tables[name], label, classes, num_classes, name)
        column = image_column(tables[name], image).select_columns(image).with_format("arrow")
        images = EncodedImages(column, labels, classes, name, image_size, resize, interpolation, revision(tables[name]))
        loaded.append(decode_all(images, run.skip_broken) if in_memory else images)
    return loaded


def digits(image_size: int, split: str) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged; every fifth is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the digits come with scikit-learn: pip install 'overhaul[demo]'") from None
    raw = load_digits()
    wanted = (np.arange(len(raw.target)) % 5 == 0) == (split == "test")
    grey = torch.from_numpy((raw.images[wanted] * (255 / 16)).round().astype(np.uint8))
    pixels = centre(grey[:, None], image_size).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return Images(pixels, raw.target[wanted].astype(np.int64), tuple(map(str, raw.target_names)))


def read_tables(data: str, data_path: str | None, streaming: bool = False):
    """A dict of the data's splits, images still encoded: of datasets.Dataset, or of its streams."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if data_path is None and not Path(data).is_dir() and "/" not in data:
        choose("--data", data, NAMES)
    if data == "digits" and data_path is None:
        raise ValueError("the digits are held in memory: they are not streamed and need no preparation")
    local = Path(data_path or data).expanduser()
    if data_path is not None and not local.is_dir():
        raise ValueError(f"--data_path {data_path}: there is no such folder")
    if (local / "prepared.json").exists() and not (local / "README.md").exists():
        raise ValueError(f"{local} is not wholly prepared: the `overhaul prepare` that began it goes on there")
    source = str(local) if local.is_dir() else HUB_IDS.get(data, data)
    saved = (local / "dataset_dict.json").exists() or (local / "state.json").exists()
    try:
        tables = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"the data set {source} cannot be read{advice(source, local.is_dir(), error)}") from None
    tables = tables if isinstance(tables, dict) else {str(tables.split or "train"): tables}
    if not (saved and streaming):
        return tables
    return {name: table.to_iterable_dataset(min(64, len(table))) for name, table in tables.items()}


def advice(source: str, local: bool, error: Exception) -> str:
    reason = first_line(error)
    if local:
        return (
            f" ({reason}); a folder needs parquet files, train/CLASS and test/CLASS images, tar shards, or save_to_disk"
            f" output"
        )
    if re.search("gated (dataset|repo)", str(error)):
        return (
            f" from the Hub: it is gated; accept its terms on https://huggingface.co/datasets/{source}, then log in "
            f"with `hf auth login`; a local copy is taken with --data_path DIR"
        )
    return f" from the Hub ({reason}); a local copy is taken with --data_path DIR"


def revision(table) -> str | None:
    """The commit of a data set of the Hub, by which datasets calls its folder in the cache."""
    found = (re.search(r"[/\\]([0-9a-f]{40})[/\\]", file["filename"]) for file in table.cache_files)
    return next((each[1] for each in found if each), None)


def image_column(table, column: str):
    """The table, or stream, with the images of a column as encoded bytes or paths."""
    import datasets

    if not isinstance(table.features[column], datasets.Image):
        try:
            table = table.cast_column(column, datasets.Image())
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"the column {column} holds no images; name the right one with --image_column") from None
    return table.cast_column(column, datasets.Image(decode=False))


def decode_all(images: EncodedImages, skip_broken: int) -> Images:
    """The images in memory, without those that are broken; ValueError for more than skip_broken of them."""
    pixels, all_broken, known = np.empty((len(images), images.size, images.size, 3), dtype=np.uint8), {}, set()
    for start in range(0, len(images), 256):
        rows = np.arange(start, min(start + 256, len(images)))
        pixels[rows], broken = images.centres(rows)
        all_broken |= broken
        report_broken(broken.values(), known, skip_broken)
    whole = np.setdiff1d(np.arange(len(images)), list(all_broken))
    if not len(whole):
        raise ValueError(f"all images of the {images.split} split are broken")
    pixels = pixels[whole] if all_broken else pixels
    return Images(pixels, images.labels[whole], images.classes, tuple(all_broken.values()), images.revision)
