"""Preparing a set: the same images as sharded parquet, whatever the source and however often it was stopped."""

import errno
import io
import logging
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from support import numbered
from support.numbered import N, png, table, write_parquet, write_tar
from support.runs import digests, refused

from overhaul.cli.main import main
from overhaul.data import prepare, sources
from overhaul.data.decoding import decode, shorten, without_exif
from overhaul.data.prepare import Preparation
from overhaul.data.streaming import open_streams
from overhaul.options import DataOptions, Run
from overhaul.setups import SETUPS

FORMS = ("imagefolder", "tar shards", "parquet", "save_to_disk")
NAMES = numbered.NAMES[:N]
CLASSES = datasets.ClassLabel(names=NAMES)


@pytest.fixture(scope="module")
def origins(tmp_path_factory) -> dict[str, Path]:
    """A set in every form that can be prepared; each image has a label of its own."""
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("sets")
    origin = {form: root / form.replace(" ", "-") for form in FORMS}
    for split, n in (("train", 24), ("val", 10)):
        for number in range(n):
            file = origin["imagefolder"] / split / NAMES[number] / f"{number}.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(png(number))
    write_tar(origin["tar shards"])
    write_parquet(origin["parquet"], [range(60), range(60, N)], label=CLASSES)
    saved = {"train": table(range(N), label=CLASSES), "test": table(range(10), label=CLASSES)}
    datasets.DatasetDict(saved).save_to_disk(origin["save_to_disk"])
    return origin


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache: datasets knows a local folder by its name and card alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "ROWS_OF_SHARD", 20)
    monkeypatch.setattr(prepare, "ROWS_OF_GROUP", 3)


def contents(path: Path, num_classes=N, **flags) -> list[dict[int, tuple[bytes, str]]]:
    """The encoded images and file names of both splits by label."""
    found = []
    for images in sources.load(str(path), DataOptions(**flags), None, num_classes, whole=True):
        rows = images.read(np.arange(len(images)))
        named = {
            label: (bytes(encoded), Path(name).name)
            for label, (encoded, name) in zip(images.labels.tolist(), rows, strict=True)
        }
        assert len(named) == len(images)
        found.append(named)
    return found


def classes(path: Path) -> tuple[str, ...]:
    return sources.load(str(path), DataOptions(), None, N, whole=True)[0].classes


def parquet_files(folder: Path) -> list[Path]:
    return sorted((folder / "data").glob("[!.]*.parquet"))


@pytest.mark.parametrize("form", FORMS)
def test_the_prepared_set_is_the_set(origins, form, small_shards, overhaul, tmp_path):
    result = overhaul("prepare", "--data", origins[form], "--out", tmp_path / "out", "--num_classes", N)
    assert result.status == 0, result.err
    before, after = contents(origins[form]), contents(tmp_path / "out")
    sizes = [len(split) for split in before]
    assert before == after and sizes[0] >= 24
    assert classes(origins[form]) == classes(tmp_path / "out")
    assert f"{tmp_path / 'out'}: {sizes[0]:,} train and {sizes[1]:,} validation images; train on them" in result.out
    assert result.err == "", "no bar where there is no terminal"
    shards = [-(-size // 20) for size in sizes]
    assert [file.name for file in parquet_files(tmp_path / "out")] == [
        f"{split}-{i:05d}-of-{n:05d}.parquet"
        for split, n in zip(("train", "validation"), shards, strict=True)
        for i in range(n)
    ]


def test_the_card_says_how_many_images_there_are_and_datasets_says_nothing(origins, overhaul, tmp_path, recwarn):
    out = tmp_path / "out"
    assert overhaul("prepare", "--data", origins["parquet"], "--out", out).status == 0
    heard = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = heard.append
    logging.getLogger("datasets").addHandler(listener)
    try:
        sizes = datasets.load_dataset_builder(str(out)).info.splits
        loaded = datasets.load_dataset(str(out))
        train, test = open_streams(replace(SETUPS["imagenet_b"], data=str(out)), Run(), N, rank=0, world=1)
        shown = [label for _, label in train.decode(0)], [label for _, label in test.decode(0)]
    finally:
        logging.getLogger("datasets").removeHandler(listener)
    assert not heard and not recwarn.list
    assert {name: split.num_examples for name, split in sizes.items()} == {"train": 96, "validation": 10}
    assert sum(split.num_bytes for split in sizes.values()) == sum(file.stat().st_size for file in parquet_files(out))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 96, "validation": 10}
    assert loaded["train"].features["image"] == datasets.Image() and loaded["train"][0]["image"].size == (24, 20)
    assert (train.n, test.n) == (96, 10)
    assert sorted(shown[0]) == list(range(96)) and shown[1] == list(range(10))


def test_a_set_prepared_anew_is_not_taken_for_the_one_before(tmp_path):
    """As many images of as many bytes, in a folder of the same name: datasets must not take them from its cache."""
    turned = {number: {"bytes": png(105 - number), "path": f"{number}.png"} for number in range(10, 96)}
    for order, names in (("up", NAMES), ("down", NAMES[::-1])):
        (tmp_path / order).write_text("".join(f"{name}\n" for name in names))
    plain, turned = (
        write_parquet(tmp_path / name, [range(96)], label=datasets.Value("int64"), changed=changed)
        for name, changed in (("plain", {}), ("turned", turned))
    )
    sizes = set()
    for path, order in ((plain, "up"), (turned, "up"), (turned, "down")):
        Preparation(path, DataOptions(class_names=str(tmp_path / order)), str(tmp_path / "out")).write()
        assert contents(tmp_path / "out") == contents(path)
        assert classes(tmp_path / "out") == tuple(NAMES if order == "up" else NAMES[::-1])
        sizes.add(tuple(file.stat().st_size for file in parquet_files(tmp_path / "out")))
        shutil.rmtree(tmp_path / "out")
    assert len(sizes) == 1


def test_training_images_are_written_in_a_random_order_the_same_every_time(origins, tmp_path):
    def order(out):
        Preparation(str(origins["parquet"]), DataOptions(), str(out)).write()
        train, test = datasets.load_dataset(str(out)).values()
        assert test["label"][:] == list(range(10))
        return train["label"][:]

    one, other = order(tmp_path / "one"), order(tmp_path / "other")
    assert one == other != list(range(96)) == sorted(one)
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


@pytest.fixture
def whole(origins, small_shards, tmp_path) -> dict[str, str]:
    """What a preparation that nothing stops leaves, by file."""
    Preparation(str(origins["parquet"]), DataOptions(workers=1), str(tmp_path / "whole")).write()
    return digests(tmp_path / "whole")


def slowly(origin: Path, out: Path, seconds: float) -> None:
    prepare.Preparation.encoded = delayed(prepare.Preparation.encoded, seconds)
    Preparation(str(origin), DataOptions(workers=1), str(out)).write()


def delayed(function, seconds: float):
    def later(*arguments):
        time.sleep(seconds)
        return function(*arguments)

    return later


def test_killed_at_any_time_the_same_command_ends_in_the_same_files(origins, whole, tmp_path):
    """Killed twice, by a signal that leaves no time to clean up; finished files are not written again."""
    out, finished = tmp_path / "out", {}
    for wanted in (1, 3):
        child = get_context("fork").Process(target=slowly, args=(origins["parquet"], out, 0.02))
        child.start()
        deadline = time.monotonic() + 30
        while len(parquet_files(out)) < wanted and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        names = [file.name for file in parquet_files(out)]
        assert wanted <= len(names) < 6 and not (out / "README.md").exists()
        assert all((out / "data" / name).stat().st_mtime_ns == mtime for name, mtime in finished.items())
        finished = {name: (out / "data" / name).stat().st_mtime_ns for name in names}
    Preparation(str(origins["parquet"]), DataOptions(workers=1), str(out)).write()
    assert digests(out) == whole
    assert all((out / "data" / name).stat().st_mtime_ns == mtime for name, mtime in finished.items())


def test_a_finished_preparation_again_changes_nothing(origins, whole, tmp_path):
    before = {file: file.stat().st_mtime_ns for file in parquet_files(tmp_path / "whole")}
    Preparation(str(origins["parquet"]), DataOptions(workers=2), str(tmp_path / "whole")).write()
    assert digests(tmp_path / "whole") == whole
    assert before == {file: file.stat().st_mtime_ns for file in parquet_files(tmp_path / "whole")}


@pytest.fixture
def interruptible():
    """Ctrl-C works, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [1, 4])
def test_an_interrupt_ends_it_soon_in_one_line(origins, whole, tmp_path, overhaul, monkeypatch, interruptible, workers):
    """A shard would take 20 x 0.2 s; the process gets SIGINT, as from Ctrl-C, at the fourth image."""
    started, encoded, calls = time.monotonic(), Preparation.encoded, []
    monkeypatch.setattr(prepare, "ROWS_OF_GROUP", 1)

    def slow(*arguments):
        calls.append(time.monotonic())
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return encoded(*arguments)

    monkeypatch.setattr(Preparation, "encoded", slow)
    command = ["prepare", "--data", origins["parquet"], "--out", tmp_path / "out", "--workers", workers]
    result = overhaul(*command)
    assert result.status == 130 and result.err.startswith("overhaul: interrupted")
    assert len(result.err.splitlines()) == 1 and len(calls) <= 4 + 2 * workers and time.monotonic() - started < 4
    monkeypatch.undo()
    monkeypatch.setattr(prepare, "ROWS_OF_SHARD", 20)
    monkeypatch.setattr(prepare, "ROWS_OF_GROUP", 3)
    assert overhaul(*command).status == 0
    assert digests(tmp_path / "out") == whole


@pytest.mark.parametrize("workers", [1, 4])
def test_an_error_ends_it_soon(origins, small_shards, tmp_path, overhaul, monkeypatch, workers):
    """What is being prepared beside it need not be finished."""
    calls, encoded = [], Preparation.encoded

    def slow(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise ValueError("enough")
        time.sleep(0.05)
        return encoded(*arguments)

    monkeypatch.setattr(Preparation, "encoded", slow)
    with pytest.raises(ValueError, match="enough"):
        Preparation(str(origins["parquet"]), DataOptions(workers=workers), str(tmp_path / "out")).write()
    assert len(calls) <= 4 + 2 * workers, "of 36 groups"


def test_another_set_or_other_settings_are_refused(origins, tmp_path, overhaul):
    out = tmp_path / "out"
    command = ["prepare", "--out", out, "--data"]
    assert overhaul(*command, origins["parquet"]).status == 0
    before = digests(out)
    turned = {number: {"bytes": png(95 - number), "path": f"{number}.png"} for number in range(96)}
    same_labels = write_parquet(tmp_path / "turned", [range(60), range(60, 96)], changed=turned, label=CLASSES)
    others = ([origins["imagefolder"]], [same_labels], [origins["parquet"], "--short_side", 64])
    for other in others:
        refused(overhaul(*command, *other), f"{out} was prepared from other data or with other settings", "--out")
    assert digests(out) == before
    assert overhaul(*command, origins["parquet"], "--quality", 80).status == 0, "which counts with --short_side alone"
    moved = origins["parquet"].rename(tmp_path / "moved")
    try:
        assert overhaul(*command, moved).status == 0, "the same data in another place"
    finally:
        moved.rename(origins["parquet"])
    out = tmp_path / "small"
    assert overhaul(*command[:2], out, "--data", origins["parquet"], "--short_side", 16).status == 0
    refused(
        overhaul(*command[:2], out, "--data", origins["parquet"], "--short_side", 16, "--quality", 80), "other settings"
    )


def test_a_folder_of_other_files_is_left_alone(origins, tmp_path, overhaul):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    result = overhaul("prepare", "--data", origins["parquet"], "--out", tmp_path / "out")
    refused(result, f"{tmp_path / 'out'} holds other files; name another folder with --out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


BROKEN = {7: {"bytes": png(7)[:60], "path": "7.png"}}
MISSING = {7: {"bytes": b"", "path": "7.png"}}


def noise(width: int, height: int, exif: int | None = None, seed=0, kind="JPEG") -> bytes:
    """A photograph's worth of bytes: rough shapes and some noise."""
    draw = np.random.default_rng(seed)
    rough = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    noisy = (np.asarray(rough) + draw.normal(0, 3, (height, width, 3))).clip(0, 255).astype(np.uint8)
    tags, file = Image.Exif(), io.BytesIO()
    if exif:
        tags[0x0112] = exif
    Image.fromarray(noisy).save(file, kind, quality=95, exif=tags)
    return file.getvalue()


def test_larger_images_are_made_smaller_and_the_others_left_as_they_are(tmp_path, overhaul):
    """Orientation is as training sees it: the pixels as they are stored, not as EXIF would turn them."""
    files = {
        0: noise(128, 96, seed=0),
        1: noise(90, 200, seed=1),
        2: noise(64, 200, seed=2),  # short side just as wanted
        3: noise(40, 30, seed=3),
        4: noise(160, 80, exif=6, seed=4),
        5: noise(50, 20, exif=6, seed=5),
        6: noise(100, 100, seed=6, kind="PNG"),
    }
    changed = {number: {"bytes": content, "path": f"{number}.jpg"} for number, content in files.items()}
    path = write_parquet(tmp_path / "set", [range(8)], changed=changed)
    assert overhaul("prepare", "--data", path, "--out", tmp_path / "out", "--short_side", 64).status == 0
    (after, _) = contents(tmp_path / "out")
    for number in (2, 3, 5, 7):
        assert after[number][0] == changed.get(number, {"bytes": png(7)})["bytes"]
    shapes = {0: (64, 85), 1: (142, 64), 4: (64, 128), 6: (64, 64)}
    for number, shape in shapes.items():
        encoded = after[number][0]
        assert encoded[:2] == b"\xff\xd8" and without_exif(encoded) is encoded
        small, wanted = decode(encoded), shorten(decode(files[number]), 64)
        assert small.shape[1:] == shape and min(small.shape[1:]) == 64
        assert (small.float() - wanted.float()).abs().mean() < 5


def test_quality_is_of_the_smaller_images(tmp_path):
    changed = {number: {"bytes": noise(128, 96, seed=number), "path": None} for number in range(4)}
    path = write_parquet(tmp_path / "set", [range(4)], changed=changed)
    sizes = []
    for quality in (30, 95):
        Preparation(path, DataOptions(), str(tmp_path / f"{quality}"), short_side=64, quality=quality).write()
        sizes.append(sum(len(encoded) for encoded, _ in contents(tmp_path / f"{quality}")[0].values()))
    assert 2 * sizes[0] < sizes[1]


@pytest.mark.parametrize(("broken", "flags"), [(MISSING, []), (BROKEN, ["--short_side", 64]), ({7: None}, [])])
def test_a_broken_image_is_named_and_may_be_left_out(small_shards, tmp_path, overhaul, broken, flags):
    path = write_parquet(tmp_path / "set", [range(24)], changed=broken, label=datasets.ClassLabel(names=NAMES[:24]))
    command = ["prepare", "--data", path, "--out", tmp_path / "out", *flags]
    name = " split (7.png)" if broken[7] else " split"
    refused(overhaul(*command), "overhaul: row 7 of the t", f"{name} is no image that can be read (", "--skip_broken N")
    allowed = overhaul(*command, "--skip_broken", 1)
    assert allowed.status == 2 and "skipped (1 of at most 1)\n" in allowed.err
    assert len(allowed.err.splitlines()) == 2 and "row 7 of the t" in allowed.err and "allows only 1;" in allowed.err
    result = overhaul(*command, "--skip_broken", 2)
    assert result.status == 0
    assert "23 train and 9 validation images, 2 broken images left out; train" in result.out
    sizes = datasets.load_dataset_builder(str(tmp_path / "out")).info.splits
    assert {name: split.num_examples for name, split in sizes.items()} == {"train": 23, "validation": 9}
    train, test = contents(tmp_path / "out")
    assert sorted(train) == [number for number in range(24) if number != 7] and 7 not in test and len(test) == 9
    again = overhaul(*command, "--skip_broken", 2)
    assert again.status == 0 and again.out == result.out, "though nothing was read again"
    refused(overhaul(*command), "2 images are broken, and --skip_broken allows only 0")


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(origins, whole, tmp_path, overhaul, monkeypatch):
    command = ["prepare", "--data", origins["parquet"], "--out", tmp_path / "out", "--workers", 1]
    flush, calls = prepare.flush, []

    def full(path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "flush", full)
        result = overhaul(*command)
    refused(result, f"{tmp_path / 'out'} cannot be written to (No space left on device)", "the same command goes on")
    assert len(parquet_files(tmp_path / "out")) == 2
    assert overhaul(*command).status == 0
    assert digests(tmp_path / "out") == whole


def test_a_folder_that_cannot_be_written_to_is_one_line(origins, tmp_path, overhaul):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        refused(overhaul("prepare", "--data", origins["parquet"], "--out", out), f"{out} cannot be written to (")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--quality", 0], ["--quality one of 1 to 100"]),
        (["--quality", 101], ["--quality one of 1 to 100"]),
        (["--quality", "high"], ["--quality", "high"]),
        (["--short_side", 0], ["--short_side is a number of pixels"]),
        (["--short_side", -320], ["--short_side is a number of pixels"]),
        (["--short_side", "small"], ["--short_side", "small"]),
        (["--workers", -1], ["--workers must be 0 or more"]),
        (["--shortside", 3], ["unknown flag --shortside", "--short_side?"]),
        (["--data_path", "/nowhere"], ["/nowhere: there is no such folder"]),
    ],
)
def test_wrong_values_are_one_line(origins, tmp_path, overhaul, arguments, words):
    refused(overhaul("prepare", "--data", origins["parquet"], "--out", tmp_path / "out", *arguments), *words)
    assert not (tmp_path / "out").exists()


def test_the_digits_need_no_preparation(tmp_path, overhaul):
    refused(overhaul("prepare", "--data", "digits", "--out", tmp_path / "out"), "digits")


def test_on_a_terminal_a_bar_shows_how_far_it_is(origins, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shards = parquet_files(tmp_path / "whole")
    shards[0].unlink()
    assert main(["prepare", "--data", str(origins["parquet"]), "--out", str(tmp_path / "whole")]) == 0
    err = capsys.readouterr().err
    assert "106/106" in err and "images/s" in err, "finished shards are counted"
    assert digests(tmp_path / "whole") == whole


def test_imagenet_made_smaller_is_at_most_half_as_large(shared, tmp_path, overhaul):
    origin, out = shared / "data" / "imagenet_sample", tmp_path / "out"
    result = overhaul("prepare", "--data", "imagenet", "--data_path", origin, "--out", out, "--short_side", 320)
    assert result.status == 0 and "160 train and 64 validation images" in result.out
    before, after = (sum(file.stat().st_size for file in parquet_files(folder)) for folder in (origin, out))
    assert after < before / 2
    show = SETUPS["imagenet_b"].preprocessing
    train, test = sources.load("imagenet", DataOptions(data_path=str(out)), show, 1000, whole=True)
    assert (len(train), len(test), len(train.classes)) == (160, 64, 1000)
    theirs = sources.load("imagenet", DataOptions(data_path=str(origin)), show, 1000, whole=True)
    assert sorted(train.labels) == sorted(theirs[0].labels) and test.labels.tolist() == theirs[1].labels.tolist()
    pixels, broken = test.centres(np.arange(16))
    wanted, _ = theirs[1].centres(np.arange(16))
    assert not broken and np.abs(pixels.astype(int) - wanted).mean() < 6, "the same views of the same images"
    assert max(min(image.shape[1:]) for image in train.decode(np.arange(160))) == 320
