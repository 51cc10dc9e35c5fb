"""Training batches made as the authors' release makes them: PIL, ImageFolder, torchvision's transforms, one worker."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets import ImageFolder

from overhaul.data.images import EncodedImages, Images
from overhaul.setups import Setup


def release_loader(images: EncodedImages | Images, setup: Setup, folder: Path) -> DataLoader:
    """Endless batches of normalised floats and labels; folder: an empty one for the files of encoded images."""
    as_read = as_folder(images, setup, folder) if isinstance(images, EncodedImages) else AsCifar(images, setup)
    return DataLoader(as_read, setup.batch_size, sampler=Endless(len(images)), num_workers=1)


def as_folder(images: EncodedImages, setup: Setup, folder: Path) -> ImageFolder:
    """The images as files of one class, cropped by area and mirrored."""
    (folder / "a class").mkdir()
    rows = np.arange(len(images))
    for row, (encoded, _) in zip(rows, images.read(rows), strict=True):
        (folder / "a class" / f"{row}.JPEG").write_bytes(encoded)
    augment = [transforms.RandomResizedCrop(setup.image_size), transforms.RandomHorizontalFlip()]
    return ImageFolder(str(folder), transforms.Compose([*augment, *to_floats(setup)]))


class AsCifar(Dataset):
    """An image at a time through PIL, as torchvision's CIFAR100 with the release's transforms."""

    def __init__(self, images: Images, setup: Setup) -> None:
        self.images = images
        crop = [transforms.Pad(setup.pad, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*crop, transforms.RandomCrop(setup.image_size), *to_floats(setup)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int):
        return self.transform(Image.fromarray(self.images.pixels[row])), int(self.images.labels[row])


def to_floats(setup: Setup) -> list:
    return [transforms.ToTensor(), transforms.Normalize(setup.mean, setup.std)]


class Endless:
    """Shuffled indices, epoch after epoch."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.n).tolist()
