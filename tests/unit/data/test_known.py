"""A set is named where the images are that set's: from the Hub, or a copy whose classes and counts are."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm

from overhaul.data import sources
from overhaul.data.images import Images
from overhaul.data.known import KNOWN, folder_name, is_named, local_folder
from overhaul.options import DataOptions

CIFAR10 = tuple(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])


def split(classes: tuple[str, ...], each: int, left_out: int = 0) -> Images:
    labels = np.arange(each * len(classes)) % len(classes)
    return Images(np.zeros((len(labels), 0, 0, 3), np.uint8), labels, classes, ("broken",) * left_out)


def copy_of(name: str, classes: tuple[str, ...]) -> tuple[Images, Images]:
    """Labels and classes of a copy, its classes as equal as they can be."""
    known = KNOWN[name]
    training = split(classes, -(-known.training[0] // len(classes)))
    training = replace(training, labels=training.labels[: known.training[0]])
    return training, split(classes, known.test[0] // len(classes))


def imagenet_names() -> dict[str, str]:
    """WordNet's ids and the Hub's names, which tell the two cranes apart."""
    folder = Path(timm.__file__).parent / "data" / "_info"
    lemmas = dict(line.split("\t") for line in (folder / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    ids = (folder / "imagenet_synsets.txt").read_text().split()
    return {each: lemmas[each] for each in ids} | {"n03126707": "crane2"}


def classes_of(name: str, form: str) -> tuple[str, ...]:
    if form == "numbers":
        return tuple(map(str, range(KNOWN[name].classes)))
    if name == "cifar10":
        return CIFAR10
    return tuple(imagenet_names() if form == "ids" else imagenet_names().values())


FORMS = [("cifar10", "names"), ("cifar10", "numbers"), ("cifar100", "numbers")]
FORMS += [("imagenet", form) for form in ("ids", "names", "numbers")]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_a_whole_copy_is_the_set_and_anything_else_is_not(tmp_path, name, form):
    classes = classes_of(name, form)
    training, test = copy_of(name, classes)
    path = str(tmp_path)
    assert is_named(name, path, training, test) and is_named(KNOWN[name].hub_id, path, training, test)
    assert is_named(name, path, replace(training, classes=classes[::-1]), test), "in another order"
    fewer = replace(training, labels=training.labels[1:])
    assert not is_named(name, path, fewer, test) and not is_named(name, path, training, fewer)
    assert is_named(name, path, replace(fewer, left_out=("broken",)), test), "an image that cannot be decoded"
    unequal = replace(test, labels=np.where(np.arange(len(test)) == 0, 1, test.labels))
    assert not is_named(name, path, training, unequal)
    other = ("x", *classes[1:])
    assert not is_named(name, path, replace(training, classes=other), replace(test, classes=other))
    others = [each for each in (*KNOWN, "digits", "me/images", path) if each != name]
    assert not any(is_named(each, path, training, test) for each in others)


def test_the_real_set_is_itself(shared):
    path = str(shared / "data" / "cifar100")
    splits = sources.load("cifar100", DataOptions(data_path=path), None, 100, whole=True)
    assert is_named("cifar100", path, *splits) and not is_named("cifar10", path, *splits)
    coarse = DataOptions(data_path=path, label_column="coarse_label")
    assert not is_named("cifar100", path, *sources.load("cifar100", coarse, None, 100, whole=True))


def test_a_part_of_imagenet_is_not_imagenet(shared):
    path = str(shared / "data" / "imagenet_sample")
    splits = sources.load("imagenet", DataOptions(data_path=path), None, 1000, whole=True)
    assert not is_named("imagenet", path, *splits)


@pytest.mark.parametrize(
    ("training", "test", "is_it"), [(50_000, 10_000, True), (50_000, None, True), (500, None, False)]
)
def test_a_stream_is_told_by_its_classes_and_the_counts_that_it_tells(tmp_path, training, test, is_it):
    splits = [SimpleNamespace(classes=CIFAR10, n=n) for n in (training, test)]
    assert is_named("cifar10", str(tmp_path), *splits) is is_it


def test_what_comes_from_the_hub_is_what_it_is_called(tmp_path, monkeypatch):
    few = split(("a", "b"), 3)
    assert all(is_named(name, None, few, few) for name in ("imagenet", "me/images", "digits"))
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "digits", "me/images"):
        (tmp_path / name).mkdir(parents=True)
    assert is_named("digits", None, few, few), "which are never read from a folder that happens to be there"
    assert not any(is_named(name, None, few, few) for name in ("imagenet", "me/images"))


def test_of_a_folder_its_last_name_is_told(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "my_images").symlink_to("real")
    monkeypatch.chdir(tmp_path / "my_images")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (".", "../my_images", f"{tmp_path}/my_images/", "~/my_images", "./"):
        assert folder_name(local_folder("imagenet", path)) in ("my_images", "real"), path
    assert folder_name(Path("/")) == "a local folder" and folder_name(Path("/a/b\x1b[2J\n|c")) == "b [2J |c"
