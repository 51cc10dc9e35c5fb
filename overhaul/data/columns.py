"""The columns of a table of images: which hold the images and the labels, and what the labels are."""

import re
from pathlib import Path

import numpy as np

from overhaul.options import DataOptions
from overhaul.system.messages import UserError, choose

SPLITS = {"train": ("train",), "test": ("test", "validation", "val", "valid")}
TESTS_WITHOUT_LABELS = ("imagenet", "ILSVRC/imagenet-1k")
IMAGE_COLUMNS = ("img", "image", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("fine_label", "label", "labels", "cls", "class")


def find_split(tables, split: str, data: str) -> str:
    """The name of the training or the test split; of ImageNet's two that may be the latter, the one with labels."""
    names = SPLITS[split]
    if data in TESTS_WITHOUT_LABELS and split == "test":
        names = (*names[1:], names[0])
    for name in names:
        if name in tables:
            return name
    raise UserError(f"the data have no {split} split ({' or '.join(SPLITS[split])}); they have {', '.join(tables)}")


def find_columns(table, options: DataOptions) -> tuple[str, str]:
    """The names of the image and the label column, as the flags say or by usual name and type."""
    import datasets

    features = table.features
    images = [name for name in features if isinstance(features[name], datasets.Image)]
    classes = [name for name in features if isinstance(features[name], datasets.ClassLabel)]
    image = find_column("image", options.image_column, features, images, IMAGE_COLUMNS)
    label = find_column("label", options.label_column, features, classes, LABEL_COLUMNS)
    return image, label


def find_column(kind: str, flag: str | None, features, typed: list[str], usual: tuple[str, ...]) -> str:
    """The named column; else one of the type with a usual name, one with a usual name, or the only one of the type."""
    if flag:
        return choose(f"--{kind}_column", flag, tuple(features))
    named = [name for name in usual if name in features]
    found = [name for name in named if name in typed] or named or (typed if len(typed) == 1 else [])
    if found:
        return found[0]
    raise UserError(
        f"the data have no {kind} column that can be told; name one of {', '.join(features)} with --{kind}_column"
    )


def read_class_names(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class_names {path} cannot be read: {error}") from None
    if len(set(names)) != len(names) or not names:
        raise UserError(f"--class_names {path} must hold one class name a line, none of them twice")
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
        raise UserError(
            f"the column {column} holds no labels (integers or names, none missing); name another with --label_column"
        )
    names = getattr(feature, "names", None)
    if values.dtype.kind == "U":
        names, values = np.unique(values, return_inverse=True)
        names = names.tolist()
    known = len(names or classes or range(num_classes))
    outside = np.flatnonzero((values < 0) | (values >= known))
    if len(outside):
        raise UserError(
            f"the {split} split has labels outside its {known} classes: {values[outside[0]]} in row "
            f"{outside[0]} ({len(outside)} rows in all); name another column with --label_column, or the classes with "
            f"--num_classes or --class_names"
        )
    classes = classes or tuple(names or map(str, range(num_classes)))
    if names and tuple(names) != classes:
        numbers = {name: number for number, name in enumerate(classes)}
        strange = [names[value] for value in np.unique(values) if names[value] not in numbers]
        if strange:
            raise UserError(
                f"the {split} split has the label {strange[0]!r}, which is none of the {len(classes)} classes"
            )
        values = np.array([numbers.get(name, -1) for name in names])[values]
    return values.astype(np.int64), classes


def count_rows(file: str | Path) -> int:
    """The rows of a parquet file, read off its end."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(file).num_rows


def number_labels(feature, column: str, classes: tuple[str, ...] | None, num_classes: int):
    """The class number of each label that a stream's column may hold, as a dict, and the class names.

    Names as in read_labels, but words, of which a stream does not say beforehand which there are, need `classes`.
    """
    import datasets

    names = getattr(feature, "names", None)
    words = isinstance(feature, datasets.Value) and "string" in feature.dtype
    if not (names or (isinstance(feature, datasets.Value) and re.match("u?int|.*string", feature.dtype))):
        raise UserError(f"the column {column} holds no labels (integers or names); name another with --label_column")
    if words and not classes:
        raise UserError(f"the labels of the stream are words ({column}): name the classes with --class_names FILE")
    classes = classes or tuple(names or map(str, range(num_classes)))
    number_of = {name: number for number, name in enumerate(classes)}
    if words:
        return number_of, classes
    return {label: number_of.get(name) for label, name in enumerate(names or classes)}, classes
