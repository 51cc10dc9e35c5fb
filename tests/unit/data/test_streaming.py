"""Streams: what each process is shown of a set that is read as it comes, and what is said of one that does not fit."""

import io
import json
import re
import shutil
import traceback
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.numbered import CLASSES, N_TEST, NAMES, SIZES, N, png, table, write_folder, write_parquet, write_tar

from overhaul.data import streaming
from overhaul.data.streaming import EvalStream, Stream, TrainStream, open_streams
from overhaul.options import Run
from overhaul.setups import SETUPS

SETUP = replace(SETUPS["digits_teacher"], crop_area=(0.5, 1.0), image_size=16, batch_size=12)
STEPS = 8
FORMS = ("4 parquet files", "1 parquet file", "tar shards", "save_to_disk", "imagefolder")


@pytest.fixture(autouse=True, scope="module")
def no_waiting():
    """datasets sleeps 5 s after each pass over parquet files, so that Arrow's threads may end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
        yield


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> dict[str, str]:
    """The same images in every form that can be streamed."""
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("sets")
    paths = {form: root / form.replace(" ", "-") for form in FORMS}
    write_parquet(paths["4 parquet files"], np.array_split(np.arange(N), 4))
    write_parquet(paths["1 parquet file"], [range(N)])
    for form in ("4 parquet files", "1 parquet file"):
        table(range(N_TEST)).to_parquet(paths[form] / "test-00000-of-00001.parquet")
    write_tar(paths["tar shards"])
    saved = datasets.DatasetDict({"train": table(range(192)), "test": table(range(64))})
    saved.save_to_disk(paths["save_to_disk"])
    write_folder(paths["imagefolder"])
    return {form: str(path) for form, path in paths.items()}


def open_loaders(path: str, rank=0, world=1, workers=0, setup=SETUP, num_classes=CLASSES, **flags):
    run = Run(data_path=path, **flags)
    train, test = open_streams(setup, run, num_classes, rank, world)
    return TrainStream(train, setup, run, rank, world, workers), EvalStream(test, setup, run, workers, batch_size=16)


def labels_of(loader) -> list[list[int]]:
    """The labels of each batch; the pixels must be those of the images that they belong to."""
    batches = []
    for pixels, labels in loader:
        assert pixels.dtype == torch.uint8 and pixels.shape[1:] == (3, 16, 16)
        assert torch.equal(pixels, labels[:, None, None, None].expand_as(pixels))
        batches.append(labels.tolist())
    return batches


def passes(path: str, world: int, workers: int, epoch=0, **flags) -> list[list[list[int]]]:
    """Batches of each process in an epoch of training."""
    shown = []
    for rank in range(world):
        loader, _ = open_loaders(path, rank, world, workers, **flags)
        loader.set_epoch(epoch)
        shown.append(labels_of(loader))
    return shown


def flat(nested) -> list[int]:
    return [label for batches in nested for batch in batches for label in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_goes_on_has_the_steps_that_were_left_with_other_images(sets, workers):
    loader, _ = open_loaders(sets["4 parquet files"], workers=workers)
    loader.set_epoch(1)
    whole = labels_of(loader)
    loader.set_epoch(1, step=2)
    rest = labels_of(loader)
    assert len(rest) == len(whole) - 2 and rest not in (whole[2:], whole[:-2])
    loader.set_epoch(1)
    assert labels_of(loader) == whole


WAYS = {  # world and workers, with or without a file for each worker
    "4 parquet files": [(1, 0), (1, 2), (2, 1), (3, 2)],
    "1 parquet file": [(1, 1), (2, 2), (3, 0)],
    "tar shards": [(1, 1), (3, 2)],
    "save_to_disk": [(2, 0), (3, 2)],
    "imagefolder": [(2, 1)],
}


@pytest.mark.parametrize(("form", "world", "workers"), [(form, *way) for form in FORMS for way in WAYS[form]])
def test_each_image_is_shown_once_over_all_processes(sets, form, world, workers):
    """Training and test stream; the numbers divide, so that no training image is left for the next pass."""
    trained, tested, n = [], [], SIZES.get(form, N)
    n_test = 64 if form == "save_to_disk" else N_TEST
    for rank in range(world):
        train, test = open_loaders(sets[form], rank, world, workers, stream_images=n)
        batches = labels_of(train)
        assert len(batches) == len(train) == n // SETUP.batch_size
        assert all(len(batch) == SETUP.batch_size // world for batch in batches)
        trained.append(batches)
        tested.append(labels_of(test))
        assert test.expected == (None if form == "tar shards" else n_test)
    assert sorted(flat(trained)) == list(range(n))
    assert sorted(flat(tested)) == list(range(n_test))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("form", ["4 parquet files", "1 parquet file"])
def test_no_image_is_shown_twice_in_an_epoch_that_is_shorter_than_a_pass(sets, form, world):
    for epoch in (0, 1):
        shown = passes(sets[form], world, workers=0, epoch=epoch, stream_images=60)
        assert [len(batches) for batches in shown] == [5] * world
        assert max(Counter(flat(shown)).values()) == 1


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (2, 1), (3, 1)])
def test_every_process_takes_as_many_steps_and_goes_on_where_its_part_ends(tmp_path, world, workers):
    """Files of very different lengths: the process, or worker, that has the short one begins another pass."""
    path = write_parquet(tmp_path / "set", [range(84), range(84, N)])
    shown = passes(path, world, workers)
    assert [len(batches) for batches in shown] == [STEPS] * world
    assert all(len(flat([batches])) == N // world for batches in shown)
    if world == 2:
        first = [sorted(flat([batches])[:12]) for batches in shown]
        assert list(range(84, N)) in first, "the short file is shown whole before anything else"


def test_a_process_without_any_image_stops(tmp_path):
    path = write_parquet(tmp_path / "set", [range(12), []])
    loader, _ = open_loaders(path, rank=1, world=2)
    with pytest.raises(ValueError, match="the training stream ended after 0 of 1 steps"):
        list(loader)


def test_epochs_and_seeds_are_shuffled_anew_and_can_be_repeated(sets):
    path = sets["4 parquet files"]

    def order(epoch=0, **flags):
        return flat(passes(path, 1, workers=0, epoch=epoch, **flags))

    orders = [order(0), order(1), order(2), order(0, seed=1), order(0, shuffle_buffer=20)]
    assert len(set(map(tuple, orders))) == 5
    for shown in orders:
        assert sorted(shown) == list(range(N)) != shown
        followed = sum(two == one + 1 for one, two in pairwise(shown))
        assert followed < N // 4, "neighbours in the file should be so no more"
    assert order(1) == orders[1]


def test_crops_differ_between_epochs_and_are_mirrored(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "check_variation", lambda *_: None)  # of one picture again and again
    draw = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(file, "PNG")
    changed = {number: {"bytes": file.getvalue(), "path": None} for number in range(12)}
    path = write_parquet(tmp_path / "set", [range(12)], changed=changed)
    crops = []
    for workers, epoch in ((0, 0), (0, 1), (1, 0)):
        loader, _ = open_loaders(path, workers=workers, num_classes=12)
        loader.set_epoch(epoch)
        crops.append(next(iter(loader))[0])
    assert len({crop.numpy().tobytes() for crop in torch.cat(crops[:2])}) > 20
    assert torch.equal(crops[0], crops[2]), "the first worker draws as the process itself"


@pytest.mark.parametrize("form", FORMS)
def test_images_are_counted_where_the_data_say_how_many(sets, form):
    if form == "tar shards":
        with pytest.raises(ValueError, match=r"do not say how many training images they have: add --stream_images N$"):
            open_loaders(sets[form])
    else:
        train, test = open_loaders(sets[form])
        n, n_test = SIZES.get(form, N), 64 if form == "save_to_disk" else N_TEST
        assert len(train.images) == n and len(train) == n // SETUP.batch_size and test.expected == n_test
        assert f"{n} images of {n if form == 'imagefolder' else CLASSES} classes" in train.images.fingerprint


def test_the_named_number_of_images_counts_more_than_the_data_and_for_training_alone(sets):
    train, test = open_loaders(sets["4 parquet files"], stream_images=30)
    assert len(train) == 2 and test.expected == N_TEST


def test_words_as_labels_need_class_names(tmp_path):
    path = write_parquet(tmp_path / "set", [range(N)], label=datasets.Value("string"))
    with pytest.raises(ValueError, match=r"labels of the stream are words \(label\): name the classes with --class_na"):
        open_loaders(path)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    train, _ = open_loaders(path, class_names=str(tmp_path / "names.txt"))
    assert train.images.classes == tuple(NAMES)
    assert sorted(flat([labels_of(train)])) == list(range(N))


def test_labels_are_told_by_name_where_the_splits_order_them_otherwise(tmp_path):
    reversed_names = datasets.ClassLabel(names=NAMES[::-1])
    test = table(range(64), label=reversed_names)
    datasets.DatasetDict({"train": table(range(64)), "test": test}).save_to_disk(tmp_path / "set")
    _, test = open_loaders(str(tmp_path / "set"), stream_images=64)
    shown = [label for _, labels in test for label in labels.tolist()]
    assert sorted(shown) == list(range(CLASSES - 64, CLASSES))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_outside_the_classes_is_named_with_its_image(tmp_path, workers):
    path = write_parquet(tmp_path / "set", [range(24)], label=datasets.Value("int64"))
    table(range(24), label=datasets.Value("int64")).to_parquet(tmp_path / "set" / "test-00000-of-00001.parquet")
    pattern = r"\d+\.png of the {} stream has the label ({}), which is none of the \d+ classes"
    for loader, split in zip(open_loaders(path, workers=workers, num_classes=20), ("train", "test"), strict=True):
        assert re.fullmatch(pattern.format(split, "20|21|22|23"), what_is_said(loader))
    with pytest.raises(ValueError, match=pattern.format("train", "9")):
        open_loaders(path, workers=workers, num_classes=9)


def what_is_said(loader) -> str:
    """Of a loader that stops; what a worker's error holds is let go at once, else its end is waited for."""
    try:
        list(loader)
    except ValueError as error:
        said, each = str(error), error
        while each:
            traceback.clear_frames(each.__traceback__)
            each = each.__context__
        return said
    raise AssertionError("nothing was said")


BROKEN = {7: {"bytes": png(7)[:60], "path": "7.png"}}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_with_its_name(tmp_path, workers):
    path = write_parquet(tmp_path / "set", [range(24)], changed=BROKEN)
    for loader, split in zip(open_loaders(path, workers=workers), ("train", "test"), strict=True):
        pattern = rf"7\.png of the {split} stream, of the label 7, is no image that can be read \(.*--skip_broken N.*"
        assert re.fullmatch(pattern, what_is_said(loader))


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 1), (2, 0)])
def test_skipped_images_are_replaced_in_training_counted_and_left_out_in_tests(tmp_path, capsys, world, workers):
    path = write_parquet(tmp_path / "set", [range(24)], changed=BROKEN)
    shown, tested, broken = [], [], 0
    for rank in range(world):
        train, test = open_loaders(path, rank, world, workers, skip_broken=1)
        shown.append(labels_of(train))
        broken += len(train.broken)
        tested += [label for _, labels in test for label in labels.tolist()]
    assert [len(batches) for batches in shown] == [2] * world and 7 not in flat(shown)
    assert broken >= 1
    assert sorted(tested) == [-1, *(number for number in range(10) if number != 7)]
    assert "7.png of the train stream, of" in (err := capsys.readouterr().err) and "skipped (1 of at most 1)" in err


def test_broken_images_without_a_name_are_counted_one_by_one(tmp_path):
    nameless = {number: {"bytes": png(number)[:60], "path": None} for number in (3, 7)}
    path = write_parquet(tmp_path / "set", [range(24)], changed=nameless)
    train, test = open_loaders(path, skip_broken=1)
    for loader in (train, test):
        assert re.match(r"an image without a name.* and --skip_broken allows only 1", what_is_said(loader))
    train, _ = open_loaders(path, skip_broken=2)
    assert len(labels_of(train)) == 2 and len(train.broken) == 2


def test_a_missing_image_is_a_broken_one(tmp_path):
    path = write_parquet(tmp_path / "set", [range(24)], changed={5: None})
    train, _ = open_loaders(path)
    with pytest.raises(ValueError, match=r"is no image that can be read \(it is missing or empty\)"):
        list(train)
    train, _ = open_loaders(path, skip_broken=1)
    assert len(labels_of(train)) == 2 and len(train.broken) == 1


def test_a_set_of_broken_images_ends(tmp_path):
    path = write_parquet(tmp_path / "set", [range(12)], changed=dict.fromkeys(range(12), BROKEN[7]))
    train, _ = open_loaders(path, skip_broken=12)
    with pytest.raises(ValueError, match="the training stream ended after 0 of 1 steps"):
        list(train)


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0}, {"crop_area": None}])
def test_mixup_and_crops_of_a_border_are_refused(sets, changes):
    with pytest.raises(
        ValueError, match=r"--streaming makes random resized crops \(--crop_area\), and neither mixup nor cutmix"
    ):
        open_loaders(sets["4 parquet files"], setup=replace(SETUP, **changes))


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    path = write_parquet(tmp_path / "set", [range(10)])
    with pytest.raises(ValueError, match="--batch_size 12 is more than the 10 training images"):
        open_loaders(path)


def test_a_stream_takes_as_many_workers_as_there_are_files(sets):
    for form, files in (("4 parquet files", 4), ("1 parquet file", 1)):
        train, test = open_loaders(sets[form], workers=8)
        assert (train.workers, test.workers) == (files, 1)
    train, _ = open_loaders(sets["4 parquet files"], rank=1, world=2, workers=8)
    assert isinstance(train.images, Stream) and train.workers == 2


@pytest.fixture
def ten_classes(tmp_path) -> Path:
    """32 training and 20 test images of 10 classes."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    (tmp_path / "set").mkdir()
    for split, n in (("train", 32), ("test", 20)):
        images = [{"bytes": png(number), "path": f"{number}.png"} for number in range(n)]
        rows = datasets.Dataset.from_dict({"image": images, "label": [i % 10 for i in range(n)]}, features)
        rows.to_parquet(tmp_path / "set" / f"{split}.parquet")
    return tmp_path


def test_a_streamed_run_says_that_it_resumes_approximately_and_resumes(overhaul, ten_classes):
    folder = ten_classes / "run"
    small = ["--setup", "digits_teacher", "--student.kwargs.depth", 10, "--student.kwargs.width", 1]
    how = ["--crop_area", "[0.5,1]", "--image_size", 16, "--data_path", ten_classes / "set", "--streaming"]
    sizes = ["--epochs", 2, "--batch_size", 8, "--workers", 1, "--output_dir", folder]
    first = overhaul("train", *small, *how, *sizes)
    assert first.status == 0, first.err
    opening = first.out.splitlines()[0]
    assert "32 training and 20 test images; a stream: shuffled within a buffer, and resumed approximately" in opening
    assert "2 epochs x 4 = 8, each of 8 images" in first.out and "epoch   2/2" in first.out
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints" / "epoch-0002")
    again = overhaul("train", *small, *how, *sizes)
    assert again.status == 0 and "resumed after epoch 1" in again.out and "epoch   1/2" not in again.out
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and (folder / "final" / "model.safetensors").exists()
    result = overhaul("evaluate", folder, "--data", ten_classes / "set", "--json")
    assert json.loads(result.out)["images"] == 20
