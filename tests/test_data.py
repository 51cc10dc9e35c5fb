"""Batches: order and augmentation are functions of (seed, epoch, sample index), whatever the number of processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from overhaul.data import EvalLoader, Normalize, TrainLoader
from overhaul.setups import SETUPS
from overhaul.sources import Images

SETUP = replace(SETUPS["cifar_a"], batch_size=8)


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
                top, left = loader.top[label], loader.left[label]
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
    assert 0.4 < loader.share.mean() < 0.6


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
