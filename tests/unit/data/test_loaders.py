"""Batches: order and augmentation are functions of (seed, epoch, sample index), whatever the number of processes."""

import gc
import io
import multiprocessing
import os
import random
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from support.jpegs import CONTENTS
from torch.utils.data import Dataset
from torchvision.transforms import v2

from overhaul.data.bounds import Bounds
from overhaul.data.decoding import centre, decode
from overhaul.data.images import EncodedImages, Images
from overhaul.data.loaders import EvalLoader, Normalize, TrainLoader
from overhaul.data.transforms import RandomCrop
from overhaul.data.workers import deaths_explained, work
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError
from overhaul.training.evaluation import evaluate

SETUP = replace(SETUPS["cifar_a"], batch_size=8)
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
CROPPED = replace(SETUPS["imagenet_b"], batch_size=8)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, np.arange(50) % 10, tuple("abcdefghij"))


def epoch_of(loader, epoch=0):
    loader.set_epoch(epoch)
    return list(loader)


def test_an_epoch_shows_every_image_once_but_for_the_last_partial_batch(images):
    loader = TrainLoader(replace_labels(images), SETUP, seed=0)
    seen = torch.cat([labels for _, labels in epoch_of(loader)]).tolist()
    assert len(loader) == 6 and len(seen) == len(set(seen)) == 48


def replace_labels(images):
    """Each image its own class, so that labels tell which images a batch holds."""
    return Images(images.pixels, np.arange(len(images)), tuple(map(str, range(len(images)))))


@pytest.mark.parametrize("mixup", [0.0, 1.0])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_the_batches_of_one_process(images, world, mixup):
    setup = replace(SETUP, mixup=mixup)
    alone = epoch_of(TrainLoader(images, setup, seed=3), epoch=5)
    shares = [epoch_of(TrainLoader(images, setup, 3, rank, world), epoch=5) for rank in range(world)]
    for step, (pixels, labels) in enumerate(alone):
        assert torch.equal(pixels, torch.cat([share[step][0] for share in shares]))
        assert torch.equal(labels, torch.cat([share[step][1] for share in shares]))


def test_batch_size_changes_the_batches_and_not_the_images(images):
    small, large = (
        torch.cat([pixels for pixels, _ in epoch_of(TrainLoader(images, replace(SETUP, batch_size=n), seed=1), 2)])
        for n in (5, 25)
    )
    assert torch.equal(small, large)


def test_seed_and_epoch_change_order_and_augmentation(images):
    def first(seed, epoch):
        return epoch_of(TrainLoader(images, SETUP, seed), epoch)[0][0]

    assert torch.equal(first(0, 0), first(0, 0))
    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


def test_an_epoch_does_not_depend_on_the_epochs_before(images):
    loader = TrainLoader(images, SETUP, seed=0)
    for epoch in range(3):
        epoch_of(loader, epoch)
    fresh = TrainLoader(images, SETUP, seed=0)
    assert torch.equal(epoch_of(loader, 7)[0][0], epoch_of(fresh, 7)[0][0])


def test_augmented_images_are_crops_of_the_reflected_image_half_of_them_mirrored(images):
    loader = TrainLoader(replace_labels(images), SETUP, seed=0)
    padded = np.pad(images.pixels, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    mirrored, corners = 0, set()
    for epoch in range(4):
        for pixels, labels in epoch_of(loader, epoch):
            for image, label in zip(pixels.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
                top, left = (draw[label] for draw in loader.draws[:2])
                crop = padded[label, top : top + 32, left : left + 32]
                flipped = np.array_equal(image, crop[:, ::-1])
                assert flipped or np.array_equal(image, crop)
                mirrored += flipped
                corners.add((int(top), int(left)))
    assert 0.35 < mirrored / 192 < 0.65
    assert {top for top, _ in corners} == {left for _, left in corners} == set(range(9))


def test_no_flip_and_no_padding_leave_the_images(images):
    loader = TrainLoader(replace_labels(images), replace(SETUP, flip=False, pad=0), seed=0)
    for pixels, labels in epoch_of(loader):
        assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), images.pixels[labels.numpy()])


def test_mixup_mixes_images_and_labels_by_the_same_share(images):
    flat = Images(
        np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 32, 3), np.uint8) * 5,
        np.arange(50),
        tuple(map(str, range(50))),
    )
    loader = TrainLoader(flat, replace(SETUP, mixup=1.0), seed=0)
    for pixels, labels in epoch_of(loader):
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        expected = labels @ (5 * torch.arange(50.0))
        assert (pixels.float().mean((1, 2, 3)) - expected).abs().max() <= 0.51
    assert 0.4 < loader.mixing.share.mean() < 0.6


def test_a_batch_larger_than_the_set_is_refused(images):
    with pytest.raises(ValueError, match="--batch_size 64 is more than the 50 training images"):
        TrainLoader(images, replace(SETUP, batch_size=64), seed=0)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_test_loader_shows_every_image_once_over_all_processes(images, world):
    loaders = [EvalLoader(replace_labels(images), batch_size=6, rank=rank, world=world) for rank in range(world)]
    seen = [label for loader in loaders for _, labels in loader for label in labels.tolist()]
    assert sorted(seen) == list(range(50))


def test_normalize():
    mean, std = SETUP.mean, SETUP.std
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    normalized = Normalize(mean, std, torch.device("cpu"))(images)
    torch.testing.assert_close(normalized, expected, rtol=1e-5, atol=1e-5)
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def encoded_set(contents: list[bytes], split="train", labels=None) -> EncodedImages:
    """Each image a class of its own unless labels are given; image N is the file N.JPEG."""
    rows = [{"bytes": content, "path": f"{number}.JPEG"} for number, content in enumerate(contents)]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": rows}, features).with_format("arrow")
    labels = np.arange(len(rows)) if labels is None else np.array(labels)
    return EncodedImages(table, labels, tuple(map(str, range(len(rows)))), split, CROPPED.preprocessing)


@pytest.fixture(scope="module")
def encoded() -> EncodedImages:
    return encoded_set(CONTENTS)


def with_broken(*rows: int, split="train") -> EncodedImages:
    """The set, some images of which are cut in half."""
    cut = [content[: len(content) // 2] if row in rows else content for row, content in enumerate(CONTENTS)]
    return encoded_set(cut, split)


def shown(images, epoch=0, seed=0, world=1, batch_size=8, **kwargs) -> dict[int, torch.Tensor]:
    """What an epoch shows of each image, by its label, over all processes."""
    setup, found = replace(CROPPED, batch_size=batch_size), {}
    for rank in range(world):
        for pixels, labels in epoch_of(TrainLoader(images, setup, seed, rank, world, **kwargs), epoch):
            assert pixels.dtype == torch.uint8 and pixels.shape == (batch_size // world, 3, 224, 224)
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            for image, label in zip(pixels, labels.tolist(), strict=True):
                assert label not in found, "an image is shown twice"
                found[label] = image
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_epoch_of_encoded_images_shows_each_once_over_all_processes(encoded, world):
    loader = TrainLoader(encoded, CROPPED, seed=0)
    loader.set_epoch(1)
    assert set(shown(encoded, epoch=1, world=world)) == set(loader.order[:16].tolist())


@pytest.mark.parametrize(
    "way", [{"workers": 1}, {"workers": 3}, {"world": 2}, {"world": 2, "workers": 2}, {"batch_size": 4}]
)
def test_what_a_sample_looks_like_depends_on_nothing_but_seed_epoch_and_index(encoded, way):
    for epoch in (0, 3):
        alone, other = shown(encoded, epoch), shown(encoded, epoch, **way)
        assert set(alone) <= set(other)
        assert all(torch.equal(image, other[label]) for label, image in alone.items())


def test_what_a_sample_looks_like_changes_with_seed_and_epoch(encoded):
    first = shown(encoded)
    for other in (shown(encoded, epoch=1), shown(encoded, seed=1)):
        both = set(first) & set(other)
        assert len(both) > 8 and not any(torch.equal(first[label], other[label]) for label in both)


def test_order_of_batches_is_that_of_one_process_without_workers(encoded):
    alone = epoch_of(TrainLoader(encoded, CROPPED, seed=0), 2)
    ahead = epoch_of(TrainLoader(encoded, CROPPED, seed=0, workers=3), 2)
    assert [labels.tolist() for _, labels in alone] == [labels.tolist() for _, labels in ahead]


def test_images_in_memory_and_encoded_ones_are_cropped_alike(encoded):
    pixels = np.stack([centre(decode(content), 224).permute(1, 2, 0).numpy() for content in CONTENTS])
    lossless = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        lossless.append(file.getvalue())
    in_memory, from_files = shown(Images(pixels, encoded.labels, encoded.classes)), shown(encoded_set(lossless))
    assert all(torch.equal(image, from_files[label]) for label, image in in_memory.items())


def places(height: int, width: int, n: int) -> np.ndarray:
    """Top, left, height and width of n of our crops, their seeds drawn as a loader draws them."""
    crop, seeds = RandomCrop(CROPPED), np.random.default_rng(0).integers(2**63, size=n)
    return np.array([crop.place(height, width, random.Random(int(seed))) for seed in seeds])


def places_of_torchvision(height: int, width: int, n: int) -> np.ndarray:
    crop, image = v2.RandomResizedCrop(224, antialias=True), torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [crop.make_params([image]) for _ in range(n)]
    return np.array([[each[name] for name in ("top", "left", "height", "width")] for each in drawn])


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (60, 47), (150, 500)])
def test_crops_are_drawn_as_torchvision_draws_them(size):
    """Two-sample Kolmogorov-Smirnov tests of everything that makes a rectangle."""
    ours, theirs = places(*size, 4000), places_of_torchvision(*size, 4000)
    for top, left, height, width in (ours.T, theirs.T):
        assert np.all((top >= 0) & (left >= 0) & (top + height <= size[0]) & (left + width <= size[1]))
    for measure in (
        lambda top, left, height, width: top,
        lambda top, left, height, width: left,
        lambda top, left, height, width: height * width,
        lambda top, left, height, width: width / height,
        lambda top, left, height, width: top / np.maximum(1, size[0] - height),
        lambda top, left, height, width: left / np.maximum(1, size[1] - width),
    ):
        assert ks_2samp(measure(*ours.T), measure(*theirs.T)).pvalue > 1e-3
    if size == (375, 500):
        share = ours[:, 2] * ours[:, 3] / (size[0] * size[1])
        assert 0.07 < share.min() < 0.1 and share.max() > 0.9 and 0.4 < share.mean() < 0.55
        assert 0.74 < (ours[:, 3] / ours[:, 2]).min() < 0.78 and 1.28 < (ours[:, 3] / ours[:, 2]).max() < 1.35


@pytest.mark.parametrize("size", [(10, 1000), (1000, 10), (1, 1), (1, 40), (3, 4)])
def test_an_image_into_which_no_crop_fits_is_cropped_at_its_centre_as_by_torchvision(size):
    ours, theirs = places(*size, 200), places_of_torchvision(*size, 200)
    if max(size) > 100:
        assert np.array_equal(ours, theirs) and len(np.unique(ours, axis=0)) == 1
    assert set(map(tuple, ours.tolist())) <= set(map(tuple, places_of_torchvision(*size, 2000).tolist()))


def test_a_crop_has_the_pixels_of_its_place_and_half_of_them_are_mirrored(encoded):
    """The redder side of these images is the right one."""
    mirrored, seen, crop = 0, 0, RandomCrop(CROPPED)
    loader = TrainLoader(encoded, CROPPED, seed=0)
    for epoch in range(4):
        for pixels, labels in epoch_of(loader, epoch):
            for image, label in zip(pixels, labels.tolist(), strict=True):
                red = image[0].float().mean(0)
                flipped = bool(red[:112].mean() > red[112:].mean())
                whole = decode(CONTENTS[label])
                place = crop.place(*whole.shape[1:], random.Random(int(loader.draws[0][label])))
                expected = v2.functional.resized_crop(whole, *place, [224, 224], antialias=True)
                assert torch.equal(image, expected.flip(2) if flipped else expected)
                mirrored, seen = mirrored + flipped, seen + 1
    assert 0.35 < mirrored / seen < 0.65


def test_without_flip_nothing_is_mirrored(encoded):
    setup = replace(CROPPED, flip=False, crop_area=(1.0, 1.0))
    for pixels, _ in epoch_of(TrainLoader(encoded, setup, seed=0)):
        red = pixels[:, 0].float().mean(1)
        assert torch.all(red[:, :112].mean(1) < red[:, 112:].mean(1))


def test_an_epoch_leaves_the_global_random_numbers_alone(encoded):
    def states():
        return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    for workers in (0, 2):
        epoch_of(TrainLoader(encoded, CROPPED, seed=0, workers=workers), 1)
        list(EvalLoader(encoded, batch_size=8, workers=workers))
        assert states() == before


def test_mixup_of_encoded_images(encoded):
    """A sample's share of the mixture is what it would look like alone; blue tells who is in it."""
    setup = replace(CROPPED, mixup=1.0)
    loader = TrainLoader(encoded, setup, seed=0)
    for pixels, labels in epoch_of(loader):
        assert pixels.shape == (8, 3, 224, 224) and labels.shape == (8, 22) and labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(1), torch.ones(8))
        expected = labels @ (10 * torch.arange(22.0))
        assert (pixels[:, 2].float().mean((1, 2)) - expected).abs().max() < 3


def test_mixup_is_the_same_for_any_number_of_processes_and_workers(encoded):
    setup = replace(CROPPED, mixup=0.2)
    alone = epoch_of(TrainLoader(encoded, setup, seed=0))
    shares = [epoch_of(TrainLoader(encoded, setup, 0, rank, 2, workers=rank)) for rank in range(2)]
    for step, batch in enumerate(alone):
        for whole, *parts in zip(batch, *(share[step] for share in shares), strict=True):
            assert torch.equal(whole, torch.cat(parts))


def test_a_broken_image_stops_the_run_with_its_row_and_file():
    with pytest.raises(ValueError) as error:
        shown(with_broken(5), workers=2, batch_size=22)
    message = str(error.value)
    assert message.startswith("row 5 of the train split (5.JPEG) is no image that can be read (")
    assert "--skip_broken N" in message and "--image_column" in message and "\n" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_replaced_by_its_neighbour_and_counted(capsys, encoded, workers):
    loader = TrainLoader(with_broken(5), replace(CROPPED, batch_size=22), seed=0, workers=workers, skip_broken=1)
    whole = TrainLoader(encoded, replace(CROPPED, batch_size=22), seed=0)
    for epoch in range(2):
        ((pixels, labels),), ((all_pixels, all_labels),) = epoch_of(loader, epoch), epoch_of(whole, epoch)
        place = int(torch.nonzero(all_labels == 5))
        assert labels[place] == 6 and sorted(labels.tolist()) == sorted([*range(5), 6, *range(6, 22)])
        replacement = RandomCrop(CROPPED)(decode(CONTENTS[6]), int(loader.draws[0][5])).permute(2, 0, 1)
        assert torch.equal(pixels[place], replacement)
        others = all_labels != 5
        assert torch.equal(pixels[others], all_pixels[others]) and torch.equal(labels[others], all_labels[others])
        assert len(loader.broken) == 1 and "row 5 of the train split (5.JPEG)" in next(iter(loader.broken))
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("overhaul: "))
        assert line.startswith("overhaul: row 5 of the train split (5.JPEG) is no image")
        assert line.endswith("; skipped (1 of at most 1)")


def test_more_broken_images_than_allowed_stop_the_run(capsys):
    images = with_broken(5, 9)
    with pytest.raises(ValueError, match=r"\.JPEG\) is no image .*, and --skip_broken allows only 1; "):
        shown(images, workers=2, batch_size=22, skip_broken=1)
    assert capsys.readouterr().err.count("skipped (1 of at most 1)") == 1
    loader = TrainLoader(images, replace(CROPPED, batch_size=22), seed=0, workers=2, skip_broken=2)
    ((_, labels),) = epoch_of(loader)
    assert len(loader.broken) == 2 and not {5, 9} & set(labels.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_named_in_the_order_in_which_they_are_shown(capsys, workers):
    """So that the same run stops with the same line."""
    broken = [1, 3, 5, 7, 9, 11, 13, 15]
    loader = TrainLoader(with_broken(*broken), replace(CROPPED, batch_size=22), 0, workers=workers, skip_broken=7)
    in_order = [row for row in loader.order.tolist() if row in broken]
    with pytest.raises(ValueError, match=f"^row {in_order[-1]} of"):
        epoch_of(loader)
    named = [line.split(" of ")[0] for line in capsys.readouterr().err.splitlines()]
    assert named == [f"overhaul: row {row}" for row in in_order[:-1]]


def test_an_image_between_broken_ones_is_replaced_by_the_next_whole_one():
    loader = TrainLoader(with_broken(20, 21, 0), replace(CROPPED, batch_size=22), seed=0, skip_broken=3)
    ((_, labels),) = epoch_of(loader)
    assert sorted(labels.tolist()) == sorted([*range(1, 20), 1, 1, 1]) and len(loader.broken) == 3


@pytest.mark.parametrize("skip_broken", [0, 1, 1000])
def test_where_all_images_are_broken_the_run_stops(skip_broken):
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"row \d+ of the train split .* --image_column"):
        shown(with_broken(*range(22)), skip_broken=skip_broken)
    assert time.monotonic() - started < 10


def test_an_image_that_is_missing_is_a_broken_one():
    images = with_broken()
    rows = images.table.with_format(None)["image"][:]
    gone = {3: None, 4: {"bytes": None, "path": "/nowhere/4.JPEG"}, 5: {"bytes": b"", "path": None}}
    for row, missing in gone.items():
        rows[row] = missing
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": rows}, features).with_format("arrow")
    loader = EvalLoader(replace(images, table=table, bounds=Bounds(("/nowhere",))), skip_broken=3)
    ((_, labels),) = loader
    assert labels.tolist() == [0, 1, 2, -1, -1, -1, *range(6, 22)]
    assert sorted(each.split(" is no image")[0] for each in loader.broken) == [
        "row 3 of the train split",
        "row 4 of the train split (/nowhere/4.JPEG)",
        "row 5 of the train split",
    ]
    assert all(each.endswith("(it is missing or empty)") for each in loader.broken)


def test_mixup_with_a_broken_image():
    loader = TrainLoader(with_broken(5), replace(CROPPED, mixup=1.0, batch_size=22), seed=0, skip_broken=1)
    ((pixels, labels),) = epoch_of(loader)
    assert not labels[:, 5].any() and len(loader.broken) == 1
    assert (pixels[:, 2].float().mean((1, 2)) - labels @ (10 * torch.arange(22.0))).abs().max() < 3


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_encoded_test_images_are_shown_once_at_their_centre(encoded, world, workers):
    found = {}
    for rank in range(world):
        for pixels, labels in EvalLoader(encoded, batch_size=5, rank=rank, world=world, workers=workers):
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            found |= dict(zip(labels.tolist(), pixels, strict=True))
    assert sorted(found) == list(range(22))
    assert all(torch.equal(image, centre(decode(CONTENTS[label]), 224, 256)) for label, image in found.items())


class Blueness(torch.nn.Module):
    """Tells an image of `gradient` by its blue; those of odd numbers are taken for the one before."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        number = (images[:, 2].mean((1, 2)) / 10).round()
        return -(torch.arange(22.0)[None] - (number - number % 2)[:, None]).abs()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_test_image_is_left_out_and_the_others_are_counted_exactly(capsys, workers):
    images = with_broken(4, 21, split="test")
    one_process = SimpleNamespace(
        device=torch.device("cpu"), autocast=nullcontext, reduce=lambda counts, how: {"sum": counts}[how]
    )

    def result(skip_broken):
        loader = EvalLoader(images, batch_size=5, workers=workers, skip_broken=skip_broken)
        labels = torch.cat([labels for _, labels in loader]).tolist()
        assert labels == [-1 if row in (4, 21) else row for row in range(22)]
        return evaluate(Blueness(), loader, lambda pixels: pixels.float(), one_process)

    assert result(2) == {"top1": 100 * 10 / 20, "top5": 100.0, "images": 20}
    assert "row 21 of the test split (21.JPEG)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"row 21 of the test split .* --skip_broken allows only 1"):
        result(1)


def test_where_all_test_images_are_broken_the_evaluation_stops():
    one_process = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext, reduce=lambda counts, how: counts)
    with pytest.raises(ValueError, match=r"all .* images are broken"):
        loader = EvalLoader(with_broken(*range(22), split="test"), skip_broken=22)
        evaluate(Blueness(), loader, lambda pixels: pixels.float(), one_process)


class Numbers(Dataset):
    """Items that are their numbers, but that at the tenth something happens."""

    def __init__(self, happen) -> None:
        self.happen = happen

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> int:
        if number == 10:
            self.happen()
        return number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def complain() -> None:
    raise UserError("row 10 is odd; mend it")


def test_a_worker_that_dies_is_said_to_have_died_in_one_line():
    with pytest.raises(ValueError, match=r"^a worker that decodes images died, .* --workers \(.*\)$"):
        list(work(Numbers(die), 2))


def test_a_worker_that_dies_while_a_step_is_computed_is_said_to_have_died_in_one_line():
    with (
        pytest.raises(ValueError, match=r"^a worker that decodes images died, .* --workers \(.*\)$"),
        deaths_explained(),
    ):
        for _ in work(Numbers(die), 2):
            time.sleep(0.1)


def test_an_error_in_a_worker_reaches_the_caller_as_it_was(monkeypatch):
    seen = []
    with pytest.raises(ValueError, match=r"^row 10 is odd; mend it$"):
        for number in work(Numbers(complain), 2):
            seen.append(int(number))
    assert seen == list(range(10))
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)  # seconds, for each worker's end
    gc.collect()  # the workers, which the error's traceback kept


def test_workers_end_with_the_loop_that_asked_for_them(encoded):
    before, during = set(multiprocessing.active_children()), set()
    for _ in TrainLoader(encoded, CROPPED, seed=0, workers=2):
        during = set(multiprocessing.active_children()) - before
        break
    assert len(during) == 2
    for worker in during:
        worker.join(5)
        assert worker.exitcode == 0
