"""What happens to a training image, as a function of what was drawn for it."""

import math
import random

import numpy as np
import torch
from torch import Tensor

from overhaul.data.decoding import resized_crop
from overhaul.data.images import Broken, EncodedImages, Images
from overhaul.recipe import Setup
from overhaul.system.messages import UserError
from overhaul.system.numbers import check_memory

TRIES = 100  # images in a row; where all are broken there is no end


def check_batch(setup: Setup, images: int) -> None:
    """UserError for a training set that makes no batch."""
    if setup.batch_size > images:
        raise UserError(f"--batch_size {setup.batch_size} is more than the {images} training images")


class PadCrop:
    """Crops of an image's reflected surroundings and mirroring, of whole batches of images in memory."""

    def __init__(self, images: Images, setup: Setup) -> None:
        self.pad, self.flip, self.size = setup.pad, setup.flip, setup.image_size
        across = setup.image_size + 2 * setup.pad
        check_memory(f"images of --image_size {self.size} with --pad {self.pad}", 3 * len(images) * across**2)
        border = ((0, 0), (setup.pad, setup.pad), (setup.pad, setup.pad), (0, 0))
        self.padded = np.pad(images.pixels, border, mode="reflect") if setup.pad else images.pixels
        crops = np.lib.stride_tricks.sliding_window_view(self.padded, (self.size, self.size), axis=(1, 2))
        self.crops = crops.transpose(0, 1, 2, 4, 5, 3)  # [n, top, left, size, size, 3], a view of the padded set

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
        """What happens to each of n images in an epoch: top, left, whether mirrored."""
        top, left = generator.integers(0, 2 * self.pad + 1, (2, n))
        return top, left, generator.random(n) < (0.5 if self.flip else 0.0)

    def __call__(self, rows, top, left, mirrored) -> tuple[Tensor, np.ndarray, list[Broken]]:
        """uint8 [rows, size, size, 3], the rows that they show, and the broken ones among them: none."""
        pixels = self.crops[rows, top, left]
        mirrored = np.flatnonzero(mirrored)
        pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        return torch.from_numpy(pixels), rows, []


def mixed(
    one: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    share: Tensor,
    classes: int,
    label_share: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pixels, uint8 [batch, size, size, 3], and labels of which a share, [batch], is that of the first.

    label_share: of the labels, where it is another. Each operation is rounded by itself, so that all devices give the
    same bits.
    """
    (pixels, labels), (other_pixels, other_labels), share = one, other, share[:, None]
    share_of_pixel, numbers = share[..., None, None], torch.arange(classes, device=share.device)
    pixels = (pixels * share_of_pixel + other_pixels * (1 - share_of_pixel)).round().to(torch.uint8)
    one_hot, other_one_hot = (each[:, None] == numbers for each in (labels, other_labels))
    share = share if label_share is None else label_share[:, None]
    return pixels, one_hot * share + other_one_hot * (1 - share)


class RandomCrop:
    """A random resized crop, drawn as torchvision draws it, and mirroring, of an image as a function of a seed."""

    def __init__(self, setup: Setup) -> None:
        self.size, self.area, self.flip = setup.image_size, setup.crop_area, setup.flip
        self.interpolation = setup.interpolation

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """uint8 [3, height, width] -> [size, size, 3]."""
        draw = random.Random(seed)
        place = self.place(*image.shape[1:], draw)
        mirrored = self.flip and draw.random() < 0.5
        return resized_crop(image, *place, self.size, mirrored, self.interpolation).permute(1, 2, 0)

    def place(self, height: int, width: int, draw: random.Random) -> tuple[int, int, int, int]:
        """Top, left, height and width of a rectangle whose sides are as 3 to 4 at most.

        If none of ten fits into the image, the largest at its centre.
        """
        for _ in range(10):
            area = height * width * draw.uniform(*self.area)
            ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return draw.randint(0, height - h), draw.randint(0, width - w), h, w
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        return (height - h) // 2, (width - w) // 2, h, w


class ResizedCrop:
    """Random resized crops and mirroring, of one image after the other."""

    def __init__(self, images: Images | EncodedImages, setup: Setup) -> None:
        self.images, self.crop = images, RandomCrop(setup)

    def draw(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, ...]:
        """What happens to each of n images in an epoch: the seed of its crop and its mirroring."""
        return (generator.integers(2**63, size=n),)

    def __call__(self, rows, seeds) -> tuple[Tensor, np.ndarray, list[Broken]]:
        """uint8 [rows, size, size, 3], the rows that they show, and the broken ones, each replaced by the next."""
        crops, shown, broken = [], rows.copy(), []
        for i, image in enumerate(self.images.decode(rows)):
            for _ in range(TRIES):
                if not isinstance(image, Broken):
                    break
                broken.append(image)
                shown[i] = (shown[i] + 1) % len(self.images)
                image = next(self.images.decode(shown[i : i + 1]))
            else:
                raise UserError(
                    f"{broken[-1]}, nor are {TRIES - 1} before it; if they hold no images, name another column with "
                    f"--image_column"
                )
            crops.append(self.crop(image, int(seeds[i])))
        return torch.stack(crops), shown, broken
