"""The sums of a training epoch, kept on the device so that no step waits for them, and whether they are sound."""

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from overhaul.recipe import Setup
from overhaul.run import checkpoints
from overhaul.run.state import State
from overhaul.system.accelerator import all_finite
from overhaul.system.messages import UserError
from overhaul.system.processes import gathered, sync_buffers

READ_EVERY = 20  # steps between two looks at the sums on the device


class Meter:
    """Losses, hits and the first step whose loss was not finite, summed up since the epoch began.

    setup: whose losses they are. kept: what `state` gave before the run was stopped.
    """

    def __init__(self, accelerator, setup: Setup, kept: dict | None = None) -> None:
        self.accelerator, self.label_weight, self.methods = accelerator, setup.label_weight, setup.methods
        sums = kept["sums"] if kept else [0.0] * (3 + len(setup.methods))
        self.sums = torch.tensor(sums, device=accelerator.device)
        self.started = time.monotonic() - (kept["seconds"] if kept else 0)
        self.first_nonfinite_step = torch.full((), float("inf"), device=accelerator.device)

    def add(self, step: int, logits: Tensor, labels: Tensor, cross_entropy: Tensor, distill_loss: Tensor) -> None:
        """Count one step of this process; see training_step. labels: [batch] or, mixed, [batch, classes]."""
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        images = torch.full_like(cross_entropy, len(labels))
        hits = (logits.argmax(1) == classes).sum()
        self.sums += torch.stack([cross_entropy * images, *(distill_loss * images).reshape(-1), hits, images])
        finite = torch.isfinite(cross_entropy + distill_loss.sum())
        nonfinite_step = torch.where(finite, float("inf"), float(step))
        self.first_nonfinite_step = torch.minimum(self.first_nonfinite_step, nonfinite_step)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def state(self) -> dict:
        """This process's sums as plain values."""
        return {"sums": self.sums.tolist(), "seconds": self.seconds}

    def read(self, broken: int = 0) -> dict[str, float]:
        """Means over all processes' images so far, the first step not finite, or infinity, and all `broken`.

        The distillation losses are weighted, of a sum also apart; the cross-entropy is not.
        """
        own = torch.tensor([broken], dtype=torch.float32, device=self.sums.device)
        rows = gathered(self.accelerator, torch.cat([self.sums, self.first_nonfinite_step[None], own])[None])
        cross_entropy, *each, hits, images = rows[:, :-2].sum(0).tolist()
        distill_loss = sum(each)
        by_method = {f"distill_loss.{name}": loss / images for name, loss in zip(self.methods, each, strict=True)}
        return {
            "loss": (self.label_weight * cross_entropy + distill_loss) / images,
            "cross_entropy": cross_entropy / images,
            "distill_loss": distill_loss / images,
            **(by_method if len(each) > 1 else {}),
            "train_top1": 100 * hits / images,
            "images": int(images),
            "first_nonfinite_step": rows[:, -2].min().item(),
            "broken": int(rows[:, -1].sum().item()),
        }


def check_means(means: dict, loader, epoch: int, setup: Setup, folder: Path) -> dict:
    """What Meter.read gave, for metrics.jsonl; UserError where it shows that the run must not go on."""
    broken = means.pop("broken")
    if (step := means.pop("first_nonfinite_step")) < float("inf"):
        where = f"step {int(step)} of epoch {epoch + 1} (step {epoch * len(loader) + int(step)} of the run)"
        raise UserError(not_finite(f"the loss is no longer finite at {where}", setup, folder))
    if broken > loader.skip_broken:
        raise UserError(f"{broken} images in epoch {epoch + 1} are broken, and --skip_broken allows fewer")
    return {**means, "broken": broken} if broken else means


def check_weights(model: nn.Module, state: State, setup: Setup, folder: Path) -> None:
    """Take over the main process's BatchNorm statistics; UserError where a weight is not a finite number."""
    sync_buffers(model)
    if not all_finite(model):
        raise UserError(not_finite(f"the weights are no longer finite {state.where}", setup, folder))


def not_finite(what: str, setup: Setup, folder: Path) -> str:
    kept = checkpoints.found(folder)
    last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
    weight = " and ".join(f"{each:g}" for each in setup.of_methods("distill_weight"))
    lower = f"lower --lr ({setup.lr:g}) or --distill_weight ({weight})"
    return f"{what}; {lower} and start anew; {last}"
