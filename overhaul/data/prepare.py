"""A data set read once and written as sharded parquet, which loads at once and streams well."""

import io
import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import yaml
from PIL import Image
from torch import Tensor

from overhaul.data import sources
from overhaul.data.bounds import read_regular
from overhaul.data.columns import count_rows
from overhaul.data.decoding import shorten
from overhaul.data.images import Broken, EncodedImages, report_broken
from overhaul.data.known import local_folder, user_path
from overhaul.options import DataOptions
from overhaul.setups import SETUPS
from overhaul.system.files import flush, write_text
from overhaul.system.messages import UserError, duration, warn
from overhaul.system.signs import Signs

ROWS_OF_SHARD, ROWS_OF_GROUP = 2500, 100
NAMES = {"train": "train", "test": "validation"}
RECORD, MOST_RECORD = "prepared.json", 2**20  # and its bytes
MOST_SIDE = 65_535  # of a JPEG


class Preparation:
    """The splits of a set on their way into OUT/data/SPLIT-00000-of-00512.parquet.

    The training images are written in a random order, the same every time, so that a stream of them need not be
    shuffled far. What a stopped preparation has written stays; the same command again goes on there. short_side,
    quality: of the JPEGs that larger images become; without short_side images stay as they are. num_classes counts only
    where the data name no classes. Raises UserError for data, settings or a folder that do not fit.
    """

    def __init__(
        self, data: str, options: DataOptions, out: str | Path, num_classes=None, short_side=None, quality=90
    ) -> None:
        self.out, self.short_side, self.quality = user_path("--out", out), short_side, quality
        self.skip_broken, self.broken, self.stopped = options.skip_broken, set(), False
        self.threads = options.workers or os.cpu_count() or 1
        if (short_side is not None and not 1 <= short_side <= MOST_SIDE) or not 1 <= quality <= 100:
            raise UserError(f"--short_side is a number of pixels, up to {MOST_SIDE}, --quality one of 1 to 100")
        self.check_out(local_folder(data, options.data_path))
        row = next((row for row in SETUPS.values() if row.data == data), None)
        num_classes = num_classes or (row.student.kwargs["num_classes"] if row else 0)
        sources.check_files(data, options)
        splits = sources.load(data, options, None, num_classes, whole=True)
        self.splits = dict(zip(NAMES.values(), splits, strict=True))
        self.contents = {name: f"{images.fingerprint}, {checksum(images)}" for name, images in self.splits.items()}

    def check_out(self, source: Path | None) -> None:
        """UserError where nothing can be written, and for a folder in the set, which would then be another."""
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out} cannot be written to (it is no folder); name another with --out")
        if source is not None and self.out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"--out {self.out} lies in the data set {source}; name a folder outside of it")

    def write(self, show: bool = False) -> dict:
        """Write what is not there yet; see finish. UserError where OUT holds another set. show: how far it is."""
        try:
            self.claim()
            shards = [shard for name in self.splits for shard in self.shards(name)]
            total = sum(len(rows) for _, _, rows in shards)
            self.signs = Signs("prepare", total, "images", warn, self.left, quiet=not show, stays=True)
            with closing(self.signs), ThreadPoolExecutor(self.threads) as pool:
                try:
                    for written in as_completed([pool.submit(self.write_shard, shard) for shard in shards]):
                        written.result()
                finally:
                    self.stopped = True  # else after an error or Ctrl-C each thread would finish its shard
                    pool.shutdown(wait=False, cancel_futures=True)
            return self.finish()
        except OSError as error:
            raise UserError(
                f"{self.out} cannot be written to ({error.strerror or error}); what is there is whole, and the same "
                f"command goes on"
            ) from None

    def left(self) -> str:
        return f"{duration(self.signs.left)} left"

    def claim(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        record = {**self.contents, "short_side": self.short_side, "quality": self.short_side and self.quality}
        file = self.out / RECORD
        if file.exists() and not is_record(file, record):
            raise UserError(f"{self.out} was prepared from other data or with other settings; name another with --out")
        if not file.exists() and any(self.out.iterdir()):
            raise UserError(f"{self.out} holds other files; name another folder with --out")
        (self.out / "data").mkdir(exist_ok=True)
        write_text(file, json.dumps(record, indent=2) + "\n")

    def shards(self, name: str) -> list[tuple[Path, EncodedImages, np.ndarray]]:
        """File, images and rows of each shard of a split."""
        images = self.splits[name]
        order = np.random.default_rng(0).permutation(len(images)) if name == "train" else np.arange(len(images))
        parts = np.array_split(order, -(-len(order) // ROWS_OF_SHARD))
        files = (self.out / "data" / f"{name}-{i:05d}-of-{len(parts):05d}.parquet" for i in range(len(parts)))
        return [(file, images, rows) for file, rows in zip(files, parts, strict=True)]

    def write_shard(self, shard: tuple[Path, EncodedImages, np.ndarray]) -> None:
        file, images, rows = shard
        if file.exists():
            self.signs.count(len(rows))
            return
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.classes))}
        schema, unfinished = datasets.Features(features).arrow_schema, file.with_name(f".{file.name}")
        with pyarrow.parquet.ParquetWriter(unfinished, schema, compression="none", use_dictionary=False) as writer:
            for start in range(0, len(rows), ROWS_OF_GROUP):
                if self.stopped:
                    return
                group = rows[start : start + ROWS_OF_GROUP]
                whole = list(self.encoded(images, group))
                columns = [[row[i] for row in whole] for i in range(len(schema))]
                writer.write_table(pyarrow.table(list(map(pyarrow.array, columns, schema.types)), schema))
                self.signs.count(len(group))
        flush(unfinished)
        unfinished.rename(file)

    def encoded(self, images: EncodedImages, rows: np.ndarray) -> Iterator[tuple[dict, int]]:
        """Image and label of these rows, each of which can be decoded: as they are, or made smaller."""
        for row, (encoded, path) in zip(rows, images.read(rows), strict=True):
            image = encoded if isinstance(encoded, Broken) else images.decode_one(row, encoded, path)
            if isinstance(image, Broken):
                report_broken([image], self.broken, self.skip_broken)
                continue
            yield {"bytes": self.smaller(encoded, image), "path": Path(path).name or None}, int(images.labels[row])

    def smaller(self, encoded: bytes | memoryview, image: Tensor) -> bytes:
        """A JPEG whose short side has short_side pixels; an image that is no larger stays as it is."""
        if self.short_side is None or min(image.shape[1:]) <= self.short_side:
            return bytes(encoded)
        file, pixels = io.BytesIO(), shorten(image, self.short_side).permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=self.quality)
        return file.getvalue()

    def finish(self) -> dict:
        """Write README.md, by which datasets knows the splits and their sizes.

        Returns {"folder", "train", "validation": images, "left_out": broken ones}.
        """
        sizes, files, left_out = [], [], 0
        for name in self.splits:
            shards = [file for file, _, _ in self.shards(name)]
            n, size = sum(map(count_rows, shards)), sum(file.stat().st_size for file in shards)
            left_out += len(self.splits[name]) - n
            sizes.append({"name": name, "num_examples": n, "num_bytes": size})
            files.append({"split": name, "path": f"data/{name}-*"})
        if left_out > self.skip_broken:
            raise UserError(f"{left_out} images are broken, and --skip_broken allows only {self.skip_broken}")
        info = {"description": "; ".join(self.contents.values()), "splits": sizes}  # datasets knows its cache by it
        card = {"configs": [{"config_name": "default", "data_files": files}], "dataset_info": info}
        write_text(self.out / "README.md", f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n")
        counts = {each["name"]: each["num_examples"] for each in sizes}
        return {"folder": str(self.out), **counts, "left_out": left_out}


def is_record(file: Path, record: dict) -> bool:
    try:
        return json.loads(read_regular(file, MOST_RECORD)) == record
    except ValueError:  # no JSON, or no file that could hold any
        return False


def checksum(images: EncodedImages) -> str:
    """By which a split is told from others with the same labels: its class names, and up to a hundred images."""
    crc = zlib.crc32("\n".join(images.classes).encode())
    for encoded, _ in images.read(np.unique(np.linspace(0, len(images) - 1, 100).astype(int))):
        crc = zlib.crc32(b"" if isinstance(encoded, Broken) else encoded, crc)
    return f"contents {crc:08x}"
