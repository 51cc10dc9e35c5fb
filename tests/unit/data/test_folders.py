"""A folder's splits are told by its first level, and no image is in two of them or twice in one."""

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from support.images import some_split

from overhaul.data import sources
from overhaul.data.images import Broken, EncodedImages
from overhaul.data.streaming import open_streams
from overhaul.options import DataOptions, Run
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

SETUP = replace(SETUPS["digits_teacher"], crop_area=(0.5, 1.0), image_size=16, batch_size=2)
SPLIT_WORDS = ["train", "test", "val", "valid", "dev", "eval", "training", "train_station", "test-tube", "validation"]


def load(folder: Path, **flags) -> list[EncodedImages]:
    return sources.load(str(folder), DataOptions(**flags), None, 3, whole=True)


def refused(folder: Path, words: str) -> None:
    """With one line, whether it is streamed or not."""
    for open_it in (load, lambda folder: open_streams(replace(SETUP, data=str(folder)), Run(), 3, 0, 1)):
        with pytest.raises(UserError, match=words) as error:
            open_it(folder)
        assert "\n" not in str(error.value)


def write(folder: Path, files: dict[str, int], ending=".png") -> Path:
    """So many images in each of these folders, no two alike."""
    for place, n in files.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, place))
        for i in range(n):
            picture(1000 * seed + i).save(folder / place / f"{i}{ending}")
    return folder


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def zipped(folder: Path, archive: Path, prefix: str = "") -> None:
    """The files of a folder as an archive, in place of it."""
    with zipfile.ZipFile(archive, "w") as opened:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                opened.write(file, prefix + file.relative_to(folder).as_posix())
        opened.writestr("__MACOSX/cat/._0.png", b"of the system")
    shutil.rmtree(folder)


def told(images: EncodedImages) -> list[tuple[str, str]]:
    """The name of each file and of its class."""
    names = [name for _, name in images.read(np.arange(len(images)))]
    return [(name, images.classes[label]) for name, label in zip(names, images.labels, strict=True)]


def test_class_folders_may_bear_the_names_of_splits(tmp_path):
    folder = write(tmp_path, {f"{split}/{name}": n for split, n in (("train", 4), ("val", 2)) for name in SPLIT_WORDS})
    train, test = load(folder)
    assert (len(train), len(test)) == (40, 20) and train.classes == test.classes == tuple(sorted(SPLIT_WORDS))
    assert (train.split, test.split) == ("train", "val")
    files = [name for images in (train, test) for name, _ in told(images)]
    assert len(set(files)) == 60
    for name, label in told(train) + told(test):
        assert Path(name).parent.name == label
    streams = open_streams(replace(SETUP, data=str(folder)), Run(), 3, 0, 1)
    assert [len(list(stream.decode(0))) for stream in streams] == [stream.n for stream in streams] == [40, 20]


def test_the_images_come_in_the_order_that_datasets_gives_them(tmp_path):
    names = ["a", "a-b", "a.b", "a b", "A", "ä", "a_b", "z10", "z2", "[x]", "x*y", "0", "10", "2"]
    folder = write(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val") for name in names}, ".JPEG")
    (folder / "train" / "a" / "notes.txt").write_text("no image")
    (folder / "train" / "a" / ".hidden.png").write_bytes(b"")
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder))
    for images, split in zip(load(folder), ("train", "validation"), strict=True):
        table = theirs[split].cast_column("image", datasets.Image(decode=False))
        assert tuple(table.features["label"].names) == images.classes
        assert table["label"][:] == images.labels.tolist()
        assert [each["path"] for each in table["image"]] == [name for name, _ in told(images)]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"Train/a": 3, "VAL/a": 2}, ("train", "val")),
        ({"data/train/a": 3, "data/test/a": 2, "other/b": 1}, ("train", "test")),
        ({"set/train/a": 3, "set/test/a": 2}, ("train", "test")),
        ({"train_images/a": 3, "test2017/a": 2}, ("train", "test")),
        ({"train/a": 3, "train_old/a": 1, "val/a": 2, "test_old/a": 1}, ("train", "val")),
        ({"train/a": 3, "val/a": 1, "test/a": 2}, ("train", "test")),
        ({"train/a/1": 2, "train/a/2": 1, "test/a": 2}, ("train", "test")),
        ({"train/train/a": 3, "test/test/a": 2}, ("train", "test")),
    ],
)
def test_where_splits_lie_and_what_they_are_called(tmp_path, files, splits):
    train, test = load(write(tmp_path, files))
    assert (train.split, test.split) == splits and (len(train), len(test)) == (3, 2) and train.classes == ("a",)


def test_class_folders_within_class_folders_are_said_to_be_one_class(tmp_path, capsys):
    train, _ = load(write(tmp_path, {"train/pet/cat": 2, "train/pet/dog": 2, "train/car": 2, "test/pet": 2}))
    assert train.classes == ("car", "pet")
    assert "the folders in pet/ (cat, dog) are one class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train": 3, "test": 2}, "^train/ has images but no class folders; "),
        ({"train/train": 3, "test/test": 2}, "^train/ has images but no class folders; "),
        ({"train/a": 3, "test": 2}, "^test/ has images but no class folders; "),
        ({"train/a": 3, "train": 1, "test/a": 2}, r"^train/ has images beside its class folders: 0\.png"),
        ({"train/a": 3, "training/a": 1, "test/a": 2}, "two splits to train on, train and training"),
        ({"train/a": 3, "Train/a": 1, "test/a": 2}, "the folders Train and train would be one split"),
        ({"train_station": 3, "test-tube": 1, "bus": 2}, "it holds bus, test-tube, train_station"),
        ({"cat/train": 3, "cat/test": 1, "dog/train": 2}, "it holds cat, dog"),
        ({"train/a": 3}, "the data have no test split"),
        ({"train/a": 0, "test/a": 0}, "^train/ holds neither images nor tables"),
    ],
)
def test_what_is_no_set_with_splits_is_refused(tmp_path, files, words):
    refused(write(tmp_path, files), words)


@pytest.mark.parametrize("n", [0, 2])
def test_a_test_folder_without_class_folders_gives_way_to_one_with_them(tmp_path, capsys, n):
    _, test = load(write(tmp_path, {"train/a": 3, "val/a": 2, "test": n}))
    assert test.split == "val" and len(test) == 2
    assert capsys.readouterr().err.endswith("; the val split is taken for tests\n")


def test_a_folder_with_only_one_class_and_only_tests(tmp_path):
    folder = write(tmp_path, {"test/red": 3})
    (test,) = sources.load(str(folder), DataOptions(), None, 3, splits=("test",), whole=True)
    assert test.classes == ("red",) and len(test) == 3


def twice_by_link(folder: Path) -> None:
    (folder / "test/a/link.png").symlink_to(folder / "train/a/0.png")


def twice_by_hard_link(folder: Path) -> None:
    os.link(folder / "train/a/0.png", folder / "train/b/link.png")


def twice_by_folder(folder: Path) -> None:
    (folder / "test/c").symlink_to(folder / "train/a")


def twice_by_split(folder: Path) -> None:
    shutil.rmtree(folder / "test")
    (folder / "test").symlink_to("train")


def twice_by_archive(folder: Path) -> None:
    zipped(folder / "train", folder / "train.zip")
    shutil.rmtree(folder / "test")
    (folder / "test.zip").symlink_to("train.zip")


def twice_in_metadata(folder: Path) -> None:
    for split in ("train", "test"):
        names = [f"a/{i}.png" for i in (0, 0, 1)]
        (folder / split / "metadata.csv").write_text("file_name,label\n" + "".join(f"{name},1\n" for name in names))


def around_in_a_circle(folder: Path) -> None:
    (folder / "train/a/up").symlink_to("..")


@pytest.mark.parametrize(
    "change", [twice_by_link, twice_by_hard_link, twice_by_folder, twice_by_split, twice_by_archive, around_in_a_circle]
)
def test_an_image_that_is_there_twice_is_refused(tmp_path, change):
    folder = write(tmp_path, {"train/a": 3, "train/b": 3, "test/a": 2})
    change(folder)
    refused(folder, "are one file, and an image may be there only once|leads back to a folder")


def test_a_file_that_metadata_name_twice_is_refused(tmp_path):
    folder = write(tmp_path, {"train/a": 3, "test/a": 2})
    twice_in_metadata(folder)
    with pytest.raises(UserError, match=r"0\.png is there twice, and an image may be there only once; so is another"):
        load(folder)


def test_metadata_in_a_zip_archive_label_its_images(tmp_path):
    folder = write(tmp_path, {"train": 4, "test": 4})
    for split in ("train", "test"):
        names = sorted(file.name for file in (folder / split).iterdir())
        lines = [f"{name},{label % 2}" for label, name in enumerate(names)]
        (folder / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
        zipped(folder / split, folder / f"{split}.zip")
    for images in load(folder):
        assert images.labels.tolist() == [0, 1, 0, 1] and not any(
            isinstance(each, Broken) for each, _ in images.read(np.arange(4))
        )


def test_a_table_beside_a_folder_of_all_images_is_not_overlooked(tmp_path):
    """Else the folder would be the one class."""
    folder = write(tmp_path, {"train/images": 4, "test/images": 4})
    for split in ("train", "test"):
        (folder / split / "labels.csv").write_text("image,label\nimages/0.png,1\n")
    refused(folder, r"the one class folder images/ beside labels\.csv: a table of images is called metadata\.csv")


def test_a_class_that_only_tests_show_is_named_and_so_it_is_where_the_folder_is_streamed(tmp_path, capsys):
    folder = write(tmp_path, {"train/cat": 3, "train/dog": 3, "val/cat": 2, "val/ape": 2})
    for open_it in (load, lambda folder: open_streams(replace(SETUP, data=str(folder)), Run(), 3, 0, 1)):
        open_it(folder)
        line = "overhaul: classes without a training image: ape; their 2 test images cannot be told\n"
        assert capsys.readouterr().err == line


def test_links_to_files_that_are_there_once_are_followed(tmp_path):
    store = write(tmp_path / "store", {"train/a": 3, "train/b": 3, "tests/a": 2})
    folder = tmp_path / "set"
    (folder / "train" / "a").mkdir(parents=True)
    for file in (store / "train" / "a").iterdir():
        (folder / "train" / "a" / file.name).symlink_to(file)
    (folder / "train" / "b").symlink_to(store / "train" / "b")
    (folder / "test").symlink_to(store / "tests")
    assert [len(images) for images in load(folder)] == [6, 2]


@pytest.mark.parametrize("form", ["linked", "card"])
def test_a_table_in_two_splits_is_refused(tmp_path, form):
    some_split(6).to_parquet(tmp_path / "train.parquet")
    if form == "linked":
        (tmp_path / "test.parquet").symlink_to("train.parquet")
    else:
        splits = "".join(f"  - split: {name}\n    path: 'train*'\n" for name in ("train", "test"))
        card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n"
        (tmp_path / "README.md").write_text(card)
    refused(tmp_path, r"\.parquet is in the train and the test split, and may be there only once")


@pytest.mark.parametrize(
    ("archive", "prefix"), [("train.zip", ""), ("train.zip", "train/"), ("pets-train.zip", "pets-train/")]
)
def test_zip_archives_are_read_as_the_folders_in_them(tmp_path, archive, prefix):
    folder = write(tmp_path, {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 1}, ".JPG")
    before = [[bytes(content) for content, _ in images.read(np.arange(len(images)))] for images in load(folder)]
    zipped(folder / "train", folder / archive, prefix)
    zipped(folder / "test", folder / "test.zip")
    train, test = load(folder)
    assert [
        [bytes(content) for content, _ in images.read(np.arange(len(images)))] for images in (train, test)
    ] == before
    assert train.classes == test.classes == ("cat", "dog") and train.labels.tolist() == [0, 0, 0, 1, 1]


def test_archives_beside_the_folders_that_they_were_are_left_alone(tmp_path):
    folder = write(tmp_path, {"train/a": 3, "test/a": 2, "copy": 2})
    zipped(folder / "copy", folder / "train.zip")
    assert [len(images) for images in load(folder)] == [3, 2]


def test_archives_that_cannot_be_read_are_named(tmp_path):
    folder = write(tmp_path, {"train": 3, "test": 2})
    zipped(folder / "train", folder / "train.zip")
    zipped(folder / "test", folder / "test.zip")
    refused(folder, r"^train\.zip has images but no class folders; ")
    (folder / "test.zip").write_bytes(b"PK nonsense")
    refused(folder, r"test\.zip is no whole zip archive")
    (folder / "train.zip").unlink()
    (folder / "test.zip").rename(folder / "all.zip")
    refused(folder, r"it holds all\.zip; unpack it$")


@pytest.mark.parametrize(
    "inside", ["train-00000-of-00001.parquet", "train/0.parquet", "data/train-00000-of-00001.parquet"]
)
def test_tables_are_found_by_name(tmp_path, inside):
    for split, n in (("train", 7), ("test", 5)):
        file = tmp_path / inside.replace("train", split)
        file.parent.mkdir(parents=True, exist_ok=True)
        some_split(n).to_parquet(file)
    train, test = load(tmp_path)
    assert (len(train), len(test)) == (7, 5) and (train.split, test.split) == ("train", "test")
