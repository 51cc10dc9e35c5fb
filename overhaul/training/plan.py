"""What a run will cost, said before it is paid: networks, features, steps, and the pace of the first steps."""

import resource
import sys
import time

import torch
from torch import nn

from overhaul import models
from overhaul.setups import Net
from overhaul.training.build import Job
from overhaul.training.progress import duration, millions

WARM_UP, MEASURED = 3, 8  # steps: those not timed, and the last one timed


def plan_lines(job: Job) -> str:
    """Parameters and feature shapes of teacher, student and connectors, and how the steps are made up."""
    setup, world = job.setup, job.accelerator.num_processes
    lines, connectors, shapes = [], job.method.connectors, {}
    for role, net, network in (("teacher", setup.teacher, job.teacher), ("student", setup.student, job.student)):
        if network is not None:
            shapes[role] = ["x".join(map(str, shape)) for shape in feature_shapes(net, setup.image_size)]
            lines.append(f"  {role:11}{net} ({parameters(network)} parameters), features {', '.join(shapes[role])}")
    if len(connectors):
        pairs = zip(shapes["student"], shapes["teacher"], strict=True)
        maps = ", ".join(f"{mine} -> {target}" for mine, target in pairs)
        lines.append(f"  connectors {maps} ({parameters(connectors)} parameters, thrown away afterwards)")
    parts = f" in {job.parts} parts" if job.parts > 1 else ""
    steps = len(job.train_loader)
    lines.append(
        f"  steps      {setup.epochs} epochs x {steps:,} = {setup.epochs * steps:,}, each of {setup.batch_size} images"
        f" ({world} x {setup.batch_size // world}{parts})"
    )
    return "\n".join(lines)


def parameters(module: nn.Module) -> str:
    return millions(sum(p.numel() for p in module.parameters()))


def feature_shapes(net: Net, size: int) -> list[tuple[int, ...]]:
    """(channels, height, width) of each feature map of images of size x size; nothing is computed."""
    with torch.device("meta"):
        features = models.create(net).forward_stages(torch.empty(2, 3, size, size)).features
    return [tuple(feature.shape[1:]) for feature in features]


class Pace:
    """The peak memory of the first step and the images a second after warm-up.

    The caller reads a value from the device at each of `looks`, steps of the running epoch, so that its clock and the
    device's agree. steps: those still to be trained; first: those of the epoch that are done.
    """

    def __init__(self, job: Job, steps: int, first: int = 0) -> None:
        self.job, self.steps, self.first = job, steps, first
        last = min(MEASURED, len(job.train_loader) - first)
        self.looks = {first + each for each in (1, min(WARM_UP, last - 1), last) if each > 0}
        self.started, self.memory = (first, time.monotonic()), 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def look(self, step: int) -> str | None:
        """To be called after the steps in `looks`; after the last of them, what to say."""
        now = (step, time.monotonic())
        if step == self.first + 1:
            self.memory = peak_memory()
        if step < max(self.looks):
            self.started = now
            return None
        steps, seconds = (after - before for before, after in zip(self.started, now, strict=True))
        pace = steps * self.job.setup.batch_size / seconds
        left = self.steps * self.job.setup.batch_size / pace
        timed = f"steps {self.started[0] + 1} to {step}"
        return (
            f"  pace       {pace:.3g} images/s ({timed}): about {duration(left)} of training to come, tests apart\n"
            f"  memory     {self.memory / 2**30:.2f} GiB at the peak of the first step, of "
            f"{'the GPU' if torch.cuda.is_available() else 'this process, all that it has loaded included'}"
        )


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process, all that it has loaded included."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
