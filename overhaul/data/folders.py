"""The splits of a folder, by the names on its first level alone: class folders may bear any name."""

import filecmp
import glob
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from overhaul.data.columns import SPLITS, Unlabelled, split_of
from overhaul.system.messages import UserError, some, warn_once

TABLES = (".parquet", ".arrow", ".tar", ".zip", ".jsonl", ".json", ".csv", ".tsv")  # the first kind found is taken
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
DEEPEST = 4  # folders that each hold nothing but the next


@dataclass
class Found:
    """The images of a split: path and class (or None) of each; identities: of their files, 0 where there is none."""

    place: str
    paths: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    deeper: dict[str, set[str]] = field(default_factory=dict)

    def add(self, path: str, below: tuple[str, ...], identity: int = 0) -> None:
        """An image in these folders below its split's."""
        self.paths.append(path)
        self.labels.append(below[0] if below else None)
        self.identities.append(identity)
        if len(below) > 1:
            self.deeper.setdefault(below[0], set()).add(below[-1])


def read_folder(folder: Path) -> tuple[dict, dict[str, list[str]]]:
    """What a folder's splits are: tables of those that are images (see `as_tables`), and the data files of the others.

    Raises UserError for a folder without any split, and where a file is twice among the images.
    """
    images, files, nothing = {}, {}, {}
    for split, paths in find_parts(folder).items():
        found = Found(paths[0].name + "/" * paths[0].is_dir())
        others = [other for path in paths for other in collect(path, found)]
        if found.paths and any(Path(other).name in METADATA for other in others):
            files[split] = [f"{glob.escape(str(path))}/**" if path.is_dir() else str(path) for path in paths]
        elif found.paths:
            images[split] = found
        elif tables := of_one_kind(others):
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
    raise UserError(
        f"the data set {top} cannot be read: its splits are folders or files whose names say so, train/ or "
        f"train-*.parquet and test/ or val/; it holds {some([each.name for each in visible(top)]) or 'nothing'}"
    )


def visible(folder: Path | str) -> list[os.DirEntry]:
    """What lies in a folder, by name, without what is hidden."""
    with os.scandir(folder) as entries:
        return sorted((each for each in entries if not is_hidden([each.name])), key=lambda each: each.name)


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a path is hidden, or in a folder such as __MACOSX that a program has made."""
    return any(part.startswith((".", "__")) for part in parts)


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


@lru_cache(1)
def image_suffixes() -> frozenset[str]:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return frozenset(ImageFolder.EXTENSIONS)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()


def holds_images(folder: Path) -> bool:
    return any(is_image(entry.name) and entry.is_file() for entry in visible(folder))


def collect(path: Path, found: Found) -> Iterator[str]:
    """Add the images below a folder or in a zip archive to those found; yields the other files."""
    if path.is_dir():
        yield from walk(str(path), (), found, ())
    elif path.suffix.lower() == ".zip":
        yield from read_archive(str(path), (), found)
    else:
        yield str(path)


def walk(folder: str, below: tuple[str, ...], found: Found, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    about = os.stat(folder)
    here = (about.st_dev, about.st_ino)
    if here in above:
        raise UserError(f"{folder} leads back to a folder that it lies in")
    for entry in visible(folder):
        if entry.is_dir():
            yield from walk(entry.path, (*below, entry.name), found, (*above, here))
        elif is_image(entry.name):
            found.add(entry.path, below, identity(entry, about.st_dev))
        elif entry.name.lower().endswith(".zip"):
            yield from read_archive(entry.path, below, found)
        else:
            yield entry.path


def identity(entry: os.DirEntry, device: int) -> int:
    """A number that a file has under all its names, links too, and few others have; 0 for a link that leads nowhere."""
    inode = entry.inode()
    if entry.is_symlink():
        try:
            about = entry.stat()
        except OSError:
            return 0
        device, inode = about.st_dev, about.st_ino
    return hash((device, inode))


def read_archive(archive: str, below: tuple[str, ...], found: Found) -> Iterator[str]:
    """As `walk`; a folder around all the others that is called as the archive or a split is none."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is no whole zip archive ({error})") from None
    if any(member.flag_bits & 1 for member in members):
        raise UserError(f"{archive} is encrypted: unpack it")
    about = os.stat(archive)
    names = [member.filename for member in members if is_image(member.filename)]
    parts = [tuple(part for part in name.split("/") if part not in ("", ".")) for name in names]
    tops = {each[0] for each in parts if not is_hidden(each)}
    around = len(tops) == 1 and (tops == {Path(archive).stem} or split_of(min(tops).lower()) is not None)
    for name, each in zip(names, parts, strict=True):
        if not is_hidden(each):
            folders = (*below, *each[1 if around else 0 : -1])
            found.add(f"zip://{name}::{archive}", folders, hash((about.st_dev, about.st_ino, name)))
    if not tops:
        yield archive


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
