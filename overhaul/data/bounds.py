"""What the files of an image set may be: where they lie, of what kind they are, and how large."""

import os
import stat
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from overhaul.options import MAX_PIXELS
from overhaul.system.messages import UserError, printable

BYTES_OF_PIXEL = 8  # of a file at most: RGB and transparency of 16 bits


@dataclass(frozen=True)
class Bounds:
    """Which files the images of a split may lie in, and how large they are at most.

    folders: the set's own, absolute. walked: whether the paths were found by walking through them, so that links are
    the user's and are followed; else a data file says them, and they must lead into one of the folders. Without folders
    an image lies in no file. starts: where relative paths count from, absolute; the first where there is a file is it.
    """

    folders: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    walked: bool = False
    max_pixels: int = MAX_PIXELS

    def read(self, path: str) -> bytes:
        """The bytes of a file, or of zip://NAME::ARCHIVE; UserError where they may not or cannot be had."""
        zipped, most = path.startswith("zip://"), BYTES_OF_PIXEL * self.max_pixels
        name, _, file = path.removeprefix("zip://").rpartition("::") if zipped else ("", "", path)
        try:
            file = self.locate(file)
            return read_member(file, name, most) if zipped else read_regular(file, most)
        except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, UserError):
                raise
            raise UserError("it is missing or empty") from None

    def identify(self, path: str) -> str | None:
        """One name of a file, or of a part of an archive, whatever path leads there; None where nothing is."""
        part, colons, file = path.rpartition("::")
        try:
            file = self.locate(file)
            return f"{part}{colons}{file}" if os.path.getsize(file) else None
        except (OSError, ValueError):
            return None

    def locate(self, path: str) -> str:
        """The file that a path means; UserError for one elsewhere."""
        if not path:
            raise UserError("it is missing or empty")
        follow = os.path.abspath if self.walked else os.path.realpath
        own, allowed = [follow(folder) for folder in self.folders], None
        for start in (*self.folders[:1], *self.starts, os.getcwd()):
            file = os.path.join(start, path)
            if any(is_below(follow(file), folder) for folder in own):
                allowed = allowed or file
                if os.path.exists(file):
                    return file
        if not allowed or "://" in path:
            where = f"files in {printable(self.folders[0])} alone, links followed" if self.folders else "no files"
            raise UserError(f"its path leads out of the set, which may name {where}")
        return allowed


IN_NO_FILE = Bounds()


def is_below(file: str, folder: str) -> bool:
    return file.startswith(folder.rstrip(os.sep) + os.sep)


def read_regular(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file; UserError for another kind, which might never end, or more than `most` bytes."""
    size = check_regular(path)
    if size > most:
        raise UserError(f"the file has {size:,} bytes, and {most:,} are the most")
    with open(path, "rb") as file:
        return file.read(size)


def check_regular(path: str | Path) -> int:
    """Bytes of a regular file; UserError for a folder, pipe, device or socket, OSError where there is none."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{printable(str(path))} is no regular file")
    return about.st_size


def read_member(archive: str, name: str, most: int) -> bytes:
    """The bytes of an archive's file, as many as its list says and no more."""
    opened = open_archive(archive, os.getpid())
    if (size := opened.getinfo(name).file_size) > most:
        raise UserError(f"the file has {size:,} bytes, and {most:,} are the most")
    return opened.read(name)


@lru_cache(64)
def open_archive(archive: str, process: int) -> zipfile.ZipFile:
    """Opened once by each process, as forked ones would share its position."""
    check_regular(archive)
    return zipfile.ZipFile(archive)
