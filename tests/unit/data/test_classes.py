"""Classes are told by name wherever both sides have names, whatever the order and however many the data have."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
from support.images import some_images, some_split, write_parquet

from overhaul.data import sources
from overhaul.data.classes import match, renumber
from overhaul.data.streaming import open_streams
from overhaul.options import DataOptions, Run
from overhaul.recipe import Preprocessing
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

NUMBERS = [str(n) for n in range(11)]
SETUP = replace(SETUPS["digits_teacher"], crop_area=(0.5, 1.0), image_size=16, batch_size=2)
SHOW = Preprocessing(16, 16, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("theirs", "ours", "numbers", "said"),
    [
        (["red", "green", "blue"], ["blue", "green", "red"], [2, 1, 0], False),
        (["red", "green", "blue"], ["blue", "red"], [2, 0], False),
        (NUMBERS, sorted(NUMBERS), [int(name) for name in sorted(NUMBERS)], False),
        (sorted(NUMBERS), NUMBERS, [sorted(NUMBERS).index(name) for name in NUMBERS], False),
        (list("abcdefghijk"), NUMBERS, list(range(11)), False),
        (list("abcdefghijk"), sorted(NUMBERS), [int(name) for name in sorted(NUMBERS)], False),
        (NUMBERS, list("abcdefghijk"), list(range(11)), False),
        (["n01", "n02"], ["tench", "goldfish"], [0, 1], True),
        (["crane", "crane"], ["crane", "crane"], [0, 1], False),
    ],
)
def test_classes_are_matched_by_name_and_else_by_number(capsys, theirs, ours, numbers, said):
    assert renumber(theirs, ours).tolist() == numbers
    assert match(theirs, ours) in (numbers, None)
    line = capsys.readouterr().err
    assert bool(line) == said and line.count("\n") == said
    if said:
        assert "matched by number: 'tench' is taken for 'n01', 'goldfish' for 'n02'" in line


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("abc", "abd", "have 3 classes, 1 of which are none of the 3 that the network knows: d"),
        ("abc", "xy", "have 2 classes, 2 of which are none of the 3 that the network knows: x, y"),
        ("ab", "abcdefghi", "have 9 classes, 7 of which are none of the 2 .*: c, d, e, f, g and 2 more$"),
        (NUMBERS, [*NUMBERS, "11"], "have 12 classes, 1 of which are none of the 11 .*: 11"),
    ],
)
def test_classes_that_cannot_be_matched_are_named(theirs, ours, words):
    with pytest.raises(UserError, match=words):
        match(list(theirs), list(ours))


def test_a_class_that_no_image_has_may_be_unknown():
    numbers = renumber(["red", "green"], ["green", "blue", "red"], used=np.array([0, 2]))
    assert numbers.tolist() == [1, -1, 0]


THEIRS = ("eel", "fox", "cat", "dog")  # of the sets below, whose classes are cat, dog and eel


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("sets")
    for split in ("train", "test"):
        for name, image in zip(["cat", "dog", "eel"] * 2, some_images(6), strict=True):
            folder = root / "folders" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{split}{len(list(folder.iterdir()))}.png")
    words = {"labels": ["dog", "cat", "eel"] * 2, "feature": datasets.Value("string")}
    write_parquet(root / "words", train=some_split(6, **words), test=some_split(6, **words))
    write_parquet(root / "names", train=some_split(6), test=some_split(6))
    return {form: str(root / form) for form in ("folders", "words", "names")}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["folders", "words", "names"])
@pytest.mark.parametrize("splits", [("train", "test"), ("test",)])
def test_images_are_labelled_as_somebody_else_numbers_them(sets, form, whole, splits):
    own = sources.load(sets[form], DataOptions(), SHOW, 3, splits, whole=whole)
    as_theirs = sources.load(sets[form], DataOptions(), SHOW, 3, splits, whole=whole, classes=THEIRS)
    for ours, images, split in zip(own, as_theirs, splits, strict=True):
        assert ours.classes == ("cat", "dog", "eel") and images.classes == THEIRS and images.split == split
        assert [THEIRS[label] for label in images.labels] == [ours.classes[label] for label in ours.labels]


@pytest.mark.parametrize("form", ["folders", "words", "names"])
def test_streams_are_labelled_as_somebody_else_numbers_them(sets, form):
    (whole,) = sources.load(sets[form], DataOptions(), SHOW, 3, ("test",), whole=True)
    for stream in open_streams(replace(SETUP, data=sets[form]), Run(), 3, 0, 1, classes=THEIRS):
        assert stream.classes == THEIRS
        shown = [THEIRS[label] for _, label in stream.decode(0)]
        assert sorted(shown) == sorted(whole.classes[label] for label in whole.labels)
    assert shown == [whole.classes[label] for label in whole.labels]


def test_class_names_of_a_file_come_before_those_of_a_network(tmp_path):
    split = some_split(6, feature=datasets.Value("int64"))
    path = write_parquet(tmp_path / "set", train=split, test=split)
    (tmp_path / "names.txt").write_text("cat\ndog\neel\n")
    options = DataOptions(class_names=str(tmp_path / "names.txt"))
    (named,) = sources.load(path, options, SHOW, 3, ("test",), classes=THEIRS)
    assert named.labels.tolist() == [2, 3, 0] * 2
    (plain,) = sources.load(path, DataOptions(), SHOW, 3, ("test",), classes=("x", "y", "z"))
    assert plain.labels.tolist() == [0, 1, 2] * 2


def test_the_digits_are_labelled_as_somebody_else_numbers_them():
    own, turned = (
        sources.load("digits", DataOptions(), SHOW, 10, classes=classes) for classes in (None, tuple("9876543210"))
    )
    for ours, images, split in zip(own, turned, ("train", "test"), strict=True):
        assert images.labels.tolist() == (9 - ours.labels).tolist() and images.split == split


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], ""),
        ([0, 0, 1], "overhaul: classes without a training image: eel; their 1 test images cannot be told\n"),
    ],
)
def test_classes_without_a_training_image_are_named(tmp_path, capsys, labels, said):
    path = write_parquet(tmp_path / "set", train=some_split(3, labels=labels), test=some_split(3))
    capsys.readouterr()
    sources.load(path, DataOptions(), SHOW, 3, classes=THEIRS)
    assert capsys.readouterr().err == said


def test_what_every_process_finds_is_said_by_the_first(tmp_path, capsys, monkeypatch):
    path = write_parquet(tmp_path / "set", train=some_split(3, labels=[0, 0, 1]), test=some_split(3))
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    sources.load(path, DataOptions(), SHOW, 3)
    assert capsys.readouterr().err == ""
