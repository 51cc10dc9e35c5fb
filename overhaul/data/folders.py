"""The splits of a folder, by the names on its first level alone: class folders may bear any name."""

import filecmp
import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from overhaul.data.bounds import check_regular
from overhaul.data.columns import SPLITS, Unlabelled, split_of
from overhaul.data.listing import METADATA, Found, collect, holds_images, visible
from overhaul.system.messages import UserError, some, warn_once

TABLES = (".parquet", ".arrow", ".tar", ".zip", ".jsonl", ".json", ".csv", ".tsv")  # the first kind found is taken
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".7z", ".rar")
DEEPEST = 4  # folders that each hold nothing but the next


def read_folder(folder: Path) -> tuple[dict, dict[str, list[str]]]:
    """What a folder's splits are: tables of those that are images (see `as_tables`), and the data files of the others.

    Raises UserError for a folder without any split, and where a file is twice among the images.
    """
    if beside := next((name for name in METADATA if (folder / name).is_file()), None):
        raise UserError(f"{folder} has its {beside} beside the splits; put one into each, train/{beside} and so on")
    images, files, nothing = {}, {}, {}
    for split, paths in find_parts(folder).items():
        found = Found(paths[0].name + "/" * paths[0].is_dir())
        others = [other for path in paths for other in collect(path, found)]
        if found.paths and any(Path(other).name in METADATA for other in others):
            files[split] = [f"{glob.escape(str(path))}/**" if path.is_dir() else str(path) for path in paths]
        elif found.paths:
            if (tables := of_one_kind(others)) and len({*found.labels} - {None}) == 1:
                raise UserError(
                    f"{found.place} has the one class folder {found.labels[0]}/ beside {Path(tables[0]).name}: a table "
                    f"of images is called metadata.csv and names each as file_name; if it is none, take it away"
                )
            images[split] = found
        elif tables := of_one_kind(others):
            for table in tables:
                check_regular(table)
            files[split] = list(map(glob.escape, tables))
        else:
            nothing[split] = Unlabelled(f"{found.place} holds neither images nor tables")
    return {**as_tables(images), **nothing}, files


def find_parts(top: Path) -> dict[str, list[Path]]:
    """The folders or files of each split on the first level of a folder, or on that of data/ or its only folder."""
    folder = top
    for _ in range(DEEPEST):
        there = [Path(entry.path) for entry in visible(folder)]
        folders = [path for path in there if path.is_dir()]
        parts = by_split(folders) or by_split(of_one_kind(path for path in there if not path.is_dir() and word(path)))
        if parts:
            return parts
        inner = [path for path in folders if path.name == "data"] or folders
        if len(inner) != 1:
            break
        folder = inner[0]
    names = [each.name for each in visible(top)]
    unpack = "; unpack it" if len(names) == 1 and names[0].lower().endswith(ARCHIVES) else ""
    raise UserError(
        f"the data set {top} cannot be read: its splits are folders or files whose names say so, train/ or "
        f"train-*.parquet and test/ or val/; it holds {some(names) or 'nothing'}{unpack}"
    )


def word(path: Path) -> str | None:
    """The split that a name speaks of, as train-00000-of-00004.parquet and imagenet1k-validation-00.tar do."""
    return next((each for each in re.split(r"[-._ 0-9]+", path.name.lower()) if split_of(each)), None)


def by_split(paths: list[Path]) -> dict[str, list[Path]]:
    """By the name of the split.

    A folder's whole name says it, and where no name for training, or for tests, does so, a word of it; but what holds
    images itself is then a class.
    """
    parts = {}
    for names in SPLITS.values():
        whole = [path for path in paths if path.name.lower() in names]
        if twice := [path.name for path in whole if sum(path.name.lower() == each.name.lower() for each in whole) > 1]:
            raise UserError(f"the folders {' and '.join(twice)} would be one split: call one of them otherwise")
        loose = [path for path in paths if word(path) in names and not (path.is_dir() and holds_images(path))]
        for path in whole or loose:
            parts.setdefault(word(path), []).append(path)
    return parts


def of_one_kind(files: Iterable[Path | str]) -> list:
    """Those of the first kind of table that there is."""
    files = list(files)
    kinds = ([file for file in files if kind in Path(str(file).lower()).suffixes] for kind in TABLES)
    return next((found for found in kinds if found), [])


def as_tables(images: dict[str, Found]) -> dict:
    """Of each split a table of the columns image and label, or why it has no labels; the classes are those of all."""
    check_once({found.place: (found.paths, found.identities) for found in images.values()})
    classes = sorted({label for found in images.values() for label in found.labels if label is not None})
    numbers = {name: number for number, name in enumerate(classes)}
    for name, inner in ((name, inner) for found in images.values() for name, inner in found.deeper.items()):
        if len(inner) > 1:
            warn_once(f"the folders in {name}/ ({some(sorted(inner))}) are one class: those of the first level count")
            break
    return {split: as_table(found, classes, numbers) for split, found in images.items()}


def as_table(found: Found, classes: list[str], numbers: dict[str, int]):
    import datasets
    import pyarrow

    bare = [path for path, label in zip(found.paths, found.labels, strict=True) if label is None]
    if len(bare) == len(found.paths):
        return Unlabelled(f"{found.place} has images but no class folders")
    if bare:
        raise UserError(
            f"{found.place} has images beside its class folders: {some([Path(each).name for each in bare])}"
        )
    order = sorted(range(len(found.paths)), key=found.paths.__getitem__)
    try:
        paths = pyarrow.array([found.paths[i] for i in order], pyarrow.string())
    except UnicodeEncodeError as error:
        raise UserError(f"a file's name is no text: {error.object!r}") from None
    labels = pyarrow.array([numbers[found.labels[i]] for i in order], pyarrow.int64())
    images = pyarrow.StructArray.from_arrays([pyarrow.nulls(len(order), pyarrow.binary()), paths], ["bytes", "path"])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    table = pyarrow.Table.from_arrays([images, labels], schema=features.arrow_schema)
    return datasets.Dataset(table, fingerprint=os.urandom(8).hex())


def check_once(places: dict[str, tuple[list[str], list[int]]]) -> None:
    """UserError where one file is there twice, be it under two names."""
    paths = [path for found, _ in places.values() for path in found]
    identities = np.fromiter((each for _, found in places.values() for each in found), np.int64, len(paths))
    order = np.argsort(identities, kind="stable")
    same = np.flatnonzero((np.diff(identities[order]) == 0) & (identities[order][1:] != 0))
    for one, other in zip(order[same], order[same + 1], strict=True):
        archived = paths[one].startswith("zip://")
        if archived or filecmp.cmp(paths[one], paths[other], shallow=False):  # some file systems number files badly
            raise UserError(f"{paths[one]} and {paths[other]} are one file, and an image may be there only once")
