"""Where a training step goes, and how near it comes to what the machine can do."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from overhaul import distill, methods, models
from overhaul.data.bench import endless_batches, synthetic
from overhaul.data.loaders import Normalize, TrainLoader, loader_settings, to_size
from overhaul.data.transfer import to_device
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.setups import get
from overhaul.system.accelerator import describe_devices, keep_memory
from overhaul.system.messages import UserError, launched
from overhaul.training import graph
from overhaul.training.build import check_device, check_shares, start_accelerator
from overhaul.training.optimisation import distill_weights, make_ready, total, training_step, update
from overhaul.training.progress import forget_peak, peak_memory
from overhaul.training.teaching import autocast, compiled, low_precision

WARM_UP = graph.WARM_UP + 1  # steps that are not timed; in the last of them a graph is captured
LARGE = (64, 256, 32, 32)  # what the convolution of convolution_flops reads


def make_step(setup: str | Setup, batch_size: int, mixed_precision: str = "no") -> Callable[[Tensor, Tensor], Tensor]:
    """The training loop's own step, optimiser included, over networks with fresh weights: step(images, labels) -> loss.

    setup: a row of SETUPS or its name. images: normalised floats [batch_size, 3, height, width] on any device; labels:
    [batch_size] class numbers; loss: a scalar on the device, cross-entropy and weighted distillation loss. Steps of
    several settings may be run in turn. Raises UserError for an unknown setup or precision.
    """
    return Trial(setup, batch_size, Run(mixed_precision=mixed_precision)).step


class Trial:
    """A setup's networks with fresh weights, and its optimiser, ready to be trained on this process alone."""

    def __init__(self, setup: str | Setup, batch_size: int | None, run: Run) -> None:
        setup = get(setup) if isinstance(setup, str) else setup
        self.run, self.setup = run, replace(setup, batch_size=setup.batch_size if batch_size is None else batch_size)
        self.accelerator = start_accelerator(run)
        check_device(self.setup, run, self.accelerator)
        check_shares(self.setup, run, self.accelerator)
        self.device, self.precision = self.accelerator.device, autocast(self.accelerator)
        self.method, self.teacher = networks(self.setup)
        ready = make_ready(self.method, self.teacher, self.setup, run, self.accelerator)
        self.model, self.optimizer, self.teacher_forward = ready
        self.model.train()
        self.student_stages = compiled(distill.needed(self.method.student, distill.parts(self.method)), run.compile)
        self.loss = compiled(self.method.loss, run.compile)
        self.weight = distill_weights(self.method, self.setup, self.setup.epochs, self.setup.batch_size)
        self.take = graph.graphed(self.body, run.compile)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """See make_step."""
        if len(images) != self.setup.batch_size:
            raise UserError(f"this step takes {self.setup.batch_size} images at once, not {len(images)}")
        return self.take(images.to(self.device, memory_format=torch.channels_last), labels.to(self.device))

    def body(self, images: Tensor, labels: Tensor) -> Tensor:
        networks = self.accelerator, self.model, self.teacher_forward, self.optimizer
        how = images, labels, self.weight, 1, self.setup.label_weight, self.setup.label_smoothing, self.setup.clip_grad
        _, *losses = training_step(*networks, *how)
        return total(*losses, self.setup.label_weight)

    def step_in_pieces(self, images: Tensor, labels: Tensor, lap: Callable[[str], None]) -> None:
        """The same step, with lap(name) after each piece; the loss's gradient is taken apart from the student's."""
        scaler = self.accelerator.scaler
        scaled = scaler.scale if scaler else lambda loss: loss
        stages = self.teacher_forward(images) if self.teacher_forward else None
        lap("teacher")
        with self.precision:
            student = self.student_stages(images)
        cross_entropy, gradients = scaled(self.setup.label_weight * F.cross_entropy(student.logits.float(), labels)), []
        lap("student forward")
        if stages:
            given = [student.logits, *student.features, *student[2:]]
            leaves = [each.detach().requires_grad_() for each in given]
            with self.precision:
                taken = type(student)(
                    leaves[0], leaves[1 : 1 + len(student.features)], *leaves[1 + len(student.features) :]
                )
                distill_loss = (self.weight * self.loss(taken, stages, labels)).sum()
            scaled(distill_loss).backward()
            gradients = [(each, leaf.grad) for each, leaf in zip(given, leaves, strict=True) if leaf.grad is not None]
        lap("connectors and loss")
        torch.autograd.backward(*zip((cross_entropy, None), *gradients, strict=True))
        lap("backward")
        update(self.accelerator, self.optimizer)
        lap("optimiser")


def networks(setup: Setup) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """A module of distill.make and its teacher, both with fresh weights."""
    torch.manual_seed(0)
    teacher = None
    if methods.needs(setup.method):
        teacher = models.create(setup.teacher, setup.teacher.image_size or setup.image_size)
        teacher = distill.as_teacher(teacher, setup.of_methods("teacher_norm")[0])
    student = models.create(setup.student, setup.image_size)
    module = distill.make(setup.method, student, teacher, setup.method_settings)
    for part in distill.parts(module):
        if measured := getattr(part, "measured", {}):
            part.set_margins([torch.full((teacher.widths[j],), -0.5) for j in measured.values()])
    return module, teacher


def bench(setup: str, run: Run, batch_size: int | None = None, steps: int = 10) -> dict:
    """Where the steps of a setup go, on this process alone, over synthetic images that the loop's own loader brings.

    Medians of `steps` steps, whole and in pieces in turn. Seconds under "pieces" (data, teacher, student forward,
    connectors and loss with their gradient, backward, optimiser) and "step", which is without the data; on a CUDA GPU
    those of its own clock, where data that were made while it computed take no time. Bytes under "peak_memory": of a
    CUDA GPU, or else of this process, all that it has loaded included; a second's floating point operations, a
    multiplication and an addition apart, under "flops" (of the networks' convolutions and products) and
    "convolution_flops" (of a large convolution in the same precision).
    """
    if launched("WORLD_SIZE", 1) > 1:
        raise UserError("overhaul bench measures one process; start it without a launcher")
    trial = Trial(setup, batch_size, run)
    pieces, peak = measure(trial, steps)
    step, images = pieces.pop("step"), trial.setup.batch_size
    precision = low_precision(trial.accelerator) or torch.float32
    return {
        "setup": trial.setup.name,
        "method": trial.setup.method,
        "device": describe_devices(trial.accelerator),
        "compile": run.compile,
        "batch_size": images,
        "steps": steps,
        "pieces": pieces,
        "step": step,
        "images_per_second": images / step,
        "flops": operations(trial.setup) * images / step,
        "convolution_flops": convolution_flops(trial.device, precision),
        "peak_memory": peak,
    }


def measure(trial: Trial, steps: int) -> tuple[dict[str, float], int]:
    """Median seconds of a step and its pieces, and the peak memory of a step: a GPU's once its kernels are chosen."""
    keep_memory(trial.device)
    clock, batches = Clock(trial.device), batches_on_device(trial)
    measured = WARM_UP if trial.device.type == "cuda" else 0
    for number in range(WARM_UP + steps):
        batch = next(batches)
        clock("data")
        if number == measured:
            forget_peak(trial.device)
        trial.step(*batch)
        clock("step")
        if number == measured:
            peak = peak_memory(trial.device)
        trial.step_in_pieces(*batch, clock)
    return clock.medians(WARM_UP), peak


class Clock:
    """Seconds between calls, by the name of what has ended; nothing waits for a CUDA GPU until they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks = [("start", self.now())]

    def __call__(self, name: str) -> None:
        self.marks.append((name, self.now()))

    def now(self) -> "float | torch.cuda.Event":
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def medians(self, warm_up: int = 0) -> dict[str, float]:
        """Of what has ended several times, but for the first times."""
        on_cuda, laps = self.device.type == "cuda", {}
        if on_cuda:
            torch.cuda.synchronize()
        for (_, before), (name, after) in pairwise(self.marks):
            laps.setdefault(name, []).append(before.elapsed_time(after) / 1000 if on_cuda else after - before)
        return {name: statistics.median(seconds[warm_up:]) for name, seconds in laps.items()}


def batches_on_device(trial: Trial) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches as the loop gets them, of synthetic images."""
    setup = trial.setup
    images = synthetic(setup, max(64, setup.batch_size) if setup.crop_area else 10_000)
    how = loader_settings(images, trial.run, trial.accelerator)
    loader = TrainLoader(images, setup, trial.run.seed, **how, device=trial.device)
    normalize = Normalize(setup.mean, setup.std, trial.device)
    while loader.resident:
        for drawn in loader:
            images, labels = loader.resident.make(*drawn)
            yield normalize(images), labels
    for pixels, labels, _ in endless_batches(loader):
        yield normalize(pixels.permute(0, 3, 1, 2)), to_device(labels, trial.device)


def operations(setup: Setup) -> int:
    """Floating point operations of a step for an image: the teacher's pass, and three times the student's.

    The gradient counts as two passes: PyTorch's counter takes a depthwise convolution's for a dense one's. Counted are
    convolutions and products of matrices, those of the connectors too.
    """
    method, teacher = networks(setup)
    images, counts, stages = torch.zeros(2, 3, setup.image_size, setup.image_size), [0], None
    with torch.no_grad():
        if teacher:
            with FlopCounterMode(display=False) as counter:
                stages = distill.needed(teacher, distill.parts(method))(to_size(images, setup.teacher.image_size))
            counts.append(counter.get_total_flops() * len({*setup.of_methods("teacher_norm")}))
        with FlopCounterMode(display=False) as counter:
            method(images, stages, torch.zeros(len(images), dtype=torch.int64))
    return (sum(counts) + 3 * counter.get_total_flops()) // len(images)


def convolution_flops(device: torch.device, precision: torch.dtype) -> float:
    """Floating point operations a second of a 3x3 convolution from 256 to 256 channels.

    The median of nine; on other devices than a CPU of nine times a hundred, as one is over sooner than it is called.
    """
    images = torch.randn(LARGE, device=device, dtype=precision).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(LARGE[1], LARGE[1], 3, padding=1, bias=False, device=device, dtype=precision)
    convolution.to(memory_format=torch.channels_last)
    clock, calls = Clock(device), 1 if device.type == "cpu" else 100
    with torch.no_grad():
        for _ in range(9):
            for _ in range(calls):
                convolution(images)
            clock("convolutions")
    return calls * 2 * images.numel() * 9 * LARGE[1] / clock.medians()["convolutions"]
