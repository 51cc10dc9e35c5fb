"""Image sets in every form that load_dataset takes, and what is said of those that do not fit."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from overhaul import sources
from overhaul.run import Run

NAMES = ["cat", "dog", "eel"]


def some_images(n: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(n)]


def some_split(n: int, image="img", label="fine_label", labels=None, feature=None) -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), label: feature or datasets.ClassLabel(names=NAMES)})
    labels = [i % 3 for i in range(n)] if labels is None else labels
    return datasets.Dataset.from_dict({image: some_images(n), label: labels}, features=features)


def write_parquet(folder: Path, **splits: datasets.Dataset) -> str:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        split.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)


def load(path, data="cifar100", num_classes=3, **flags) -> list[sources.Images]:
    return sources.load(data, 32, Run(data_path=path, **flags), num_classes)


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
    assert len(sources.load("cifar100", 32, Run(data_path=str(tmp_path / "set")), 3, splits=("train",))[0]) == 7


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
    with pytest.raises(ValueError, match=r"no test split \(test or validation or val or valid\); they have train"):
        load(path)


def test_a_set_without_images_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("train", "test"):
        datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "set" / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"no image column that can be told; name one of text, label"):
        load(str(tmp_path / "set"))
    with pytest.raises(ValueError, match=r"row 0 of the train split is no image .* another column with --image_column"):
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
        sources.load("cifar10O", 32, Run(), 10)


def test_without_network_a_local_copy_is_advised(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 cannot be read from the Hub .* --data_path DIR"):
        sources.load("cifar10", 32, Run(), 10)


def test_pixels_of_every_kind_of_image():
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    for mode in ("RGBA", "P", "CMYK"):
        assert np.abs(sources.to_pixels(red.convert(mode), 32).astype(int) - np.asarray(red)).max() <= 1
    grey = sources.to_pixels(Image.new("L", (32, 32), 99), 32)
    assert grey.shape == (32, 32, 3) and np.all(grey == 99)


def test_16_bits_become_8():
    deep = Image.fromarray(np.full((32, 32), 257 * 99, np.uint16))
    assert np.all(sources.to_pixels(deep, 32) == 99)


def test_exif_orientation_is_ignored(tmp_path):
    left_white = np.zeros((32, 32, 3), np.uint8)
    left_white[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # "rotate by 180 degrees"
    Image.fromarray(left_white).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert image.getexif()[0x0112] == 3
        assert np.array_equal(sources.to_pixels(image, 32), left_white)


def test_resizing_before_the_crop_leaves_the_border_out():
    framed = np.full((64, 64, 3), 255, np.uint8)
    framed[8:-8, 8:-8] = 0
    assert sources.to_pixels(Image.fromarray(framed), 32).max() == 255
    assert sources.to_pixels(Image.fromarray(framed), 32, resize=48)[2:-2, 2:-2].max() == 0


def test_larger_images_are_resized_and_cropped_at_the_centre():
    wide = np.zeros((64, 256, 3), np.uint8)
    wide[:, 96:160] = 200
    assert np.all(sources.to_pixels(Image.fromarray(wide), 32)[:, 4:-4] == 200)
    assert sources.to_pixels(Image.new("RGB", (20, 47)), 32).shape == (32, 32, 3)


def test_digits_are_the_real_ones_split_once():
    train, test = sources.load("digits", 32, Run(), 10)
    assert (len(train), len(test)) == (1437, 360)
    assert train.pixels.shape == (1437, 32, 32, 3) and train.classes == tuple("0123456789")
    assert np.bincount(test.labels, minlength=10).min() >= 25
    assert train.pixels.max() > 200


def test_real_cifar100(shared):
    train, test = sources.load("cifar100", 32, Run(data_path=str(shared / "data" / "cifar100")), 100)
    assert (len(train), len(test)) == (50000, 10000)
    assert train.classes[:3] == ("apple", "aquarium_fish", "baby") and len(train.classes) == 100
    assert np.bincount(train.labels).tolist() == [500] * 100
    mean = train.pixels.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(mean, [129.3, 124.1, 112.4], atol=0.1)
