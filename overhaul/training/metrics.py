"""The sums of a training epoch, kept on the device so that no step waits for them, and whether they are sound."""

import math
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

LOOK = 1.0  # seconds, at the least, between two looks at the sums on the device


class Meter:
    """Losses, hits and images, summed up since the epoch began, and its steps up to the first without a finite loss.

    The sums stay where they are on the device. setup: whose losses they are.
    """

    def __init__(self, accelerator, setup: Setup) -> None:
        self.accelerator, self.label_weight, self.methods = accelerator, setup.label_weight, setup.methods
        self.sums = torch.zeros(3 + len(setup.methods), device=accelerator.device)
        self.finite_steps, self.one = torch.tensor([0.0, 1.0], device=accelerator.device)
        self.factors = {}  # by the number of images
        self.ahead = accelerator.device.type == "cuda"  # the host, of the device
        self.begin()

    def begin(self, kept: dict | None = None, steps: int = 0) -> None:
        """Begin an epoch. kept: what `state` gave before the run was stopped; steps: those that were done then."""
        if kept and len(kept["sums"]) != len(self.sums):
            raise UserError("the sums of the epoch in the checkpoint are of other losses; go on from the one before")
        self.sums.copy_(torch.tensor(kept["sums"] if kept else [0.0] * len(self.sums)))
        self.finite_steps.fill_(steps)
        self.started = time.monotonic() - (kept["seconds"] if kept else 0)
        self.looked, self.on_the_way = time.monotonic(), None

    def add(self, logits: Tensor, labels: Tensor, cross_entropy: Tensor, distill_loss: Tensor) -> None:
        """Count one step of this process; see training_step. labels: [batch] or, mixed, [batch, classes]."""
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        hits = (logits.argmax(1) == classes).sum(dtype=torch.float32)
        found = torch.stack([cross_entropy, *distill_loss.reshape(-1).unbind(), hits, self.one])
        self.sums += found * self.factor(len(labels))
        self.finite_steps += self.sums.sum().abs() < math.inf

    def factor(self, images: int) -> Tensor:
        """What makes sums of a step's means, its hits and 1."""
        if images not in self.factors:
            losses = [float(images)] * (1 + len(self.methods))
            self.factors[images] = torch.tensor([*losses, 1.0, images], device=self.sums.device)
        return self.factors[images]

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def old(self) -> bool:
        """Whether it is time for a look."""
        return time.monotonic() - self.looked > LOOK

    def state(self) -> dict:
        """This process's sums as plain values."""
        return {"sums": self.sums.tolist(), "seconds": self.seconds}

    def read(self, broken: int = 0) -> dict[str, float]:
        """Means over all processes' images so far, the first step not finite, or infinity, and all `broken`.

        The distillation losses are weighted, of a sum also apart; the cross-entropy is not.
        """
        return self.means(self.gather(broken).cpu())

    def look(self, broken: int = 0) -> tuple[dict[str, float], float] | None:
        """As read, and the seconds until then; on a GPU those of the look before, as nothing waits for this one's."""
        self.looked, seconds, rows = time.monotonic(), self.seconds, self.gather(broken)
        if not self.ahead:
            return self.means(rows.cpu()), seconds
        before, self.on_the_way = self.on_the_way, (rows.to("cpu", non_blocking=True), torch.cuda.Event(), seconds)
        self.on_the_way[1].record()
        if before is None:
            return None
        before[1].synchronize()
        return self.means(before[0]), before[2]

    def gather(self, broken: int) -> Tensor:
        """The sums, the finite steps and `broken` of each process: [processes, sums + 2]."""
        own = torch.stack([self.finite_steps, torch.full_like(self.one, broken)])
        return gathered(self.accelerator, torch.cat([self.sums, own])[None])

    def means(self, rows: Tensor) -> dict[str, float]:
        """See read."""
        cross_entropy, *each, hits, images = rows[:, :-2].sum(0).tolist()
        distill_loss = sum(each)
        by_method = {f"distill_loss.{name}": loss / images for name, loss in zip(self.methods, each, strict=True)}
        ended = rows[~rows.isfinite().all(1), -2] + 1
        return {
            "loss": (self.label_weight * cross_entropy + distill_loss) / images,
            "cross_entropy": cross_entropy / images,
            "distill_loss": distill_loss / images,
            **(by_method if len(each) > 1 else {}),
            "train_top1": 100 * hits / images,
            "images": int(images),
            "first_nonfinite_step": min(ended.tolist(), default=math.inf),
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
