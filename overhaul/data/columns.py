"""The splits and columns of a set: which are for training and tests, and which hold the images and the labels."""

from itertools import islice
from pathlib import Path

from overhaul.options import DataOptions
from overhaul.system.messages import UserError, choose, warn_once

SPLITS = {  # the first that is there and has labels is taken
    "train": ("train", "training"),
    "test": ("test", "validation", "val", "valid", "dev", "testing", "eval", "evaluation"),
}
TESTS_WITHOUT_LABELS = ("imagenet", "ILSVRC/imagenet-1k")
IMAGE_COLUMNS = ("img", "image", "jpg", "jpeg", "png", "webp")
LABEL_COLUMNS = ("fine_label", "label", "labels", "cls", "class")
PEEK = 16  # rows of a stream that are looked at beforehand


class Unlabelled(str):
    """In place of a split that has images and no labels: why."""


def find_split(tables, split: str, data: str, options: DataOptions) -> str:
    """The name of the training or the test split.

    Of several that may be the latter it is the first with labels: of ImageNet's the validation split, in silence, and
    of others with a line. UserError where no split has labels or none is there.
    """
    names = SPLITS[split]
    if data in TESTS_WITHOUT_LABELS and split == "test":
        names = (*names[1:], names[0])
    there, reasons = [name for name in names if name in tables], []
    if not there:
        raise UserError(f"the data have no {split} split ({' or '.join(names)}); they have {', '.join(tables)}")
    if split == "train" and len(there) > 1:
        raise UserError(f"the data have two splits to train on, {' and '.join(there)}: call one of them otherwise")
    for name in there:
        reason = why_unlabelled(tables[name], name, options, others=len(there) > 1)
        if reason is None:
            if reasons:
                warn_once(f"{reasons[0]}; the {name} split is taken for tests")
            return name
        reasons.append(reason)
    raise UserError(f"{'; '.join(reasons)}; labels are folders, {split}/CLASS/*.png, or a column (--label_column)")


def why_unlabelled(table, name: str, options: DataOptions, others: bool) -> str | None:
    """Why a split has no labels, or None for one that has; without others to take, a column may yet be named."""
    import pyarrow

    if isinstance(table, Unlabelled):
        return str(table)
    try:
        label = find_label(table, options)
    except UserError as error:
        return f"the {name} split has no labels: {error}" if others else None
    if hasattr(table, "num_rows"):
        column = table.select_columns(label).with_format("arrow")[:].column(label)
        kinds = (pyarrow.types.is_integer, pyarrow.types.is_null, pyarrow.types.is_string)
        labels = column.unique().to_pylist() if any(is_kind(column.type) for is_kind in kinds) else []
    else:
        labels = [row[label] for row in islice(table.select_columns(label), PEEK)] if split_of(name) == "test" else []
    hidden = labels and all(each is None or (isinstance(each, int) and each == -1) for each in labels)
    what = "is empty" if labels == [None] * len(labels) else "holds -1 alone"
    return f"the {name} split has no labels: its column {label} {what}" if hidden else None


def split_of(name: str) -> str | None:
    """Whether a split of that name is for training or for tests."""
    return next((split for split, names in SPLITS.items() if name in names), None)


def find_columns(table, options: DataOptions) -> tuple[str, str]:
    """The names of the image and the label column, as the flags say or by usual name and type."""
    import datasets

    features = table.features
    images = [name for name in features if isinstance(features[name], datasets.Image)]
    return find_column("image", options.image_column, features, images, IMAGE_COLUMNS), find_label(table, options)


def find_label(table, options: DataOptions) -> str:
    import datasets

    features = table.features
    classes = [name for name in features if isinstance(features[name], datasets.ClassLabel)]
    return find_column("label", options.label_column, features, classes, LABEL_COLUMNS)


def find_column(kind: str, flag: str | None, features, typed: list[str], usual: tuple[str, ...]) -> str:
    """The named column; else one of the type with a usual name, one with a usual name, or the only one of the type."""
    if flag:
        return choose(f"--{kind}_column", flag, tuple(features))
    named = [name for name in usual if name in features]
    found = [name for name in named if name in typed] or named or (typed if len(typed) == 1 else [])
    if found:
        return found[0]
    if kind == "label" and "__key__" in features:  # of every table that is read from tar files
        raise UserError(
            f"the tar files hold no labels that can be told: NAME.cls beside each NAME.jpg, or one of "
            f"{', '.join(features)} that is named with --label_column; unpack archives of train/CLASS and test/CLASS"
        )
    raise UserError(
        f"the data have no {kind} column that can be told; name one of {', '.join(features)} with --{kind}_column"
    )


def count_rows(file: str | Path) -> int:
    """The rows of a parquet file, read off its end."""
    import pyarrow.parquet

    return pyarrow.parquet.read_metadata(file).num_rows
