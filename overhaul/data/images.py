"""A split of an image set: held in memory as pixels, or left encoded where it lies."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from torch import Tensor

from overhaul.data.bounds import IN_NO_FILE, Bounds
from overhaul.data.decoding import Unscaled, centre, decode
from overhaul.recipe import Preprocessing
from overhaul.system.messages import UserError, warn

SAMPLE = 16  # images


class Broken(str):
    """In place of an image that cannot be decoded: which one it is, and why."""

    @classmethod
    def of(cls, which: str, error: Exception) -> "Broken":
        return cls(f"{which} is no image that can be read ({error})")


def report_broken(broken: Iterable[Broken], known: set[Broken], allowed: int) -> None:
    """Name broken images on stderr and add them to those known; UserError for more than are allowed."""
    for each in broken:
        if each in known:
            continue
        known.add(each)
        if len(known) > allowed:
            raise UserError(
                f"{each}{f', and --skip_broken allows only {allowed}' if allowed else ''}; mend it or take it out, let "
                f"up to N such images be replaced with --skip_broken N, or name another column with --image_column"
            )
        warn(f"{each}; skipped ({len(known)} of at most {allowed})")


def checked(batches: Iterable[tuple], known: set[Broken], allowed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images, uint8 [batch, 3, size, size], and labels of batches of pixels, labels and the broken ones among them."""
    for pixels, labels, broken in batches:
        report_broken(broken, known, allowed)
        yield pixels.permute(0, 3, 1, 2), labels


class Labelled:
    """What every split has.

    labels: int64 [n], each below len(classes); split: its name in the data; revision: the commit on the Hub, if known.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    split: str
    revision: str | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """A line that tells these images from others, by number, classes and labels."""
        return f"{len(self):,} images of {len(self.classes)} classes, labels {zlib.crc32(self.labels.tobytes()):08x}"


@dataclass(frozen=True)
class Images(Labelled):
    """A split in memory. pixels: uint8 [n, size, size, 3]; left_out: the images that could not be decoded."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    split: str = ""
    left_out: tuple[Broken, ...] = ()
    revision: str | None = None

    @property
    def size(self) -> int:
        return self.pixels.shape[1]

    def decode(self, rows: np.ndarray) -> Iterator[Tensor]:
        """Each image of these rows: uint8 [3, size, size]."""
        return (torch.from_numpy(self.pixels[row]).permute(2, 0, 1) for row in rows)

    def centres(self, rows: np.ndarray) -> tuple[np.ndarray, dict[int, Broken]]:
        """uint8 [rows, size, size, 3], as they are shown in a test, and the broken ones by row: none."""
        return self.pixels[rows], {}


@dataclass(frozen=True)
class EncodedImages(Labelled):
    """A split whose images are read and decoded when they are wanted.

    table: a datasets.Dataset of one column, Image(decode=False), in Arrow's format; show: how images are shown in a
    test, or None for those that never are; bounds: of the files that are named in place of bytes.
    """

    table: object
    labels: np.ndarray
    classes: tuple[str, ...]
    split: str
    show: Preprocessing | None
    revision: str | None = None
    bounds: Bounds = IN_NO_FILE

    @property
    def size(self) -> int:
        return self.show.size

    def cells(self, rows: np.ndarray) -> Iterator[tuple[memoryview | None, str]]:
        """The encoded bytes, or None, and the file name, or "", that the table has in each of these rows."""
        for chunk in self.table[rows.tolist()].column(0).chunks:
            for content, path in zip(chunk.field("bytes"), chunk.field("path"), strict=True):
                yield memoryview(content.as_buffer()).cast("B") if content.is_valid else None, path.as_py() or ""

    def read(self, rows: np.ndarray) -> Iterator[tuple[memoryview | bytes | Broken, str]]:
        """The encoded bytes of each of these rows, or why they cannot be had, and the file name (or "")."""
        for row, (content, path) in zip(rows, self.cells(rows), strict=True):
            try:
                yield self.bounds.read(path) if content is None else content, path
            except UserError as error:
                yield Broken.of(self.name(row, path), error), path

    def decode(self, rows: np.ndarray) -> Iterator[Tensor | Broken]:
        """Each image of these rows: uint8 [3, height, width], or what is wrong with it."""
        for row, (encoded, path) in zip(rows, self.read(rows), strict=True):
            yield encoded if isinstance(encoded, Broken) else self.decode_one(row, encoded, path)

    def decode_one(self, row: int, encoded: memoryview | bytes, path: str) -> Tensor | Broken:
        """The same of one image; UserError where its file does not say which of its values is white."""
        try:
            return decode(encoded, self.bounds.max_pixels)
        except Unscaled as error:
            raise UserError(f"{self.name(row, path)}: {error}") from None
        except UserError as error:
            return Broken.of(self.name(row, path), error)

    def name(self, row: int, path: str) -> str:
        """What a person finds the image of a row by."""
        return f"row {row} of the {self.split} split" + (f" ({path})" if path else "")

    def centres(self, rows: np.ndarray) -> tuple[np.ndarray, dict[int, Broken]]:
        """uint8 [rows, size, size, 3], as they are shown in a test, and the broken ones, which are black, by row."""
        show, broken = self.show, {}
        pixels = np.zeros((len(rows), show.size, show.size, 3), np.uint8)
        for i, image in enumerate(self.decode(rows)):
            if isinstance(image, Broken):
                broken[int(rows[i])] = image
            else:
                pixels[i] = centre(image, show.size, show.resize, show.interpolation).permute(1, 2, 0).numpy()
        return pixels, broken


def check_paths(splits: Sequence[EncodedImages]) -> None:
    """UserError where a file is in two splits or twice in one, as far as the images are files."""
    paths = [
        (images.bounds, chunk.field("path").filter(chunk.field("bytes").is_null()))
        for images in splits
        for chunk in images.table[:].column(0).chunks
    ]
    counts = pyarrow.chunked_array([chunk for _, chunk in paths], pyarrow.string()).drop_null().value_counts()
    often = counts.filter(pyarrow.compute.greater(counts.field("counts"), 1)).field("values")
    files = Counter(
        bounds.identify(path)  # as a relative one may lead elsewhere in another split
        for bounds, chunk in paths
        for path in chunk.filter(pyarrow.compute.is_in(chunk, often)).to_pylist()
    )
    twice = [file for file, n in files.items() if file and n > 1]
    if twice:
        others = {1: "", 2: "; so is another"}.get(len(twice), f"; so are {len(twice) - 1:,} others")
        raise UserError(f"{twice[0]} is there twice, and an image may be there only once{others}")


def sample(n: int) -> np.ndarray:
    """A few rows, spread over all."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))


def check_variation(images: Iterable[Tensor | Broken], split: str) -> None:
    """UserError where some images, uint8 [3, height, width], show nothing: no pixel differs, or no image."""
    low, high, seen, n = torch.full((3,), 255), torch.zeros(3), set(), 0
    for image in images:
        if isinstance(image, Broken):
            continue
        n += 1
        low, high = torch.minimum(low, image.amin((1, 2))), torch.maximum(high, image.amax((1, 2)))
        seen.add(zlib.crc32(image.numpy().tobytes()))
    if n < 2 or (len(seen) > 1 and (high - low).max() > 1):
        return
    shown = "one and the same image"
    if (high - low).max() <= 1:
        shown = (
            f"of one colour, with values from {int(low.min())} to {int(high.max())} where 0 is black and 255 white; "
            "were they stored with values from 0 to 1, or those of 8 bits in 16?"
        )
    raise UserError(f"the {split} split shows nothing to learn: {n} of its images, a sample, are {shown}")
