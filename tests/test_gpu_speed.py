"""How fast a GPU trains, as a table beside the plain step, and what the loop adds to a step: -m "gpu and speed" -s."""

import statistics
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel
from support.gpu import on
from support.images import some_split, write_parquet
from support.speeds import Speed, compare, table, wait

from overhaul import hub, models
from overhaul.options import Run
from overhaul.run.folder import RunFolder
from overhaul.setups import SETUPS
from overhaul.training.build import build
from overhaul.training.trainer import Trainer

IMAGES = {  # a step; of imagenet_a's 256 the plain step, which keeps the teacher's graph, needs more than a GPU has
    **dict.fromkeys(("cifar_a", "cifar_c", "cifar_d"), 128),
    **{"cifar_f": 64, "imagenet_a": 64, "imagenet_b": 256},
}


@pytest.mark.speed
@pytest.mark.parametrize(("device", "name", "images"), [*on("cuda", *IMAGES.items()), *on("cpu", ("cifar_c", 4))])
def test_a_step_beside_the_plain_one(device, name, images):
    """Which has the fastest kernels and TF32 too."""
    found = compare(name, images, device, seconds=2 if device == "cuda" else 0.1)
    print(f"\n{table(name, images, found)}", flush=True)
    assert all(isinstance(each, Speed) for each in found.values()), found
    if device == "cuda":
        plain = found.pop("plain")
        assert all(each.seconds < plain.seconds and each.peak_bytes < plain.peak_bytes for each in found.values())


def make_trainer(steps: int, images: int, run: Run, folder: Path) -> Trainer:
    """A loop over cifar_c's networks and so many steps of images in memory, as if past its first epoch."""
    torch.manual_seed(0)
    row, classes = replace(SETUPS["cifar_c"], batch_size=images), list(map(str, range(100)))
    hub.save(folder / "teacher", models.create(row.teacher), replace(row, student=row.teacher), classes)
    splits = {
        split: some_split(n, "image", "label", [i % 100 for i in range(n)], ClassLabel(names=classes))
        for split, n in (("train", steps * images), ("test", 100))
    }
    run = replace(run, data_path=write_parquet(folder / "data", **splits))
    setup = replace(row, teacher=replace(row.teacher, weights=str(folder / "teacher")))
    trainer = Trainer(**vars(build(setup, run)), folder=RunFolder(folder / "run", run), show=False)
    trainer.state.metrics.append({})
    trainer.open_progress()
    return trainer


@pytest.mark.speed
@pytest.mark.parametrize(
    ("device", "steps", "images", "compile"), [*on("cuda", (50, 128, "graph")), *on("cpu", (2, 16, "no"))]
)
def test_the_loop_adds_less_than_a_twentieth_to_a_step(device, steps, images, compile, tmp_path):
    """Batches, meter, signs of life and questions, to the step of one and the same batch, again and again."""
    trainer = make_trainer(steps, images, Run(mixed_precision="bf16", compile=compile), tmp_path)
    assert len(trainer.train_loader) == steps

    def loop() -> None:
        trainer.state.step = 0
        trainer.train_epoch()

    def alone() -> None:
        for _ in range(steps):
            trainer.step(*batch)

    loop()
    (batch,) = islice(trainer.train_loader, 1)
    taken = {loop: [], alone: []}
    for _ in range(5 if device == "cuda" else 1):
        for way, seconds in taken.items():
            wait(device)
            started = time.perf_counter()
            way()
            wait(device)
            seconds.append((time.perf_counter() - started) / steps)
    in_loop, step = (1e3 * statistics.median(seconds) for seconds in taken.values())
    print(f"\na step takes {step:.2f} ms by itself and {in_loop:.2f} ms in the loop", flush=True)
    assert device == "cpu" or in_loop < 1.05 * step
