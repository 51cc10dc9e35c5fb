"""Image sets in every form that load_dataset takes, and what is said of those that do not fit."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.hub_server import LocalHub
from support.images import SMALL, some_images, some_split, write_parquet

from overhaul.data import images as room
from overhaul.data import sources
from overhaul.data.decoding import decode
from overhaul.data.images import EncodedImages
from overhaul.data.loaders import TrainLoader
from overhaul.data.streaming import open_streams
from overhaul.options import DataOptions, Run
from overhaul.recipe import Preprocessing
from overhaul.setups import SETUPS

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")
NAMES = ["cat", "dog", "eel"]
SHOW = Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3)
LARGE = SETUPS["imagenet_b"].preprocessing
WNIDS = ["n01440764", "n01443537", "n01484850"]
SIZES = [(300, 400), (120, 90), (224, 224), (40, 70), (333, 250), (256, 300)]  # height and width


def load(path, data="cifar100", num_classes=3, **flags) -> list[sources.Images]:
    return sources.load(data, DataOptions(data_path=path, **flags), SHOW, num_classes)


def check(loaded, train=7, test=5) -> None:
    assert [len(images) for images in loaded] == [train, test]
    for images in loaded:
        assert images.classes == tuple(NAMES)
        assert images.pixels.dtype == np.uint8 and images.pixels.shape[1:] == (32, 32, 3)
        assert np.array_equal(images.pixels[2], np.asarray(some_images(3)[2]))
        assert images.labels.tolist() == [i % 3 for i in range(len(images))]


def test_a_folder_of_parquet_files(tmp_path):
    check(load(write_parquet(tmp_path / "set", train=some_split(7), test=some_split(5))))


def test_save_to_disk_output(tmp_path):
    datasets.DatasetDict({"train": some_split(7), "test": some_split(5)}).save_to_disk(tmp_path / "set")
    check(load(str(tmp_path / "set")))


@pytest.mark.parametrize("test_folder", ["test", "val", "validation"])
def test_an_imagefolder_tree(tmp_path, test_folder):
    for split, n in (("train", 7), (test_folder, 5)):
        for i, image in enumerate(some_images(n)):
            folder = tmp_path / "set" / split / NAMES[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i}.png")
    train, test = load(str(tmp_path / "set"))
    assert train.classes == test.classes == tuple(NAMES)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2] and len(test) == 5
    assert np.array_equal(train.pixels[1], np.asarray(some_images(4)[3]))


def test_other_columns_are_found_or_named_by_flags(tmp_path):
    kwargs = {"image": "picture", "label": "kind"}
    path = write_parquet(tmp_path / "a", train=some_split(7, **kwargs), test=some_split(5, **kwargs))
    check(load(path))
    splits = {}
    for name, n in (("train", 7), ("test", 5)):
        splits[name] = some_split(n).add_column("other", [9] * n).rename_column("fine_label", "species")
        splits[name] = splits[name].cast_column("other", datasets.ClassLabel(num_classes=10))
    path = write_parquet(tmp_path / "b", **splits)
    with pytest.raises(
        ValueError, match=r"label column that can be told; name one of img, species, other with --label"
    ):
        load(path)
    check(load(path, label_column="species"))
    with pytest.raises(ValueError, match="did you mean species"):
        load(path, label_column="specis")


def test_cifar100_takes_the_fine_labels(tmp_path):
    splits = {
        name: some_split(n).add_column("coarse_label", [0] * n).cast_column("coarse_label", datasets.ClassLabel(2))
        for name, n in (("train", 7), ("test", 5))
    }
    check(load(write_parquet(tmp_path / "set", **splits)))


def test_class_names_from_a_file_for_plain_integers(tmp_path):
    plain = {"feature": datasets.Value("int64")}
    path = write_parquet(tmp_path / "set", train=some_split(7, **plain), test=some_split(5, **plain))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    check(load(path, class_names=str(tmp_path / "names.txt")))
    assert load(path)[0].classes == ("0", "1", "2")


def test_labels_are_told_by_name_where_the_splits_order_them_otherwise(tmp_path):
    reversed_names = {"labels": [2 - i % 3 for i in range(5)], "feature": datasets.ClassLabel(names=NAMES[::-1])}
    splits = {"train": some_split(7), "test": some_split(5, **reversed_names)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    check(load(str(tmp_path / "set")))


def test_a_class_that_the_training_images_lack_is_refused(tmp_path):
    strange = some_split(5, feature=datasets.ClassLabel(names=["cat", "dog", "eft"]))
    datasets.DatasetDict({"train": some_split(7), "test": strange}).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="test split has the label 'eft', which is none of the 3 classes"):
        load(str(tmp_path / "set"))


def test_a_usual_name_counts_more_than_a_type(tmp_path):
    splits = {}
    for name, n in (("train", 7), ("test", 5)):
        splits[name] = some_split(n, label="label", feature=datasets.Value("int64"))
        splits[name] = (
            splits[name].add_column("night", [0] * n).cast_column("night", datasets.ClassLabel(num_classes=2))
        )
    assert load(write_parquet(tmp_path / "set", **splits))[0].labels.tolist() == [i % 3 for i in range(7)]


@pytest.mark.parametrize(
    ("labels", "feature"),
    [
        ([[0], [1], [2]], datasets.List(datasets.Value("int64"))),
        ([[0], [1, 2], []], datasets.List(datasets.Value("int64"))),
        ([0.5, 1.0, 2.0], datasets.Value("float32")),
        ([0, None, 2], datasets.Value("int64")),
        (["cat", None, "dog"], datasets.Value("string")),
    ],
)
def test_columns_that_hold_no_labels(tmp_path, labels, feature):
    split = some_split(3, labels=labels, feature=feature)
    with pytest.raises(ValueError, match="column fine_label holds no labels"):
        load(write_parquet(tmp_path / "set", train=split, test=split))
    with pytest.raises(ValueError, match="column img holds no labels"):
        load(str(tmp_path / "set"), label_column="img")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "one class name a line"), (b"a\na\n", "none of them twice"), (b"\xe9", "cannot be read")],
)
def test_files_that_hold_no_class_names(tmp_path, content, words):
    path = write_parquet(tmp_path / "set", train=some_split(7), test=some_split(5))
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        load(path, class_names=str(tmp_path / "names.txt"))


def test_a_single_split_saved_to_disk(tmp_path):
    some_split(7).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match=r"no test split .*; they have train"):
        load(str(tmp_path / "set"))
    (train,) = sources.load("cifar100", DataOptions(data_path=str(tmp_path / "set")), SHOW, 3, splits=("train",))
    assert len(train) == 7


def test_labels_that_are_words(tmp_path):
    words = {"labels": [NAMES[i % 3] for i in range(7)], "feature": datasets.Value("string")}
    path = write_parquet(tmp_path / "set", train=some_split(7, **words), test=some_split(7, **words))
    check(load(path), test=7)


@pytest.mark.parametrize("bad", [-1, 3])
def test_labels_outside_the_classes_are_refused(tmp_path, bad):
    plain = {"feature": datasets.Value("int64")}
    broken = some_split(5, labels=[0, 1, bad, 2, 0], **plain)
    path = write_parquet(tmp_path / "set", train=some_split(7, **plain), test=broken)
    with pytest.raises(ValueError, match=f"test split has labels outside its 3 classes: {bad} in row 2"):
        load(path)


def test_a_missing_split_is_named(tmp_path):
    path = write_parquet(tmp_path / "set", train=some_split(7))
    with pytest.raises(ValueError, match=r"no test split \(test or validation or val or .*\); they have train"):
        load(path)


def test_a_set_without_images_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("train", "test"):
        datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"no image column that can be told; name one of text, label"):
        load(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"row 0 of the train split .* is no image .* with --image_column"):
        load(str(tmp_path / "set"), image_column="text")
    with pytest.raises(ValueError, match="the column label holds no images; name the right one with --image_column"):
        load(str(tmp_path / "set"), image_column="label")


def test_a_broken_image_is_named_by_its_row(tmp_path):
    train = some_split(7).cast_column("img", datasets.Image(decode=False))
    rows = train[:]["img"]
    rows[4] = {"bytes": rows[4]["bytes"][:100], "path": None}
    broken = datasets.Dataset.from_dict({"img": rows, "fine_label": train["fine_label"][:]}, features=train.features)
    path = write_parquet(tmp_path / "set", train=broken, test=some_split(5))
    with pytest.raises(ValueError, match="row 4 of the train split is no image that can be read"):
        load(path)


def arrays(folder: Path, change) -> str:
    """24 and 8 arrays of 16 x 16 numbers from 0 to 255, as the function changes them."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    splits = {}
    for seed, (split, n) in enumerate((("train", 24), ("test", 8))):
        rows = list(change(np.random.default_rng(seed).integers(0, 256, (n, 16, 16))))
        splits[split] = datasets.Dataset.from_dict({"image": rows, "label": [i % 2 for i in range(n)]}, features)
    return write_parquet(folder, **splits)


@pytest.mark.filterwarnings("ignore:Downcasting array")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x,
            r"^row 0 of the train split: it holds integers of 32 bits .*: store the images with 8 or 16 bits",
        ),
        (lambda x: (x / 255).astype("float32"), "holds floating-point numbers"),
        (lambda x: x.astype("float64"), "holds floating-point numbers"),
        (lambda x: x.astype("uint16"), "shows nothing to learn: 16 of its images, a sample, are of one colour"),
        (lambda x: (x / 255).astype("uint8"), "with values from 0 to 1 where 0 is black"),
        (lambda x: np.full_like(x, 255).astype("uint8"), "with values from 255 to 255"),
        (lambda x: np.repeat(x[:1], len(x), 0).astype("uint8"), "are one and the same image"),
    ],
)
def test_images_that_would_be_black_or_all_alike_are_refused_in_one_line(tmp_path, change, words):
    path = arrays(tmp_path / "set", change)
    stream = replace(SETUPS["digits_teacher"], data=path, crop_area=(0.5, 1.0), image_size=16)
    for open_it in (lambda: load(path, num_classes=2), lambda: open_streams(stream, Run(), 2, 0, 1)):
        with pytest.raises(
            ValueError, match=words.replace("row 0 of", ".* of").replace("split", "(split|stream)")
        ) as error:
            open_it()
        assert "\n" not in str(error.value) and "skip_broken" not in str(error.value)


@pytest.mark.parametrize("change", [lambda x: x.astype("uint8"), lambda x: (x * 257).astype("uint16")])
def test_arrays_of_8_and_16_bits_are_the_same_images(tmp_path, change):
    train, _ = sources.load(arrays(tmp_path / "set", change), DataOptions(), replace(SHOW, size=16, resize=16), 2)
    assert np.array_equal(train.pixels[..., 0], np.random.default_rng(0).integers(0, 256, (24, 16, 16)))


@pytest.mark.parametrize("hidden", [{"labels": [-1] * 5}, {"labels": [None] * 5}, None])
def test_a_test_split_without_labels_gives_way_to_one_with_them(tmp_path, capsys, hidden):
    nameless = some_split(5).remove_columns("fine_label") if hidden is None else some_split(5, **hidden)
    path = write_parquet(tmp_path / "set", train=some_split(7), validation=some_split(5), test=nameless)
    check(load(path))
    assert capsys.readouterr().err.endswith("; the validation split is taken for tests\n")
    stream = replace(SETUPS["digits_teacher"], data=path, crop_area=(0.5, 1.0), image_size=16)
    assert [stream.split for stream in open_streams(stream, Run(), 3, 0, 1)] == ["train", "validation"]
    assert "the test split has no labels: " in capsys.readouterr().err


@pytest.mark.parametrize("others", [(), ("validation", "val")])
def test_tests_of_which_none_has_labels_are_refused(tmp_path, others):
    hidden = some_split(5, labels=[-1] * 5)
    path = write_parquet(tmp_path / "set", train=some_split(7), **dict.fromkeys(("test", *others), hidden))
    with pytest.raises(
        ValueError, match=r"^the test split has no labels: its column fine_label holds -1 alone; "
    ) as error:
        load(path)
    assert str(error.value).count("holds -1 alone") == 1 + len(others)


def write_configurations(folder: Path, *names: str) -> str:
    configs = ""
    for number, name in enumerate(names):
        write_parquet(folder / name, train=some_split(7 + number), test=some_split(5))
        files = "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in ("train", "test"))
        configs += f"- config_name: {name}\n  data_files:\n{files}"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n# A set\n")
    return str(folder)


def test_a_configuration_is_named_where_there_are_several(tmp_path):
    several = write_configurations(tmp_path / "several", "small", "large")
    with pytest.raises(ValueError, match=r"has several configurations: name one of small, large with --data_config$"):
        load(several)
    with pytest.raises(ValueError, match=r"--data_config: 'lage' is not known \(did you mean large\?\)"):
        load(several, data_config="lage")
    for name, n in (("small", 7), ("large", 8)):
        check(load(several, data_config=name), train=n)
    for other in (
        write_configurations(tmp_path / "one", "default"),
        write_parquet(tmp_path / "set", train=some_split(7)),
    ):
        with pytest.raises(ValueError, match=r"--data_config small: the data set .* has no configurations"):
            load(other, data_config="small")
    with pytest.raises(ValueError, match="--data_config small: the data set digits has no configurations"):
        sources.load("digits", DataOptions(data_config="small"), SHOW, 10)


def test_a_library_s_error_is_told_by_its_cause_and_its_file(tmp_path, capfd):
    path = write_parquet(tmp_path / "set", train=some_split(7))
    (tmp_path / "set" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 and nonsense")
    with pytest.raises(
        ValueError, match=r"cannot be read \(.*/test-00000-of-00001\.parquet: .*not a parquet file"
    ) as error:
        load(path)
    assert "\n" not in str(error.value) and capfd.readouterr().err.count("Failed to read") == 0


def test_tar_files_without_labels_say_what_a_label_is(tmp_path):
    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("cat/0.png"), io.BytesIO())
    with pytest.raises(
        ValueError, match=r"the tar files hold no labels that can be told: NAME\.cls beside each NAME\.jpg"
    ):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such folder"),
        ({}, "cannot be read"),
        ({"notes.txt": "hello"}, "cannot be read|no image column|no test"),
    ],
)
def test_folders_that_hold_no_images(tmp_path, content, words):
    folder = tmp_path / "set"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        load(str(folder))


def test_an_unknown_data_set_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"'cifar10O' is not known \(did you mean cifar100\?\)|did you mean cifar10\?"):
        sources.load("cifar10O", DataOptions(), SHOW, 10)


def test_without_network_a_local_copy_is_advised(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 cannot be read from the Hub .* --data_path DIR"):
        sources.load("cifar10", DataOptions(), SHOW, 10)


def test_digits_are_the_real_ones_split_once():
    train, test = sources.load("digits", DataOptions(), SHOW, 10)
    assert (len(train), len(test)) == (1437, 360)
    assert train.pixels.shape == (1437, 32, 32, 3) and train.classes == tuple("0123456789")
    assert np.bincount(test.labels, minlength=10).min() >= 25
    assert train.pixels.max() > 200


def test_real_cifar100(shared):
    train, test = sources.load("cifar100", DataOptions(data_path=str(shared / "data" / "cifar100")), SHOW, 100)
    assert (len(train), len(test)) == (50000, 10000)
    assert train.classes[:3] == ("apple", "aquarium_fish", "baby") and len(train.classes) == 100
    assert np.bincount(train.labels).tolist() == [500] * 100
    mean = train.pixels.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(mean, [129.3, 124.1, 112.4], atol=0.1)


def jpeg(number: int) -> bytes:
    file, (height, width) = io.BytesIO(), SIZES[number]
    Image.fromarray(np.full((height, width, 3), 40 * number, np.uint8)).save(file, "JPEG")
    return file.getvalue()


JPEGS = [jpeg(number) for number in range(6)]  # of the classes 0, 1, 2, 0, 1, 2
SPLITS = {"train": range(6), "validation": [4, 0, 2]}


def labelled_jpegs(numbers) -> datasets.Dataset:
    rows = [{"bytes": JPEGS[number], "path": f"{WNIDS[number % 3]}_{number}.JPEG"} for number in numbers]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=WNIDS)})
    return datasets.Dataset.from_dict({"image": rows, "label": [number % 3 for number in numbers]}, features)


def write_release(folder: Path) -> None:
    """train/WNID/*.JPEG and val/WNID/*.JPEG."""
    for split, numbers in SPLITS.items():
        for number in numbers:
            wnid = WNIDS[number % 3]
            file = folder / split.removesuffix("idation") / wnid / f"{wnid}_{number}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(JPEGS[number])


def write_shards(folder: Path) -> None:
    """Tar files as those of timm/imagenet-1k-wds, whose labels are plain numbers."""
    folder.mkdir()
    shards = {"train-0000": [0, 1], "train-0001": [2, 3, 4, 5], "validation-00": SPLITS["validation"]}
    for shard, numbers in shards.items():
        with tarfile.open(folder / f"imagenet1k-{shard}.tar", "w") as archive:
            for number in numbers:
                about = {"label": number % 3, "class_name": WNIDS[number % 3]}
                files = {"jpg": JPEGS[number], "cls": b"%d" % (number % 3), "json": json.dumps(about).encode()}
                for end, content in files.items():
                    member = tarfile.TarInfo(f"{WNIDS[number % 3]}_{number}.{end}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def write_parquet_of_jpegs(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    for split, numbers in SPLITS.items():
        labelled_jpegs(numbers).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


def write_saved(folder: Path) -> None:
    splits = {split: labelled_jpegs(numbers) for split, numbers in SPLITS.items()}
    datasets.DatasetDict(splits).save_to_disk(folder)


FORMS = {
    "the release's folders": write_release,
    "tar shards": write_shards,
    "parquet": write_parquet_of_jpegs,
    "save_to_disk": write_saved,
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[str, Path]:
    """The same images in every form."""
    root = tmp_path_factory.mktemp("forms")
    for name, write in FORMS.items():
        write(root / name)
    return {name: root / name for name in FORMS}


def load_encoded(path: Path, **flags) -> list[EncodedImages]:
    return sources.load("imagenet", DataOptions(data_path=str(path), **flags), LARGE, 3, whole=True)


def contents(images: EncodedImages) -> dict[str, int]:
    """The label of each image, by its digest."""
    encoded = [content for content, _ in images.read(np.arange(len(images)))]
    return dict(zip((hashlib.sha1(each).hexdigest() for each in encoded), images.labels.tolist(), strict=True))


EXPECTED = [{hashlib.sha1(JPEGS[number]).hexdigest(): number % 3 for number in numbers} for numbers in SPLITS.values()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_bytes_and_labels(forms, form):
    train, test = load_encoded(forms[form])
    assert [contents(train), contents(test)] == EXPECTED
    assert train.classes == test.classes == (("0", "1", "2") if form == "tar shards" else tuple(WNIDS))
    assert (train.size, train.show.resize) == (224, 256) and train.labels.dtype == np.int64


@pytest.mark.parametrize("form", FORMS)
def test_opening_a_set_decodes_a_sample_of_it(forms, form, monkeypatch):
    decoded = []
    monkeypatch.setattr(room, "SAMPLE", 2)
    monkeypatch.setattr(room, "decode", lambda encoded, most: decoded.append(bytes(encoded)) or decode(encoded))
    train, _ = load_encoded(forms[form])
    TrainLoader(train, replace(SETUPS["imagenet_b"], batch_size=6), seed=0)
    assert len(list(train.read(np.arange(6)))) == 6
    assert len(decoded) == 4, "two of each split"
    next(train.decode(np.arange(1)))
    assert len(decoded) == 5


@pytest.mark.parametrize("form", FORMS)
def test_any_rows_in_any_order_are_read_and_decoded(forms, form):
    train, _ = load_encoded(forms[form])
    everything = [bytes(content) for content, _ in train.read(np.arange(6))]
    rows = np.array([5, 0, 3, 3, 1])
    assert [bytes(content) for content, _ in train.read(rows)] == [everything[row] for row in rows]
    for row, image in zip(rows, train.decode(rows), strict=True):
        assert torch.equal(image, decode(everything[row]))


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_image_of_every_form_is_named_by_row_and_file(form, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "JPEGS", [each if number != 3 else each[:-99] for number, each in enumerate(JPEGS)])
    FORMS[form](tmp_path / "set")
    train, _ = load_encoded(tmp_path / "set")
    pixels, broken = train.centres(np.arange(6))
    ((row, line),) = broken.items()
    assert train.labels[row] == 0 and pixels[row].max() == 0 and pixels.any(axis=(1, 2, 3)).sum() == 4  # 0 is black
    ending = "jpg" if form == "tar shards" else "JPEG"
    assert line.startswith(f"row {row} of the train split (") and f"n01440764_3.{ending}) is no image" in line


def test_broken_images_in_memory_are_left_out_named_and_counted(tmp_path, capsys):
    def part(n: int, *broken: int) -> datasets.Dataset:
        split = some_split(n).cast_column("img", datasets.Image(decode=False))
        rows = [{**row, "bytes": row["bytes"][:100]} if i in broken else row for i, row in enumerate(split["img"])]
        return datasets.Dataset.from_dict({"img": rows, "fine_label": split["fine_label"][:]}, split.features)

    path = write_parquet(tmp_path / "set", train=part(7, 1, 4), test=part(5))
    with pytest.raises(ValueError, match=r"row 1 of the train split .* --skip_broken N"):
        load(path)
    with pytest.raises(ValueError, match=r"row 4 of the train split .* --skip_broken allows only 1"):
        load(path, skip_broken=1)
    capsys.readouterr()
    train, test = load(path, skip_broken=2)
    assert train.labels.tolist() == [0, 2, 0, 2, 0] and len(test) == 5
    assert np.array_equal(train.pixels[3], np.asarray(some_images(7)[5]))
    assert [each.split(" is no")[0] for each in train.left_out] == [f"row {row} of the train split" for row in (1, 4)]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(";")[-1] for line in lines] == [" skipped (1 of at most 2)", " skipped (2 of at most 2)"]
    path = write_parquet(tmp_path / "none", train=part(3, 0, 1, 2), test=part(5))
    with pytest.raises(ValueError, match="all images of the train split are broken"):
        load(path, skip_broken=9)


def write_imagenet(folder: Path) -> None:
    """As on the Hub, where a test split without labels stands beside the validation split."""
    write_parquet_of_jpegs(folder)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    row = {"image": [{"bytes": JPEGS[1][:-99], "path": None}], "label": [-1]}
    test = datasets.Dataset.from_dict(row, features).cast_column("label", datasets.ClassLabel(names=WNIDS))
    test.to_parquet(folder / "data" / "test-00000-of-00001.parquet")


def test_imagenet_is_tested_on_its_validation_split_and_calls_it_so(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "JPEGS", [each if number != 2 else each[:-99] for number, each in enumerate(JPEGS)])
    write_imagenet(tmp_path / "set")
    _, test = load_encoded(tmp_path / "set")
    assert len(test) == 3 and test.labels.tolist() == [1, 0, 2]
    _, broken = test.centres(np.arange(3))
    assert list(broken) == [2] and broken[2].startswith("row 2 of the validation split (n01484850_2.JPEG)")


SCRIPT = """
import hashlib, json, os, sys, time
import datasets, huggingface_hub, numpy
from overhaul.data import sources
from overhaul.options import DataOptions
datasets.config.USE_PARQUET_EXPORT = False  # it is on another server
time.sleep = lambda seconds: None  # the Hub's client waits before it tries again
answers = []
for data, os.environ["HF_TOKEN"] in json.loads(sys.argv[1]):
    datasets.config.HF_DATASETS_CACHE = os.environ["HF_HOME"] + "/" + str(len(answers))  # as on a new machine
    huggingface_hub.constants.HF_HUB_CACHE = datasets.config.HF_DATASETS_CACHE + "/hub"
    try:
        if data == "me/folders":
            sources.read_tables(data, DataOptions(), streaming=True)
        splits = sources.load(data, DataOptions(), None, 3, whole=True)
    except ValueError as error:
        answers.append(str(error))
        continue
    answers.append([])
    for images in splits:
        encoded = [hashlib.sha1(each).hexdigest() for each, _ in images.read(numpy.arange(len(images)))]
        answers[-1].append(dict(zip(encoded, images.labels.tolist())))
        assert images.revision == "c0ffee" + "0" * 34
print(json.dumps(answers))
"""


def in_a_process(endpoint: str, cache: Path, *command: str) -> subprocess.CompletedProcess:
    """Python with these arguments, its Hub at that address, nobody logged in and nothing in the cache."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    left_out = ("HF_TOKEN", "HF_DATASETS_OFFLINE", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    return subprocess.run(
        [sys.executable, *command], env={**environment, **settings}, capture_output=True, text=True, timeout=120
    )


def ask(endpoint: str, cache: Path, *questions: tuple[str, str]) -> list:
    """The splits, or what is said in their place, of each data set, asked for with a token."""
    result = in_a_process(endpoint, cache, "-c", SCRIPT, json.dumps(questions))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_sets_on_the_hub_open_gated_and_missing(tmp_path):
    root = tmp_path / "hub"
    write_parquet_of_jpegs(root / "datasets" / "me" / "photos")
    write_shards(root / "datasets" / "me" / "imagenet-1k-wds")
    write_imagenet(root / "datasets" / "ILSVRC" / "imagenet-1k")
    write_release(root / "datasets" / "me" / "vehicles")
    (root / "datasets" / "me" / "vehicles" / "val" / WNIDS[0]).rename(
        root / "datasets" / "me" / "vehicles" / "val" / "train"
    )
    write_release(root / "datasets" / "me" / "folders")
    with LocalHub(root, gated={"ILSVRC/imagenet-1k": "a token"}) as hub:
        *found, anonymous, refused, missing, aggregated, vehicles, folders = ask(
            hub.endpoint, tmp_path / "cache", ("me/photos", ""), ("me/imagenet-1k-wds", ""), ("imagenet", "a token"),
            ("imagenet", ""), ("imagenet", "another"), ("me/missing", ""), ("me/aggregated", ""), ("me/vehicles", ""),
            ("me/folders", ""),
        )  # fmt: skip
    assert found == [EXPECTED] * 3
    assert re.match(
        r"hf://datasets/me/vehicles\S+ is in the train and the validation split, and may be there", vehicles
    )
    assert folders.startswith("me/folders has its images in single files or zip archives, of which the Hub gives no")
    for line in (anonymous, refused):
        assert line.startswith("the data set ILSVRC/imagenet-1k cannot be read from the Hub: it is gated; ")
        assert "https://huggingface.co/datasets/ILSVRC/imagenet-1k" in line and "`hf auth login`" in line
        assert "--data_path DIR" in line and "\n" not in line
    for name, line in (("missing", missing), ("aggregated", aggregated)):
        assert line.startswith(f"the data set me/{name} cannot be read from the Hub (")
        assert "doesn't exist on the Hub or cannot be accessed" in line and "gated;" not in line and "\n" not in line


def test_training_on_a_gated_set_ends_with_one_line(tmp_path):
    """Here its card is for everybody to read, and only the files are gated."""
    root = tmp_path / "hub"
    write_imagenet(root / "datasets" / "ILSVRC" / "imagenet-1k")
    (root / "datasets" / "ILSVRC" / "imagenet-1k" / "README.md").write_text("---\nlicense: other\n---\n# ImageNet\n")
    words = ("--setup", "imagenet_b", "--method", "original", "--output_dir", tmp_path / "run")
    with LocalHub(root, gated={"ILSVRC/imagenet-1k": "a token"}, open_file="README.md") as hub:
        result = in_a_process(hub.endpoint, tmp_path / "cache", "-m", "overhaul", "train", *map(str, words))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("overhaul: the data set ILSVRC/imagenet-1k cannot be read from the Hub: it is gated; ")
    assert "https://huggingface.co/datasets/ILSVRC/imagenet-1k" in line and "`hf auth login`" in line
    assert not (tmp_path / "run").exists()


def test_a_hub_that_cannot_be_reached(tmp_path):
    with LocalHub(tmp_path) as hub:
        endpoint = hub.endpoint
    (line,) = ask(endpoint, tmp_path / "cache", ("imagenet", ""))
    assert line.startswith("the data set ILSVRC/imagenet-1k cannot be read from the Hub (Couldn't reach")
    assert line.endswith("a local copy is taken with --data_path DIR") and "\n" not in line


@pytest.mark.parametrize("dtype", ["int64", "uint16", "float32", "uint8"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_column_of_arrays_is_refused_by_its_kind_of_number(tmp_path, dtype, dimensions):
    """Casting it to images would wrap its numbers around, or take them for another kind."""
    shape = (4, 4, 3)[:dimensions]
    kind = (datasets.Array2D, datasets.Array3D)[dimensions - 2](shape, dtype)
    features = datasets.Features({"image": kind, "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [np.full(shape, i, dtype) for i in range(4)], "label": [0, 1, 0, 1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=table, test=table).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match=f"the column image holds arrays of {dtype}, not images: store them as images"):
        sources.load(str(tmp_path), DataOptions(), SMALL, 2)
