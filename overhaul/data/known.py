"""The image sets that go by a name: what they are called, where they are, and how a copy is told from other images."""

import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overhaul.system.messages import UserError, printable


@dataclass(frozen=True)
class Known:
    """A published image set.

    classes: how many; names: CRC-32 of their sorted names, a line each, in the forms that go about. training, test: how
    many images, and the fewest and the most of a class.
    """

    title: str
    hub_id: str
    classes: int
    names: tuple[int, ...]
    training: tuple[int, int, int]
    test: tuple[int, int, int]


KNOWN = {
    "cifar10": Known("CIFAR-10", "uoft-cs/cifar10", 10, (0x6F20D1F0,), (50_000, 5000, 5000), (10_000, 1000, 1000)),
    "cifar100": Known("CIFAR-100", "uoft-cs/cifar100", 100, (0xCAA53CC8,), (50_000, 500, 500), (10_000, 100, 100)),
    "imagenet": Known(
        "ImageNet",
        "ILSVRC/imagenet-1k",
        1000,
        (0x0642A78E, 0x35973EB2),  # of WordNet's ids, as folders are named, and of the Hub's names
        (1_281_167, 732, 1300),
        (50_000, 50, 50),
    ),
}
TITLES = {name: known.title for name, known in KNOWN.items()} | {"digits": "scikit-learn's digits"}


def user_path(flag: str, text: str) -> Path:
    """A path that a flag names, ~ being the home; UserError for one that no system can look up."""
    try:
        path = Path(text).expanduser()
        path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return path
        reason = error.strerror
    except RuntimeError:
        reason = "nobody has such a home"
    except ValueError:  # NUL, or what is no text
        reason = "it is no path"
    else:
        return path
    raise UserError(f"{flag} {printable(str(text))[:80]} cannot be looked up ({reason}): name another path")


def local_folder(data: str | None, data_path: str | None) -> Path | None:
    """The folder that a set is read from; None for one of the Hub, and for the digits. data: None: a folder's alone."""
    folder = user_path("--data_path" if data_path else "--data", data_path or data)
    return folder if data_path or (data != "digits" and folder.is_dir()) else None


def folder_name(folder: Path) -> str:
    """Its last name alone, and what can be printed of it."""
    return printable(Path(os.path.abspath(folder)).name) or "a local folder"


def is_named(data: str | None, data_path: str | None, training, test) -> bool:
    """Whether images that were read as `data` are that set: from the Hub, or a copy with its classes and counts.

    training, test: the splits; a stream tells no labels, and perhaps not how many tests it has. Classes that are mere
    numbers may be any.
    """
    if local_folder(data, data_path) is None:
        return True
    known = next((each for name, each in KNOWN.items() if data in (name, each.hub_id)), None)
    return known is not None and is_copy(known, training, test)


def is_copy(known: Known, training, test) -> bool:
    classes = training.classes
    if len(classes) != known.classes:
        return False
    numbers = {*classes} == {*map(str, range(known.classes))}
    named = numbers or zlib.crc32("\n".join(sorted(classes)).encode()) in known.names
    return named and has_counts(training, *known.training) and has_counts(test, *known.test)


def has_counts(split, images: int, fewest: int, most: int) -> bool:
    """Whether a split has so many images, in all and of each class as far as it tells; those left out count."""
    if not hasattr(split, "labels"):
        return split.n in (None, images)
    left_out = len(getattr(split, "left_out", ()))
    counts = np.bincount(split.labels, minlength=len(split.classes))
    return len(split) + left_out == images and counts.min() >= fewest - left_out and counts.max() <= most
