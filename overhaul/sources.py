"""Image sets by name or path: from scikit-learn, the Hub or a local copy into uint8 arrays."""

import io
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from overhaul.run import Run
from overhaul.setups import choose, first_line

HUB_IDS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
NAMES = ("digits", *HUB_IDS, "imagenet")
SPLITS = {"train": ("train",), "test": ("test", "validation", "val", "valid")}
IMAGE_COLUMNS = ("img", "image", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("fine_label", "label", "labels", "cls", "class")


@dataclass(frozen=True)
class Images:
    """A split in memory. pixels: uint8 [n, size, size, 3]; labels: int64 [n], each below len(classes)."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """A line that tells these images from others, by number, classes and labels."""
        return f"{len(self):,} images of {len(self.classes)} classes, labels {zlib.crc32(self.labels.tobytes()):08x}"


def load(
    data: str, image_size: int, run: Run, num_classes: int, splits=("train", "test"), resize: int | None = None
) -> list[Images]:
    """The splits of a data set, decoded once to RGB of image_size pixels a side.

    data: digits, cifar10, cifar100, the Hub id of a data set or a folder; run.data_path: a local copy of it.
    num_classes counts only where the data name no classes. resize: see to_pixels. Raises ValueError for data that are
    missing or do not fit.
    """
    if data == "digits" and not run.data_path:
        return [digits(image_size, split) for split in splits]
    tables = read_tables(data, run.data_path)
    classes = read_class_names(run.class_names)
    loaded = []
    for split in splits:
        table = tables[find_split(tables, split)]
        image_column, label_column = find_columns(table, run)
        labels, classes = read_labels(table, label_column, classes, num_classes, split)
        pixels = decode_all(table, image_column, image_size, split, resize)
        loaded.append(Images(pixels, labels, classes))
    return loaded


def digits(image_size: int, split: str) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged; every fifth is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("the digits come with scikit-learn: pip install 'overhaul[demo]'") from None
    raw = load_digits()
    wanted = (np.arange(len(raw.target)) % 5 == 0) == (split == "test")
    grey = (raw.images[wanted] * (255 / 16)).round().astype(np.uint8)
    pixels = np.stack([to_pixels(Image.fromarray(image), image_size) for image in grey])
    return Images(pixels, raw.target[wanted].astype(np.int64), tuple(map(str, raw.target_names)))


def read_tables(data: str, data_path: str | None):
    """A DatasetDict of the data's splits, images still encoded."""
    import datasets

    if data == "imagenet":
        raise ValueError("ImageNet is not read yet: images are held in memory, as suits CIFAR and sets of its kind")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    if data_path is None and not Path(data).is_dir() and "/" not in data:
        choose("--data", data, NAMES)
    local = Path(data_path or data).expanduser()
    if data_path is not None and not local.is_dir():
        raise ValueError(f"--data_path {data_path}: there is no such folder")
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            tables = datasets.load_from_disk(str(local))
        else:
            tables = datasets.load_dataset(str(local) if local.is_dir() else HUB_IDS.get(data, data))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"the data set {local if local.is_dir() else data} cannot be read{advice(local, error)}"
        ) from None
    return tables if isinstance(tables, dict) else {str(tables.split or "train"): tables}


def advice(local: Path, error: Exception) -> str:
    reason = first_line(error)
    if local.is_dir():
        return f" ({reason}); a folder needs parquet files, train/CLASS and test/CLASS images, or save_to_disk output"
    return f" from the Hub ({reason}); a local copy is taken with --data_path DIR"


def find_split(tables, split: str) -> str:
    for name in SPLITS[split]:
        if name in tables:
            return name
    raise ValueError(f"the data have no {split} split ({' or '.join(SPLITS[split])}); they have {', '.join(tables)}")


def find_columns(table, run: Run) -> tuple[str, str]:
    """The names of the image and the label column, as the flags say or by usual name and type."""
    import datasets

    features = table.features
    images = [name for name in features if isinstance(features[name], datasets.Image)]
    classes = [name for name in features if isinstance(features[name], datasets.ClassLabel)]
    image = find_column("image", run.image_column, features, images, IMAGE_COLUMNS)
    label = find_column("label", run.label_column, features, classes, LABEL_COLUMNS)
    return image, label


def find_column(kind: str, flag: str | None, features, typed: list[str], usual: tuple[str, ...]) -> str:
    """The named column; else one of the type with a usual name, one with a usual name, or the only one of the type."""
    if flag:
        return choose(f"--{kind}_column", flag, tuple(features))
    named = [name for name in usual if name in features]
    found = [name for name in named if name in typed] or named or (typed if len(typed) == 1 else [])
    if found:
        return found[0]
    raise ValueError(
        f"the data have no {kind} column that can be told; name one of {', '.join(features)} with --{kind}_column"
    )


def read_class_names(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--class_names {path} cannot be read: {error}") from None
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"--class_names {path} must hold one class name a line, none of them twice")
    return names


def read_labels(table, column: str, classes: tuple[str, ...] | None, num_classes: int, split: str):
    """int64 labels and the class names they number.

    The names are `classes` where given; else the column's own, its sorted words, or numbers below num_classes. Where
    the column has names of its own, its labels are told by name, whatever their order.
    """
    import datasets

    feature = table.features[column]
    plain = isinstance(feature, (datasets.Value, datasets.ClassLabel)) and re.match("u?int|.*string", feature.dtype)
    values = np.asarray(table.with_format(None)[column][:]) if plain else np.array(None)
    if values.dtype.kind not in "iuU":
        raise ValueError(
            f"the column {column} holds no labels (integers or names, none missing); name another with --label_column"
        )
    names = getattr(feature, "names", None)
    if values.dtype.kind == "U":
        names, values = np.unique(values, return_inverse=True)
        names = names.tolist()
    known = len(names or classes or range(num_classes))
    outside = np.flatnonzero((values < 0) | (values >= known))
    if len(outside):
        raise ValueError(
            f"the {split} split has labels outside its {known} classes: {values[outside[0]]} in row "
            f"{outside[0]} ({len(outside)} rows in all); name another column with --label_column, or the classes with "
            f"--num_classes or --class_names"
        )
    classes = classes or tuple(names or map(str, range(num_classes)))
    if names and tuple(names) != classes:
        numbers = {name: number for number, name in enumerate(classes)}
        strange = [names[value] for value in np.unique(values) if names[value] not in numbers]
        if strange:
            raise ValueError(
                f"the {split} split has the label {strange[0]!r}, which is none of the {len(classes)} classes"
            )
        values = np.array([numbers.get(name, -1) for name in names])[values]
    return values.astype(np.int64), classes


def decode_all(table, column: str, size: int, split: str, resize: int | None) -> np.ndarray:
    """uint8 [n, size, size, 3] of a column of encoded images; ValueError with the row of one that is broken."""
    import datasets

    if not isinstance(table.features[column], datasets.Image):
        try:
            table = table.cast_column(column, datasets.Image())
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"the column {column} holds no images; name the right one with --image_column") from None
    table = table.cast_column(column, datasets.Image(decode=False)).select_columns(column)
    pixels = np.empty((len(table), size, size, 3), dtype=np.uint8)
    row = 0
    for batch in table.iter(1000):
        for encoded in batch[column]:
            try:
                with Image.open(io.BytesIO(encoded["bytes"]) if encoded["bytes"] else encoded["path"]) as image:
                    pixels[row] = to_pixels(image, size, resize)
            except (OSError, UnidentifiedImageError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"row {row} of the {split} split is no image that can be read ({error}); take the row out, or name "
                    f"another column with --image_column"
                ) from None
            row += 1
    return pixels


def to_pixels(image: Image.Image, size: int, resize: int | None = None) -> np.ndarray:
    """uint8 [size, size, 3], RGB: the centre of the image, after its short side was resized to `resize` pixels.

    resize is `size` unless named; an image of size x size is then taken as it is. 16 bits a pixel become 8; EXIF
    orientation is ignored, as in the authors' release.
    """
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    image = image.convert("RGB")
    if image.size != (size, size) or (resize or size) != size:
        scale = (resize or size) / min(image.size)
        image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (round((side - size) / 2) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)
