"""Image sets by name or path: from scikit-learn, the Hub or a local copy, in memory or left encoded."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import torch

from overhaul.data.columns import find_columns, find_split, read_class_names, read_labels
from overhaul.data.decoding import centre
from overhaul.data.images import EncodedImages, Images, report_broken
from overhaul.options import DataOptions
from overhaul.recipe import Preprocessing
from overhaul.system.messages import UserError, choose, first_line

HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "imagenet": "ILSVRC/imagenet-1k"}
NAMES = ("digits", *HUB_IDS)


def load(
    data: str,
    options: DataOptions,
    show: Preprocessing | None,
    num_classes: int,
    splits: tuple[str, ...] = ("train", "test"),
    whole: bool = False,
) -> list[Images | EncodedImages]:
    """The splits of a data set.

    data: digits, cifar10, cifar100, imagenet, the Hub id of a data set or a folder. show: how its images are shown in a
    test. num_classes counts only where the data name no classes. whole: leave them as they are, to be decoded when they
    are wanted; else they are held in memory as they are shown, and so are images that lie in no files. Raises UserError
    for data that are missing, do not fit, or do not fit the memory.
    """
    if not in_files(data, options):
        return [digits(show.size, split) for split in splits]
    tables = read_tables(data, options)
    classes = read_class_names(options.class_names)
    loaded = []
    for split in splits:
        name = find_split(tables, split, data)
        image, label = find_columns(tables[name], options)
        labels, classes = read_labels(tables[name], label, classes, num_classes, name)
        column = image_column(tables[name], image).select_columns(image).with_format("arrow")
        images = EncodedImages(column, labels, classes, name, show, revision(tables[name]))
        loaded.append(images if whole else decode_all(images, options.skip_broken))
    return loaded


def in_files(data: str, options: DataOptions) -> bool:
    """Whether a set's images are files, which the digits are not unless a copy is named."""
    return data != "digits" or options.data_path is not None


def check_files(data: str, options: DataOptions) -> None:
    """UserError for a set whose images are no files."""
    if not in_files(data, options):
        raise UserError("the digits are held in memory: they are not streamed and need no preparation")


def digits(image_size: int, split: str) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged; every fifth is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn: pip install scikit-learn") from None
    raw = load_digits()
    wanted = (np.arange(len(raw.target)) % 5 == 0) == (split == "test")
    grey = torch.from_numpy((raw.images[wanted] * (255 / 16)).round().astype(np.uint8))
    pixels = centre(grey[:, None], image_size).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return Images(pixels, raw.target[wanted].astype(np.int64), tuple(map(str, raw.target_names)))


def read_tables(data: str, options: DataOptions, streaming: bool = False):
    """A dict of the data's splits, images still encoded: of datasets.Dataset, or of its streams."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    check_files(data, options)
    data_path = options.data_path
    if data_path is None and not Path(data).is_dir() and "/" not in data:
        choose("--data", data, NAMES)
    local = Path(data_path or data).expanduser()
    if data_path is not None and not local.is_dir():
        raise UserError(f"--data_path {data_path}: there is no such folder")
    if (local / "prepared.json").exists() and not (local / "README.md").exists():
        raise UserError(f"{local} is not wholly prepared: the `overhaul prepare` that began it goes on there")
    source = str(local) if local.is_dir() else HUB_IDS.get(data, data)
    saved = (local / "dataset_dict.json").exists() or (local / "state.json").exists()
    try:
        tables = datasets.load_from_disk(source) if saved else datasets.load_dataset(source, streaming=streaming)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"the data set {source} cannot be read{advice(source, local.is_dir(), error)}") from None
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
            raise UserError(f"the column {column} holds no images; name the right one with --image_column") from None
    return table.cast_column(column, datasets.Image(decode=False))


def decode_all(images: EncodedImages, skip_broken: int) -> Images:
    """The images in memory, without those that are broken; UserError for more than skip_broken of them."""
    needed, there = 3 * len(images) * images.size**2, memory()
    if needed > there:
        raise UserError(
            f"the {len(images):,} images of the {images.split} split take {needed / 2**30:,.0f} GiB at {images.size} "
            f"pixels a side, and this machine has {there / 2**30:,.0f}; decode them when they are wanted "
            '(--crop_area "[0.08, 1]"), or name a smaller --image_size'
        )
    pixels, all_broken, known = np.empty((len(images), images.size, images.size, 3), dtype=np.uint8), {}, set()
    for start in range(0, len(images), 256):
        rows = np.arange(start, min(start + 256, len(images)))
        pixels[rows], broken = images.centres(rows)
        all_broken |= broken
        report_broken(broken.values(), known, skip_broken)
    whole = np.setdiff1d(np.arange(len(images)), list(all_broken))
    if not len(whole):
        raise UserError(f"all images of the {images.split} split are broken")
    pixels = pixels[whole] if all_broken else pixels
    return Images(pixels, images.labels[whole], images.classes, tuple(all_broken.values()), images.revision)


def memory() -> float:
    """Bytes of this machine."""
    known = hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known else float("inf")
