"""What the labels of a table mean: the names of its classes, and their numbers in a network that knows them."""

import re
from collections.abc import Sequence

import numpy as np

from overhaul.data.bounds import read_regular
from overhaul.data.known import user_path
from overhaul.system.messages import UserError, some, warn_once

MOST_CLASSES = 1_000_000
MOST_BYTES = 2**26  # of their names


def read_class_names(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    file = user_path("--class_names", path)
    try:
        text = read_regular(file, MOST_BYTES).decode()
    except (OSError, UserError, UnicodeDecodeError) as error:
        raise UserError(f"--class_names {path} cannot be read: {error}") from None
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    check_number(len(names))
    if len(set(names)) != len(names) or not names or "\0" in text:
        raise UserError(f"--class_names {path} must hold one class name a line, none of them twice")
    return names


def check_number(classes: int) -> None:
    """UserError for more classes than any network tells."""
    if classes > MOST_CLASSES:
        raise UserError(f"{classes:,} classes are too many: {MOST_CLASSES:,} are the most (--num_classes)")


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
    check_number(known)
    outside = np.flatnonzero((values < 0) | (values >= known))
    if len(outside):
        raise UserError(
            f"the {split} split has labels outside its {known} classes: {values[outside[0]]} in row "
            f"{outside[0]} ({len(outside)} rows in all); name another column with --label_column, or the classes with "
            f"--num_classes or --class_names"
        )
    classes = classes or tuple(names or plain_numbers(num_classes))
    if names and tuple(names) != classes:
        numbers = {name: number for number, name in enumerate(classes)}
        strange = [names[value] for value in np.unique(values) if names[value] not in numbers]
        if strange:
            raise UserError(
                f"the {split} split has the label {strange[0]!r}, which is none of the {len(classes)} classes"
            )
        values = np.array([numbers.get(name, -1) for name in names])[values]
    return values.astype(np.int64), classes


def number_labels(feature, column: str, classes: tuple[str, ...] | None, num_classes: int, words_of=None):
    """The class number of each label that a stream's column may hold, as a dict, and the class names.

    Names as in read_labels, but words, of which a stream does not say beforehand which there are, need `classes`, or
    are words_of somebody else's.
    """
    import datasets

    names = getattr(feature, "names", None)
    words = isinstance(feature, datasets.Value) and "string" in feature.dtype
    if not (names or (isinstance(feature, datasets.Value) and re.match("u?int|.*string", feature.dtype))):
        raise UserError(f"the column {column} holds no labels (integers or names); name another with --label_column")
    classes = classes or (words_of if words else None)
    if words and not classes:
        raise UserError(f"the labels of the stream are words ({column}): name the classes with --class_names FILE")
    check_number(len(names or classes or range(num_classes)))
    classes = tuple(classes or names or plain_numbers(num_classes))
    number_of = {name: number for number, name in enumerate(classes)}
    if words:
        return number_of, classes
    return {label: number_of.get(name) for label, name in enumerate(names or classes)}, classes


def match(theirs: Sequence[str], ours: Sequence[str]) -> list[int] | None:
    """For each of our classes its number among theirs, or None where ours keep their numbers.

    Where they know each of our names, by name, whatever the order; they may know more. Without a name in common, but
    with as many classes, by number: a name of ours is its number where ours are those below their count. UserError
    for what is neither.
    """
    if tuple(theirs) == tuple(ours):  # also where two classes have one name
        return list(range(len(ours)))
    numbers = {name: number for number, name in enumerate(theirs)}
    unknown = [name for name in ours if name not in numbers]
    if not unknown:
        return [numbers[name] for name in ours]
    if len(unknown) == len(ours) == len(theirs):
        return list(map(int, ours)) if sorted(ours) == sorted(plain_numbers(len(ours))) else None
    raise UserError(
        f"the data have {len(ours)} classes, {len(unknown)} of which are none of the {len(theirs)} that the network "
        f"knows: {some(unknown)}"
    )


def plain_numbers(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))


def renumber(theirs: Sequence[str], ours: Sequence[str], used: np.ndarray | None = None) -> np.ndarray:
    """The number of each of our classes among theirs, see `match`; int64 [len(ours)].

    A class that is not among those used, an array of numbers, may be none of theirs: it has the number -1. Says so
    where names that have nothing in common are matched by number.
    """
    if used is not None and all(ours[number] in set(theirs) for number in used):
        numbers = {name: number for number, name in enumerate(theirs)}
        return np.array([numbers.get(name, -1) for name in ours], dtype=np.int64)
    numbers = match(theirs, ours)
    if numbers is None and plain_numbers(len(ours)) not in (tuple(theirs), tuple(ours)):
        warn_once(
            f"no class of the data bears the name of one that the network knows, so their classes are matched by "
            f"number: {ours[0]!r} is taken for {theirs[0]!r}, {ours[-1]!r} for {theirs[-1]!r}"
        )
    return np.arange(len(ours)) if numbers is None else np.array(numbers, dtype=np.int64)


def name_untrained(classes: Sequence[str], train: np.ndarray, test: np.ndarray) -> None:
    """One line for the classes without a training image; labels [n] of both splits."""
    there = np.bincount(train, minlength=len(classes)) > 0
    untrained = [name for name, trained in zip(classes, there, strict=True) if not trained]
    if untrained:
        lost = int((~there[test]).sum())
        told = f"; their {lost:,} test images cannot be told" if lost else ""
        warn_once(f"classes without a training image: {some(untrained)}{told}")
