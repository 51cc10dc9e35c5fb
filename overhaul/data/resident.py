"""A set of small images that lies on the GPU, where each step cuts and mirrors its own."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from overhaul.data.images import Images
from overhaul.data.transforms import PadCrop, mixed

SHARE = 1 / 4  # of a GPU's free memory that a set may take


def fits(images: object, augment: object, device: torch.device | None) -> bool:
    """Whether such a set is held on the device: images in memory, cut from their surroundings, and a GPU with room."""
    if device is None or device.type != "cuda" or not isinstance(images, Images) or not isinstance(augment, PadCrop):
        return False
    return augment.padded.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]


class Resident:
    """Makes on the device what TrainBatches makes, to the last bit, of what was drawn for it."""

    def __init__(self, images: Images, augment: PadCrop, device: torch.device) -> None:
        self.labels, self.classes, self.size, self.device = images.labels, len(images.classes), augment.size, device
        self.padded = torch.from_numpy(augment.padded).to(device)
        self.line = torch.arange(self.size, device=device)

    def upload(self, drawn: list[tuple]) -> Iterator[tuple[Tensor, ...]]:
        """What `make` takes of each batch, on the device, brought there at once. drawn: what TrainBatches takes."""
        own, mixing = zip(*drawn, strict=True) if drawn else ((), ())
        columns = [self.columns(own)]
        if drawn and mixing[0]:
            partners, how = zip(*mixing, strict=True)
            columns += [
                self.columns(partners),
                torch.from_numpy(np.stack([each.share for each in how])).to(self.device),
            ]
        return zip(*columns, strict=True)

    def columns(self, drawn: tuple[tuple[np.ndarray, ...], ...]) -> Tensor:
        """int64 [batches, 5, batch]: an image's row, the top of its crop, the column that comes first, the step from
        one column to the next, and its label."""
        batches = [
            np.stack([rows, top, left + mirrored * (self.size - 1), 1 - 2 * mirrored, self.labels[rows]])
            for rows, top, left, mirrored in drawn
        ]
        return torch.from_numpy(np.array(batches, np.int64)).to(self.device)

    def make(self, own: Tensor, partner: Tensor | None = None, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """uint8 images [batch, 3, size, size] and their labels, as TrainLoader gives them."""
        batch = self.crops(own), own[4]
        if share is not None:
            batch = mixed(batch, (self.crops(partner), partner[4]), share, self.classes)
        return batch[0].permute(0, 3, 1, 2), batch[1]

    def crops(self, columns: Tensor) -> Tensor:
        rows, top, first, step, _ = columns[:, :, None]
        across = torch.addcmul(first, step, self.line)
        return self.padded[rows[:, None], (top + self.line)[:, :, None], across[:, None]]
