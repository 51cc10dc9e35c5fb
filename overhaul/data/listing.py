"""The images below a folder or in a zip archive: which there are, of which class, and what file each is."""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from overhaul.data.bounds import check_regular
from overhaul.data.columns import split_of
from overhaul.system.messages import UserError

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # by which datasets labels images
MOST_OTHERS = 1_000_000  # files and folders below a split's, beside its images
MOST_UNPACKED = 2**30, 200  # bytes of an archive's files, and how many times its own


@dataclass
class Found:
    """The images of a split: path and class (or None) of each; identities: of their files, 0 where there is none.

    others: how many files and folders were passed beside them.
    """

    place: str
    paths: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)
    identities: list[int] = field(default_factory=list)
    deeper: dict[str, set[str]] = field(default_factory=dict)
    others: int = 0

    def add(self, path: str, below: tuple[str, ...], identity: int = 0) -> None:
        """An image in these folders below its split's."""
        self.paths.append(path)
        self.labels.append(below[0] if below else None)
        self.identities.append(identity)
        if len(below) > 1:
            self.deeper.setdefault(below[0], set()).add(below[-1])

    def passed(self, path: str) -> None:
        """Count what is no image; UserError where a walk would last for ever."""
        self.others += 1
        if self.others > max(MOST_OTHERS, len(self.paths)):
            raise UserError(
                f"there are more than {MOST_OTHERS:,} files and folders beside {len(self.paths):,} images in "
                f"{self.place} ({path}): name the folder of the images alone"
            )


def collect(path: Path, found: Found) -> Iterator[str]:
    """Add the images below a folder or in a zip archive to those found; yields the other files."""
    if path.is_dir():
        inner = [Path(each.path) for each in visible(path)]
        if [each.name.lower() for each in inner] == [path.name.lower()] and inner[0].is_dir():
            path = inner[0]  # train/train/CLASS, as archives are often unpacked
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
        shows = is_image(entry.name)
        if not shows:
            found.passed(entry.path)
        if entry.is_dir():
            yield from walk(entry.path, (*below, entry.name), found, (*above, here))
        elif shows:
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
    about = os.stat(archive)
    check_regular(archive)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(f"{archive} is no whole zip archive ({error})") from None
    if any(member.flag_bits & 1 for member in members):
        raise UserError(f"{archive} is encrypted: unpack it")
    if strange := next((each.filename for each in members if leads_out(each.filename)), None):
        raise UserError(f"{archive} has a file {strange}, which would be unpacked elsewhere: pack it anew")
    least, times = MOST_UNPACKED
    if (size := sum(each.file_size for each in members)) > max(least, times * about.st_size):
        raise UserError(f"{archive} would be unpacked to {size:,} bytes, more than {times} times its own: unpack it")
    names = [member.filename for member in members if is_image(member.filename)]
    parts = [tuple(part for part in re.split(r"[/\\]", name) if part not in ("", ".")) for name in names]
    tops = {each[0] for each in parts if not is_hidden(each)}
    around = len(tops) == 1 and (tops == {Path(archive).stem} or split_of(min(tops).lower()) is not None)
    for name, each in zip(names, parts, strict=True):
        if not is_hidden(each):
            folders = (*below, *each[1 if around else 0 : -1])
            found.add(f"zip://{name}::{archive}", folders, hash((about.st_dev, about.st_ino, name)))
    if not tops:
        yield archive
    yield from (member.filename for member in members if Path(member.filename).name in METADATA)


def leads_out(path: str) -> bool:
    """Whether a path below a folder would lead out of it."""
    return os.path.isabs(path) or path.startswith("~") or ".." in re.split(r"[/\\]", path)


def visible(folder: Path | str) -> list[os.DirEntry]:
    """What lies in a folder, by name, without what is hidden."""
    with os.scandir(folder) as entries:
        return sorted((each for each in entries if not is_hidden([each.name])), key=lambda each: each.name)


def is_hidden(parts: Iterable[str]) -> bool:
    """Whether a path is hidden, or in a folder such as __MACOSX that a program has made."""
    return any(part.startswith((".", "__")) for part in parts)


@lru_cache(1)
def image_suffixes() -> frozenset[str]:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return frozenset(ImageFolder.EXTENSIONS)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in image_suffixes()


def holds_images(folder: Path) -> bool:
    return any(is_image(entry.name) and entry.is_file() for entry in visible(folder))
