"""Augmentation beyond crops: an image is changed as a function of a seed of its own, and mixed with a partner."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from overhaul.data.images import Broken
from overhaul.recipe import Setup


class Change:
    """RandAugment or TrivialAugment, then erasing, by torchvision's transforms; what is drawn depends on the seed."""

    def __init__(self, setup: Setup) -> None:
        from torchvision.transforms import v2

        mean = [round(255 * each) for each in setup.mean]
        auto = {"rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide, None: None}[setup.auto_augment]
        erase = [v2.RandomErasing(setup.random_erasing, value=mean)] if setup.random_erasing else []
        self.transforms = [*([auto(fill=mean)] if auto else []), *erase]

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """uint8 [size, size, 3] -> the same."""
        image = image.permute(2, 0, 1)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            for transform in self.transforms:
                image = transform(image)
        return image.permute(1, 2, 0)


class Changed:
    """The images of PadCrop or ResizedCrop, each of them changed."""

    def __init__(self, crop, setup: Setup) -> None:
        self.crop, self.change = crop, Change(setup)

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
        """What the crop draws, and the seed of each image's change."""
        return *self.crop.draw(generator, n), generator.integers(2**63, size=n)

    def __call__(self, rows, *draws) -> tuple[Tensor, np.ndarray, list[Broken]]:
        """See transforms.ResizedCrop."""
        *draws, seeds = draws
        pixels, rows, broken = self.crop(rows, *draws)
        return torch.stack([self.change(*each) for each in zip(pixels, seeds.tolist(), strict=True)]), rows, broken


def changes(setup: Setup) -> bool:
    """Whether images are changed after their crop."""
    return setup.auto_augment is not None or setup.random_erasing > 0


@dataclass(frozen=True)
class Mixing:
    """How images are mixed with their partners, a value an image.

    partner: rows. share: of the image in its pixels, float32. boxes: None, or int64 [n, 4], top, left, bottom and right
    of what is cut from the partner. label_share: None, or of the image in its label where that is another.
    """

    partner: np.ndarray
    share: np.ndarray
    boxes: np.ndarray | None = None
    label_share: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> "Mixing":
        """Of some images."""
        return Mixing(*(None if each is None else each[rows] for each in vars(self).values()))


def draw_mixing(setup: Setup, generator: np.random.Generator, n: int) -> Mixing | None:
    """For each of n images in an epoch; with both alphas MixUp or CutMix, at even odds.

    MixUp: Zhang et al., 2018. CutMix: Yun et al., 2019, with a box whose place and size are drawn as torchvision's are.
    """
    if not (setup.mixup or setup.cutmix):
        return None
    partner = generator.permutation(n)
    share = generator.beta(setup.mixup, setup.mixup, n).astype(np.float32) if setup.mixup else np.ones(n, np.float32)
    if not setup.cutmix:
        return Mixing(partner, share)
    cuts = generator.random(n) < (0.5 if setup.mixup else 1)
    area, centre, size = 1 - generator.beta(setup.cutmix, setup.cutmix, n), generator.random((n, 2)), setup.image_size
    half = (0.5 * np.sqrt(area) * size).astype(int)[:, None]
    centre = (centre * size).astype(int)
    boxes = np.concatenate([(centre - half).clip(0, size), (centre + half).clip(0, size)], 1) * cuts[:, None]
    left = 1 - (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / size**2
    share = np.where(cuts, np.float32(1), share)
    return Mixing(partner, share, boxes, np.where(cuts, left, share).astype(np.float32))


def pasted(pixels: Tensor, other: Tensor, boxes: np.ndarray) -> Tensor:
    """uint8 [batch, size, size, 3]: the images, each with its box [4] of the other."""
    pixels = pixels.clone()
    for image, theirs, (top, left, bottom, right) in zip(pixels, other, boxes.tolist(), strict=True):
        image[top:bottom, left:right] = theirs[top:bottom, left:right]
    return pixels
