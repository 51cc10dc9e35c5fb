"""Augmentation beyond crops: each image's by a seed of its own, whatever the order, the workers and the processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.runs import teaching
from torchvision.transforms import v2

from overhaul.data.augmentation import Change, draw_mixing
from overhaul.data.images import Images
from overhaul.data.loaders import TrainLoader
from overhaul.recipe import Setup
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError

SETUP = replace(SETUPS["cifar_a"], batch_size=8, image_size=16, pad=2)
ALL = {"auto_augment": "rand", "random_erasing": 0.5, "mixup": 0.4, "cutmix": 1.0}
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8)
    return Images(pixels, np.arange(50), tuple(map(str, range(50))))


def epoch_of(images: Images, setup: Setup, epoch=1, step=0, **how) -> list[tuple]:
    loader = TrainLoader(images, setup, seed=3, **how)
    loader.set_epoch(epoch, step)
    return list(loader)


def same(one: list[tuple], other: list[tuple]) -> bool:
    pairs = [(a, b) for batch, its in zip(one, other, strict=True) for a, b in zip(batch, its, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs) and bool(pairs)


@pytest.mark.parametrize(
    "changes", [{name: each} for name, each in ALL.items()] + [{"auto_augment": "trivial"}, ALL], ids=str
)
def test_workers_processes_and_a_stop_change_no_bit(images, changes):
    setup = replace(SETUP, **changes)
    whole = epoch_of(images, setup)
    assert same(whole, epoch_of(images, setup, workers=2))
    assert same(whole[4:], epoch_of(images, setup, step=4))
    halves = [epoch_of(images, setup, rank=rank, world=2) for rank in (0, 1)]
    assert same(whole, [tuple(map(torch.cat, zip(*both, strict=True))) for both in zip(*halves, strict=True)])
    assert not same(whole, epoch_of(images, SETUP)) and not same(whole, epoch_of(images, setup, epoch=2))


@pytest.mark.parametrize(("name", "of"), [("rand", v2.RandAugment), ("trivial", v2.TrivialAugmentWide)])
def test_changes_are_torchvisions_under_the_seed(images, name, of):
    """And leave the random numbers of everybody else alone."""
    setup, image = replace(SETUP, auto_augment=name, random_erasing=0.3), torch.from_numpy(images.pixels[0])
    fill = [round(255 * each) for each in SETUP.mean]
    before, found = torch.get_rng_state(), [Change(setup)(image, seed) for seed in range(20)]
    assert torch.equal(before, torch.get_rng_state())
    for seed, mine in enumerate(found):
        torch.manual_seed(seed)
        expected = v2.RandomErasing(0.3, value=fill)(of(fill=fill)(image.permute(2, 0, 1)))
        assert torch.equal(mine.permute(2, 0, 1), expected)
    assert len({mine.numpy().tobytes() for mine in found}) > 10


def test_an_erased_rectangle_has_the_mean_colour(images):
    image = torch.from_numpy(images.pixels[0])
    found = Change(replace(SETUP, random_erasing=1.0))(image, 5)
    erased = (found != image).any(2)
    mean = torch.tensor([round(255 * each) for each in SETUP.mean], dtype=torch.uint8)
    rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
    box = found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert erased.any() and torch.equal(box, mean.expand_as(box))


def test_cutmix_pastes_a_box_of_the_partner_and_shares_the_label_by_its_area():
    flat = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.full((1, 16, 16, 3), 5, np.uint8)
    images, boxes = Images(flat, np.arange(50), tuple(map(str, range(50)))), 0
    for pixels, labels in epoch_of(images, replace(SETUP, cutmix=1.0)):
        for image, label in zip(pixels[:, 0], labels, strict=True):
            shares = {int(value) // 5: (image == value).float().mean().item() for value in image.unique()}
            assert shares == {int(i): pytest.approx(label[i].item(), abs=1e-6) for i in label.nonzero()}
            boxes += len(shares) > 1
    assert boxes > 24


def test_with_both_alphas_half_of_the_images_are_cut():
    mixing = draw_mixing(replace(SETUP, mixup=1.0, cutmix=1.0), np.random.default_rng(0), 10_000)
    areas = (mixing.boxes[:, 2] - mixing.boxes[:, 0]) * (mixing.boxes[:, 3] - mixing.boxes[:, 1])
    assert 0.44 < (mixing.share == 1).mean() < 0.56 and 0.4 < (areas > 0).mean() < 0.5
    assert np.allclose(np.where(mixing.share == 1, 1 - areas / 256, mixing.share), mixing.label_share)


def test_mixup_alone_draws_what_it_drew_before_there_was_cutmix():
    mixing, draw = draw_mixing(replace(SETUP, mixup=0.3), np.random.default_rng(7), 20), np.random.default_rng(7)
    assert np.array_equal(mixing.partner, draw.permutation(20)) and mixing.boxes is None
    assert np.array_equal(mixing.share, draw.beta(0.3, 0.3, 20).astype(np.float32))


def test_bicubic_crops_are_torchvisions():
    from overhaul.data.decoding import resized_crop

    image = torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)
    how = {"interpolation": v2.InterpolationMode.BICUBIC, "antialias": True}
    expected = v2.functional.resized_crop(image, 3, 4, 40, 30, [16, 16], **how)
    assert (resized_crop(image, 3, 4, 40, 30, 16, interpolation="bicubic").int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_augment": "randaugment"}, "did you mean rand?"),
        ({"random_erasing": 1.5}, "--random_erasing is a share of the images"),
        ({"cutmix": -1.0}, "--cutmix must be 0 or more"),
        ({"interpolation": "nearest"}, "'nearest' is not known"),
        ({"cutmix": 1.0, "method": "dkd", "label_weight": 1.0}, "--cutmix makes probabilities"),
    ],
)
def test_what_means_nothing_is_refused(changes, words):
    with pytest.raises(UserError) as raised:
        replace(SETUP, **changes)
    assert words in str(raised.value)


def test_a_run_with_all_of_it_trains(overhaul, tmp_path):
    flags = [word for name, each in ALL.items() for word in (f"--{name}", each)]
    result = overhaul("train", *teaching(*flags, "--workers", 1, "--output_dir", tmp_path / "run"))
    assert result.status == 0, result.err
