"""The batches of an image set held in memory: order and augmentation as functions of (seed, epoch, sample index)."""

import numpy as np
import torch
from torch import Tensor

from overhaul.setups import Setup
from overhaul.sources import Images


class TrainLoader:
    """Shuffled, augmented batches, equal to the last bit for any number of processes.

    Order and augmentation of an epoch are drawn for the whole set from (seed, epoch), so that what happens to a sample
    depends on nothing else. Each process takes its slice of every global batch; the last partial batch is dropped.
    Yields uint8 images [batch, 3, size, size] in channels_last and labels: int64 [batch], or with mixup probabilities
    [batch, classes].
    """

    def __init__(self, images: Images, setup: Setup, seed: int, rank: int = 0, world: int = 1) -> None:
        if setup.batch_size > len(images):
            raise ValueError(f"--batch_size {setup.batch_size} is more than the {len(images)} training images")
        if setup.crop_area:
            raise ValueError("random resized crops (--crop_area) are not made yet: the images are held at one size")
        self.images, self.setup, self.seed, self.rank, self.world = images, setup, seed, rank, world
        border = ((0, 0), (setup.pad, setup.pad), (setup.pad, setup.pad), (0, 0))
        padded = np.pad(images.pixels, border, mode="reflect") if setup.pad else images.pixels
        size = (setup.image_size, setup.image_size)
        crops = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
        self.crops = crops.transpose(0, 1, 2, 4, 5, 3)  # [n, top, left, size, size, 3], a view of the padded set
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self.images) // self.setup.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Draw the order and the augmentation of every sample for that epoch."""
        n, setup = len(self.images), self.setup
        draw = np.random.default_rng([self.seed, epoch])
        self.order = draw.permutation(n)
        self.top, self.left = draw.integers(0, 2 * setup.pad + 1, (2, n))
        self.mirrored = draw.random(n) < (0.5 if setup.flip else 0.0)
        if setup.mixup:
            self.partner = draw.permutation(n)
            self.share = draw.beta(setup.mixup, setup.mixup, n).astype(np.float32)

    def __iter__(self):
        share = self.setup.batch_size // self.world
        for step in range(len(self)):
            start = step * self.setup.batch_size + self.rank * share
            pixels, labels = self.batch(self.order[start : start + share])
            yield torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def batch(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = self.augmented(index), self.images.labels[index]
        if not self.setup.mixup:
            return pixels, labels
        partner, share = self.partner[index], self.share[index]
        other, share_of_pixel = self.augmented(partner), share[:, None, None, None]
        mixed = (pixels * share_of_pixel + other * (1 - share_of_pixel)).round().astype(np.uint8)
        one_hot = np.eye(len(self.images.classes), dtype=np.float32)
        return mixed, one_hot[labels] * share[:, None] + one_hot[self.images.labels[partner]] * (1 - share[:, None])

    def augmented(self, index: np.ndarray) -> np.ndarray:
        pixels = self.crops[index, self.top[index], self.left[index]]
        mirrored = np.flatnonzero(self.mirrored[index])
        pixels[mirrored] = pixels[mirrored][:, :, ::-1]
        return pixels


class EvalLoader:
    """Every image once over all processes, as it is: uint8 [batch, 3, size, size] and labels [batch]."""

    def __init__(self, images: Images, batch_size: int = 250, rank: int = 0, world: int = 1) -> None:
        self.images, self.index, self.batch_size = images, np.arange(rank, len(images), world), batch_size

    def __iter__(self):
        for start in range(0, len(self.index), self.batch_size):
            index = self.index[start : start + self.batch_size]
            pixels = torch.from_numpy(self.images.pixels[index]).permute(0, 3, 1, 2)
            yield pixels, torch.from_numpy(self.images.labels[index])


class Normalize:
    """uint8 images -> float32 on the device, channels_last, less mean, over std (a channel each, in 0..1)."""

    def __init__(self, mean, std, device) -> None:
        mean, std = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (mean, std))
        self.scale, self.shift, self.device = 1 / (255 * std), -mean / std, device

    def __call__(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True).float()
        return torch.addcmul(self.shift, images, self.scale).contiguous(memory_format=torch.channels_last)
