"""Where the images of a set may lie: in its own folder, whatever its data files say, and in regular files."""

import json
import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from support.images import NAMES, SMALL, some_images, some_split

from overhaul.data import bounds, listing, sources
from overhaul.data.bounds import Bounds
from overhaul.data.images import Broken
from overhaul.data.prepare import Preparation
from overhaul.data.streaming import open_streams
from overhaul.options import DataOptions, Run
from overhaul.setups import SETUPS

STREAMED = replace(SETUPS["digits_teacher"], crop_area=(0.5, 1.0), image_size=16)
OUT_OF_IT = "its path leads out of the set"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache: datasets knows a local folder by its name and card alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def save_images(folder: Path, n: int) -> list[Path]:
    folder.mkdir(parents=True)
    for number, image in enumerate(some_images(n)):
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def write_rows(folder: Path, form: str, **splits: list[str]) -> None:
    """Splits whose images are these paths, in tables of that form."""
    folder.mkdir(exist_ok=True)
    for split, paths in splits.items():
        labels = [i % 3 for i in range(len(paths))]
        cells = [{"bytes": None, "path": path} for path in paths]
        lines = [json.dumps({"image": path, "label": label}) for path, label in zip(paths, labels, strict=True)]
        if form == "parquet":
            pyarrow.parquet.write_table(pyarrow.table({"image": cells, "label": labels}), folder / f"{split}.parquet")
        elif form == "jsonl":
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
        elif form == "csv":
            rows = (f"{path},{label}" for path, label in zip(paths, labels, strict=True))
            (folder / f"{split}.csv").write_text("\n".join(["image,label", *rows]))
        else:
            (folder / split).mkdir()
            table = pyarrow.table({"image": cells, "label": labels})
            with pyarrow.ipc.new_stream(str(folder / split / "data.arrow"), table.schema) as writer:
                writer.write_table(table)
            state = {"_data_files": [{"filename": "data.arrow"}], "_split": split, "_fingerprint": split}
            state |= dict.fromkeys(("_format_columns", "_format_type", "_output_all_columns")) | {"_format_kwargs": {}}
            (folder / split / "state.json").write_text(json.dumps(state))
            (folder / split / "dataset_info.json").write_text("{}")
    if form == "save_to_disk":
        (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def load(folder: Path, **flags) -> list:
    return sources.load(str(folder), DataOptions(**flags), SMALL, 3, whole=True)


FORMS = ("parquet", "csv", "jsonl", "save_to_disk")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("relative", [False, True])
def test_a_table_may_name_files_in_its_folder(tmp_path, form, relative):
    files = save_images(tmp_path / "set" / "images", 9) + save_images(tmp_path / "set" / "more", 3)
    paths = [str(file.relative_to(tmp_path / "set") if relative else file) for file in files]
    write_rows(tmp_path / "set", form, train=paths[:6], test=paths[6:])
    for images, own in zip(load(tmp_path / "set"), (files[:6], files[6:]), strict=True):
        assert [bytes(content) for content, _ in images.read(np.arange(6))] == [file.read_bytes() for file in own]
    streams = open_streams(replace(STREAMED, data=str(tmp_path / "set")), Run(stream_images=6), 3, 0, 1)
    for stream in streams:
        assert sorted(label for _, label in stream.decode(0)) == [0, 0, 1, 1, 2, 2]


def test_paths_may_count_from_the_file_that_says_them(tmp_path):
    """One of them may then mean another file in each split."""
    inside, card = tmp_path / "set", {"configs": [{"config_name": "default", "data_files": []}]}
    files = {split: save_images(inside / split / "images", 3) for split in ("train", "test")}
    for split in files:
        write_rows(inside / split, "csv", **{split: [f"images/{i}.png" for i in range(3)]})
        card["configs"][0]["data_files"].append({"split": split, "path": f"{split}/{split}.csv"})
    (inside / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    for images, own in zip(load(inside), files.values(), strict=True):
        assert [bytes(content) for content, _ in images.read(np.arange(3))] == [file.read_bytes() for file in own]
    for stream in open_streams(replace(STREAMED, data=str(inside)), Run(stream_images=3), 3, 0, 1):
        assert sorted(label for _, label in stream.decode(0)) == [0, 1, 2]
    inside = inside.rename(tmp_path / "another")
    write_rows(inside / "test", "csv", test=["images/0.png", "images/1.png", "images/0.png"])
    with pytest.raises(ValueError, match=r"test/images/0\.png is there twice, and an image may be there only once$"):
        load(inside)


@pytest.mark.parametrize("form", FORMS)
def test_no_table_may_name_a_file_elsewhere(tmp_path, form):
    """Neither in training, be it streamed, nor in a test; and --skip_broken copies none into a prepared set."""
    (secret, other) = save_images(tmp_path / "elsewhere", 2)
    inside = save_images(tmp_path / "set" / "images", 8)
    (tmp_path / "set" / "link.png").symlink_to(other)
    odd, own = [str(secret), "link.png"], [str(file) for file in inside]
    write_rows(tmp_path / "set", form, train=odd + own[:4], test=odd + own[4:])
    for images in load(tmp_path / "set"):
        read = [content for content, _ in images.read(np.arange(6))]
        assert [isinstance(content, Broken) for content in read] == [True, True, False, False, False, False]
        row = f"row 0 of the {images.split} split ({secret})"
        assert read[0].startswith(row) and OUT_OF_IT in read[0] and str(tmp_path / "set") in read[0]
    streams = open_streams(replace(STREAMED, data=str(tmp_path / "set")), Run(stream_images=6), 3, 0, 1)
    for stream in streams:
        broken = [each for each in stream.decode(0) if isinstance(each, Broken)]
        assert len(broken) == 2 and all(OUT_OF_IT in each for each in broken)
    result = Preparation(str(tmp_path / "set"), DataOptions(skip_broken=4), tmp_path / "out", 3).write()
    assert (result["train"], result["validation"], result["left_out"]) == (4, 4, 4)
    written = {row["image"]["bytes"] for row in parquet_rows(tmp_path / "out")}
    assert written == {file.read_bytes() for file in inside}


def parquet_rows(folder: Path) -> list[dict]:
    files = (folder / "data").glob("*.parquet")
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def test_metadata_may_name_only_files_beside_them(tmp_path):
    save_images(tmp_path / "elsewhere", 2)
    for split in ("train", "test"):
        files = save_images(tmp_path / "set" / split, 3)
        names = [*(file.name for file in files), "../../elsewhere/0.png"]
        lines = (f"{name},{label}" for label, name in enumerate(names))
        (tmp_path / "set" / split / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(ValueError, match=r"the data set .* cannot be read \(.*elsewhere"):
        load(tmp_path / "set")


@pytest.mark.parametrize("card", [True, False])
def test_links_that_a_user_has_laid_in_his_folder_are_followed(tmp_path, card):
    """Of images and of class folders, found by walking through it; with a README.md datasets walks, and to files."""
    for split in ("train", "test"):
        for name in NAMES[:2]:
            save_images(tmp_path / "store" / split / name, 3)
        for name in NAMES[: 1 + card]:
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for file in (tmp_path / "store" / split / name).iterdir():
                (tmp_path / "set" / split / name / file.name).symlink_to(file)
        if not card:
            (tmp_path / "set" / split / "dog").symlink_to(tmp_path / "store" / split / "dog")
    if card:
        files = "".join(f"  - split: {split}\n    path: {split}/**\n" for split in ("train", "test"))
        (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files:\n{files}---\n")
    for images in load(tmp_path / "set"):
        shown = [image for image in images.decode(np.arange(len(images))) if not isinstance(image, Broken)]
        assert len(shown) == len(images) == 6 and images.classes == ("cat", "dog")


def test_a_pipe_in_a_table_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for walked in (True, False):
        with pytest.raises(ValueError, match="is no regular file"):
            Bounds((str(tmp_path),), walked=walked).read("pipe.png")


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    (file,) = save_images(tmp_path / "set", 1)
    size = file.stat().st_size
    folders = (str(tmp_path / "set"),)
    assert Bounds(folders, max_pixels=-(-size // bounds.BYTES_OF_PIXEL)).read("0.png") == file.read_bytes()
    with pytest.raises(ValueError, match=f"the file has {size:,} bytes"):
        Bounds(folders, max_pixels=size // bounds.BYTES_OF_PIXEL - 1).read("0.png")


def test_what_parquet_says_of_its_rows_is_not_believed(tmp_path):
    """Its end says 63 rows where there are 24: those that are there are taken."""
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        file = tmp_path / "set" / f"{split}.parquet"
        some_split(24).to_parquet(file)
        content = file.read_bytes()
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        assert content[end:].count(b"\x16\x30") > 1
        file.write_bytes(content[:end] + content[end:].replace(b"\x16\x30", b"\x16\x7e"))
    try:
        assert [len(images) for images in load(tmp_path / "set")] == [24, 24]
    except ValueError as error:  # as another Arrow may say
        assert "cannot be read" in str(error)


def test_a_walk_ends(tmp_path, monkeypatch):
    """Also where links to folders make endlessly many paths of a few."""
    for name, inner in zip("abcdefghij", "bcdefghijk", strict=True):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "all" / name / str(number)).symlink_to(tmp_path / "all" / inner)
    (tmp_path / "all" / "k").mkdir()
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "a").symlink_to(tmp_path / "all" / "a")
    monkeypatch.setattr(listing, "MOST_OTHERS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 files and folders beside 0 images in train/"):
        load(tmp_path / "set")


def test_a_program_beside_the_data_is_not_run(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "set").mkdir(exist_ok=True)
        some_split(6).to_parquet(tmp_path / "set" / f"{split}.parquet")
    ran = tmp_path / "ran"
    (tmp_path / "set" / "set.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ValueError, match=r"cannot be read \(Dataset scripts are no longer supported"):
        load(tmp_path / "set")
    assert not ran.exists()
