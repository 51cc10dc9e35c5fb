"""The sums of a training epoch, kept on the device so that no step waits for them."""

import time

import torch
from torch import Tensor


class Meter:
    """Losses, hits and the first step whose loss was not finite, summed up since the epoch began.

    kept: what `state` gave before the run was stopped.
    """

    def __init__(self, accelerator, kept: dict | None = None) -> None:
        self.accelerator = accelerator
        self.sums = torch.tensor(kept["sums"] if kept else [0.0] * 4, device=accelerator.device)
        self.started = time.monotonic() - (kept["seconds"] if kept else 0)
        self.first_bad = torch.full((), float("inf"), device=accelerator.device)

    def add(self, step: int, logits: Tensor, labels: Tensor, cross_entropy: Tensor, distill_loss: Tensor) -> None:
        """Count one step of this process. labels: [batch] or, mixed, [batch, classes]."""
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        images = torch.full_like(cross_entropy, len(labels))
        hits = (logits.argmax(1) == classes).sum()
        self.sums += torch.stack([cross_entropy * images, distill_loss * images, hits, images])
        finite = torch.isfinite(cross_entropy + distill_loss)
        self.first_bad = torch.minimum(self.first_bad, torch.where(finite, float("inf"), float(step)))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def state(self) -> dict:
        """This process's sums as plain values."""
        return {"sums": self.sums.tolist(), "seconds": self.seconds}

    def read(self, broken: int = 0) -> dict[str, float]:
        """Means over all processes' images so far, "first_bad": a step number, or infinity, and the sum of `broken`."""
        own = torch.tensor([broken], dtype=torch.float32, device=self.sums.device)
        rows = self.accelerator.gather(torch.cat([self.sums, self.first_bad[None], own])[None])
        cross_entropy, distill_loss, hits, images = rows[:, :4].sum(0).tolist()
        return {
            "loss": (cross_entropy + distill_loss) / images,
            "cross_entropy": cross_entropy / images,
            "distill_loss": distill_loss / images,
            "train_top1": 100 * hits / images,
            "images": int(images),
            "first_bad": rows[:, 4].min().item(),
            "broken": int(rows[:, 5].sum().item()),
        }
