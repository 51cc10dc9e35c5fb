"""Image sets by name or path: from scikit-learn, the Hub or a local copy, in memory or left encoded."""

import re
import sys
from dataclasses import replace

import numpy as np
import torch

from overhaul.data.classes import name_untrained, read_class_names, read_labels, renumber
from overhaul.data.columns import find_columns, find_split
from overhaul.data.decoding import centre
from overhaul.data.images import EncodedImages, Images, check_paths, check_variation, report_broken, sample
from overhaul.data.known import KNOWN, user_path
from overhaul.data.tables import Tables, find_tables, quiet, refuse_config
from overhaul.options import DataOptions
from overhaul.recipe import Preprocessing
from overhaul.system.messages import UserError, choose, first_line, innermost, printable
from overhaul.system.network import guard
from overhaul.system.numbers import check_memory, memory

HUB_IDS = {name: known.hub_id for name, known in KNOWN.items()}
NAMES = ("digits", *HUB_IDS)


def load(
    data: str,
    options: DataOptions,
    show: Preprocessing | None,
    num_classes: int,
    splits: tuple[str, ...] = ("train", "test"),
    whole: bool = False,
    classes: tuple[str, ...] | None = None,
) -> list[Images | EncodedImages]:
    """The splits of a data set.

    data: digits, cifar10, cifar100, imagenet, the Hub id of a data set or a folder. show: how its images are shown in a
    test. num_classes counts only where the data name no classes. whole: leave them as they are, to be decoded when they
    are wanted; else they are held in memory as they are shown, and so are images that lie in no files. classes: as
    somebody else numbers them, and then these splits, by the rules of classes.match. Raises UserError for data that are
    missing, do not fit, or do not fit the memory.
    """
    if not in_files(data, options):
        refuse_config("digits", options.data_config)
        loaded = [digits(show.size, split) for split in splits]
    else:
        loaded = load_encoded(data, options, show, num_classes, splits)
    if {*splits} == {"train", "test"}:
        name_untrained(loaded[0].classes, *(loaded[splits.index(split)].labels for split in ("train", "test")))
    if classes:
        used = np.unique(np.concatenate([images.labels for images in loaded]))
        numbers = renumber(classes, loaded[0].classes, used)
        loaded = [replace(images, labels=numbers[images.labels], classes=tuple(classes)) for images in loaded]
    return [each if whole or isinstance(each, Images) else decode_all(each, options.skip_broken) for each in loaded]


def load_encoded(
    data: str, options: DataOptions, show: Preprocessing | None, num_classes: int, splits: tuple[str, ...]
) -> list[EncodedImages]:
    found = read_tables(data, options)
    tables = found.splits
    classes, loaded = read_class_names(options.class_names), []
    for split in splits:
        name = find_split(tables, split, data, options)
        image, label = find_columns(tables[name], options)
        labels, classes = read_labels(tables[name], label, classes, num_classes, name)
        column = image_column(tables[name], image).select_columns(image).with_format("arrow")
        loaded.append(EncodedImages(column, labels, classes, name, show, revision(tables[name]), found.bounds_of(name)))
    check_paths(loaded)
    for images in loaded:
        check_variation(images.decode(sample(len(images))), images.split)
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
    check_memory(f"digits of --image_size {image_size}", 3 * len(raw.target) * image_size**2)
    wanted = (np.arange(len(raw.target)) % 5 == 0) == (split == "test")
    grey = torch.from_numpy((raw.images[wanted] * (255 / 16)).round().astype(np.uint8))
    pixels = centre(grey[:, None], image_size).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    return Images(pixels, raw.target[wanted].astype(np.int64), tuple(map(str, raw.target_names)), split)


def read_tables(data: str, options: DataOptions, streaming: bool = False) -> Tables:
    """The tables of a set, or its streams."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    check_files(data, options)
    data_path = options.data_path
    local = user_path("--data_path" if data_path else "--data", data_path or data)
    if data_path is None and not local.is_dir() and "/" not in data:
        choose("--data", data, NAMES)
    if not local.is_dir() and (data_path is not None or local.exists()):
        raise UserError(f"{'--data_path' if data_path else '--data'} {data_path or data}: there is no such folder")
    if (local / "prepared.json").exists() and not (local / "README.md").exists():
        raise UserError(f"{local} is not wholly prepared: the `overhaul prepare` that began it goes on there")
    source = str(local) if local.is_dir() else HUB_IDS.get(data, data)
    if not local.is_dir():
        guard()
    with quiet() as said:
        try:
            found = find_tables(source, options.data_config, streaming)
        except UserError:
            raise
        except Exception as error:  # bytes that are no table may raise anything
            why = advice(source, local.is_dir(), error, said)
            raise UserError(f"the data set {source} cannot be read{why}") from None
    bounds = {name: replace(each, max_pixels=options.max_pixels) for name, each in found.bounds.items()}
    return replace(found, bounds=bounds)


def advice(source: str, local: bool, error: Exception, said: list[str]) -> str:
    """Why a set cannot be read and what to do; said: what datasets wrote meanwhile, where the file may be named."""
    import datasets

    if local:
        files = (re.match("Failed to read file '(.+?)' with error", line) for line in said)
        file = next((f"{printable(found[1])}: " for found in files if found), "")
        return (
            f" ({file}{innermost(error)}); a folder needs parquet files, train/CLASS and test/CLASS images, tar shards,"
            f" or save_to_disk output"
        )
    if re.search("gated (dataset|repo)", str(error)):
        return (
            f" from the Hub: it is gated; accept its terms on https://huggingface.co/datasets/{source}, then log in "
            f"with `hf auth login`; a local copy is taken with --data_path DIR"
        )
    first, reason = printable(first_line(error)), innermost(error)
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        reason = first
    elif isinstance(error, ConnectionError) and first not in reason:
        reason = f"{first}: {reason}"
    return f" from the Hub ({reason}); a local copy is taken with --data_path DIR"


def revision(table) -> str | None:
    """The commit of a data set of the Hub, by which datasets calls its folder in the cache."""
    found = (re.search(r"[/\\]([0-9a-f]{40})[/\\]", file["filename"]) for file in table.cache_files)
    return next((each[1] for each in found if each), None)


def image_column(table, column: str):
    """The table, or stream, with the images of a column as encoded bytes or paths."""
    import datasets

    feature = table.features[column]
    if not isinstance(feature, datasets.Image):
        if not isinstance(feature, datasets.Value) and (kind := numbers_in(feature)):
            raise UserError(
                f"the column {column} holds arrays of {kind}, not images: store them as images of 8 or 16 bits a "
                f"channel (a column datasets.Image() of uint8 arrays), or name another column with --image_column"
            )
        if not may_be_images(feature):
            raise UserError(f"the column {column} holds no images; name the right one with --image_column")
        table = table.cast_column(column, datasets.Image())
    return table.cast_column(column, datasets.Image(decode=False))


def may_be_images(feature) -> bool:
    """Whether a column's values are paths, bytes, or both by name."""
    import datasets

    if isinstance(feature, dict):
        return {*feature} == {"bytes", "path"} and all(map(may_be_images, feature.values()))
    return isinstance(feature, datasets.Value) and re.search("string|binary|null", feature.dtype) is not None


def numbers_in(feature) -> str | None:
    """The type of the numbers of which a column's values are made up, which casting would wrap around; None: others."""
    while feature is not None and not isinstance(feature, (str, dict)):
        kind = getattr(feature, "dtype", "")
        if re.fullmatch(r"u?int\d+|float\d+|bool", str(kind)):
            return str(kind)
        feature = getattr(feature, "feature", None)
    return None


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
    return Images(
        pixels, images.labels[whole], images.classes, images.split, tuple(all_broken.values()), images.revision
    )
