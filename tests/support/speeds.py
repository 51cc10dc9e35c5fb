"""How fast ways to train a setup are, on the device of this session: images a second, launches, memory."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from overhaul.bench import Trial
from overhaul.options import Run
from overhaul.setups import SETUPS
from overhaul.training.build import start_accelerator
from support.plain_step import make_plain_step

WAYS = {  # to write a step, beside the plain one
    "fp32": {},
    "bf16": {"mixed_precision": "bf16"},
    "graph": {"mixed_precision": "bf16", "compile": "graph"},
}
WARM_UP, ROUNDS = 5, 3


class Speed(NamedTuple):
    """Of a step: its share of so many rounds of steps; until its call returns; on a GPU alone the last three.

    launches: kernels and copies, of which a graph's count too; busy: while one of them ran.
    """

    seconds: float
    host_seconds: float
    launches: int = 0
    busy_seconds: float = 0.0
    peak_bytes: int = 0


def make_way(way: str, name: str, images: int, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    start_accelerator(Run())  # so that the plain step has the fastest kernels and TF32 too
    return make_plain_step(name, device) if way == "plain" else Trial(name, images, Run(**WAYS[way])).step


def batch(name: str, images: int, device: str) -> tuple[Tensor, Tensor]:
    setup = SETUPS[name]
    pixels = torch.randn(images, 3, setup.image_size, setup.image_size, device=device)
    return pixels, torch.randint(setup.student.kwargs["num_classes"], (images,), device=device)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(step: Callable, given: tuple[Tensor, Tensor], seconds: float) -> Speed:
    """Rounds of so many seconds, with a wait at the end of each alone; their median."""
    device = given[0].device.type
    for number in range(WARM_UP):
        if device == "cuda" and number == 2:
            torch.cuda.reset_peak_memory_stats()  # of the steps that chose kernels; a graph is captured in the next
        step(*given)
    taken = statistics.median(seconds_of(step, given, seconds) for _ in range(ROUNDS))
    started = time.perf_counter()
    step(*given)
    host = time.perf_counter() - started
    if device == "cpu":
        return Speed(taken, host)
    return Speed(taken, host, *kernels(step, given), torch.cuda.max_memory_allocated())


def seconds_of(step: Callable, given: tuple[Tensor, Tensor], seconds: float) -> float:
    """A step's share of a round."""
    wait(given[0].device.type)
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step(*given)
        steps += 1
        if steps % 10 == 0:
            wait(given[0].device.type)  # else the host would run ahead of the GPU
    wait(given[0].device.type)
    return (time.perf_counter() - started) / steps


def kernels(step: Callable, given: tuple[Tensor, Tensor]) -> tuple[int, float]:
    """How many a step launches, and the seconds that they take; zeros where the profiler sees no GPU."""
    wait("cuda")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step(*given)
        wait("cuda")
    on_gpu = [each for each in seen.events() if each.device_type == torch.autograd.DeviceType.CUDA]
    return len(on_gpu), sum(each.device_time for each in on_gpu) / 1e6


def compare(name: str, images: int, device: str, seconds: float) -> dict[str, Speed | Exception]:
    """Each way by itself, the plain one first; what one raises stands in its place."""
    found = {}
    for way in ("plain", *WAYS) if device == "cuda" else ("plain", "fp32", "bf16"):
        try:
            found[way] = measure(make_way(way, name, images, device), batch(name, images, device), seconds)
        except Exception as error:
            found[way] = error
        gc.collect()  # the networks, before the next ones are made
        if device == "cuda":
            torch.cuda.empty_cache()
    return found


def table(name: str, images: int, found: dict[str, Speed | Exception]) -> str:
    """In Markdown."""
    head = ["way", "images/s", "ratio", "ms", "ms of the host", "launches", "ms busy", "GiB at the peak"]
    lines = [f"{name}, {images} images a step", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for way, each in found.items():
        if isinstance(each, Exception):
            lines.append(f"| {way} | {type(each).__name__}: {str(each).splitlines()[:1]} |")
            continue
        plain = found["plain"]
        ratio = f"{plain.seconds / each.seconds:.2f}" if isinstance(plain, Speed) else "-"
        cells = f"{images / each.seconds:,.0f}", ratio, f"{1e3 * each.seconds:.2f}", f"{1e3 * each.host_seconds:.2f}"
        cells += str(each.launches), f"{1e3 * each.busy_seconds:.2f}", f"{each.peak_bytes / 2**30:.2f}"
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)
