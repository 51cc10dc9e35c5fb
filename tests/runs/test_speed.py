"""How much faster steps and images come than in the release: pytest -m speed, on a machine with nothing else to do."""

import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.places import REPOSITORY
from support.plain_step import make_plain_step, plain_distance
from support.release_data import release_loader
from support.runs import DIGITS_TEACHER
from support.timing import seconds

from overhaul import distill
from overhaul.bench import Trial, make_step
from overhaul.data import bench as data
from overhaul.data.loaders import TrainLoader
from overhaul.distill import overhaul
from overhaul.options import Run
from overhaul.run.folder import RunFolder
from overhaul.setups import SETUPS
from overhaul.training.build import build
from overhaul.training.optimisation import training_step
from overhaul.training.optimizer import make_optimizer
from overhaul.training.progress import Progress
from overhaul.training.trainer import Trainer

pytestmark = pytest.mark.speed

BATCH = {"cifar_a": 128, "cifar_c": 128, "cifar_d": 128, "cifar_e": 16, "imagenet_b": 32}
LEAST = {"no": 1.1, "bf16": 1.7}  # times the plain step, where a machine is bound by its convolutions


@pytest.mark.parametrize("name", BATCH)
def test_a_step_beside_the_plain_one(name):
    setup, n = SETUPS[name], BATCH[name]
    images = torch.randn(n, 3, setup.image_size, setup.image_size)
    labels = torch.randint(setup.student.kwargs["num_classes"], (n,))
    steps = [make_plain_step(name), *(make_step(name, n, precision) for precision in LEAST)]
    plain, *ours = seconds(steps, images, labels, rounds=5)
    ratios = {precision: plain / each for precision, each in zip(LEAST, ours, strict=True)}
    print(f"\n{name}: plain {n / plain:.1f} images/s; times that:", {key: round(r, 2) for key, r in ratios.items()})
    assert all(ratios[precision] > least for precision, least in LEAST.items()), ratios


def step_without(switch: str):
    """A step of cifar_c in bf16, without one of the things that make it fast."""
    trial = Trial("cifar_c", BATCH["cifar_c"], Run(mixed_precision="no" if switch == "bf16" else "bf16"))
    layout = torch.contiguous_format if switch == "channels_last" else torch.channels_last
    trial.model.to(memory_format=layout)
    trial.teacher.to(memory_format=layout)
    teach = trial.teacher_forward
    if switch == "no graph of the teacher":
        trial.teacher.requires_grad_(True)
        teach = trial.precision(trial.teacher.forward_stages)
    if switch == "fused SGD":
        trial.optimizer.param_groups[0]["fused"] = False

    def step(images, labels) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if switch == "fused loss":
                patch.setattr(overhaul, "partial_l2", lambda *maps: plain_distance(*maps) / len(maps[0]))
            if switch == "in-place ReLU":
                patch.setattr(F, "relu_", torch.relu)
                patch.setattr(F, "relu", lambda x, inplace=False: torch.relu(x))
            how = images.to(memory_format=layout), labels, trial.setup.distill_weight
            training_step(trial.accelerator, trial.model, teach, trial.optimizer, *how)

    return step


def test_what_each_switch_brings():
    """The last three save memory more than time, and have no bound."""
    images, labels = torch.randn(BATCH["cifar_c"], 3, 32, 32), torch.randint(100, (BATCH["cifar_c"],))
    switches = ["bf16", "channels_last", "fused loss", "no graph of the teacher", "in-place ReLU", "fused SGD"]
    whole, *others = seconds([step_without(each) for each in ("nothing", *switches)], images, labels, rounds=7)
    lost = {switch: 100 * (taken / whole - 1) for switch, taken in zip(switches, others, strict=True)}
    print(
        f"\ncifar_c, bf16, {1000 * whole:.0f} ms a step; longer without, in %:", {k: round(v) for k, v in lost.items()}
    )
    assert lost["bf16"] > 50 and lost["fused loss"] > 3 and lost["channels_last"] > 3, lost


@pytest.mark.parametrize(
    ("kind", "read", "least"), [("imagenet_sample", data.jpegs, 1.3), ("cifar100", data.small_images, 20)]
)
def test_images_come_faster_than_in_the_release(kind, read, least, shared, tmp_path):
    """One core each, in turn; the median of the rounds' ratios."""
    with data.one_thread():
        _, images, setup, workers = read(str(shared / "data" / kind))
        loader = TrainLoader(images, setup, seed=0, workers=workers)
        release, found = release_loader(images, setup, tmp_path), []
        for _ in range(5):
            ours = data.images_per_second(data.endless_batches(loader), seconds=4)
            found.append((ours, data.images_per_second(release, seconds=4)))
    ratios = [ours / theirs for ours, theirs in found]
    ours, theirs = map(statistics.median, zip(*found, strict=True))
    ratio, spread = statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"\n{kind}: {ours:,.0f} images/s, the release {theirs:,.0f}; ratio {ratio:.2f} ({spread})")
    assert ratio > least, ratios


def test_what_the_loop_adds_to_a_step(monkeypatch, tmp_path):
    """To one of a tiny network written plainly, making the batch apart: the meter, signs of life, questions."""
    setup = replace(DIGITS_TEACHER, image_size=8, batch_size=8)
    of, network = build(setup, Run()), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    model = distill.make("original", network, None)
    of.model, of.optimizer = of.accelerator.prepare(model, make_optimizer(model, setup))
    trainer = Trainer(**vars(of), folder=RunFolder(tmp_path, Run()), show=True)
    trainer.progress = Progress(steps=10**6)
    trainer.pace = None
    batches, optimizer = list(trainer.train_loader), trainer.optimizer.optimizer
    on_device = [trainer.step.normalized(*batch) for batch in batches]
    monkeypatch.setattr(TrainLoader, "__iter__", lambda loader: iter(batches))

    def loop(*_) -> None:
        trainer.state.step = 0
        trainer.train_epoch()

    def plain(*_) -> None:
        for images, labels in on_device:
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    def making(*_) -> None:
        for batch in batches:
            trainer.step.normalized(*batch)

    with data.one_thread():
        taken = seconds([loop, plain, making], torch.zeros(1), None, rounds=15)
    in_loop, alone, made = (1e6 * each / len(batches) for each in taken)
    added = in_loop - alone - made
    print(f"\na step of {alone:.0f} us: the loop adds {added:.0f} us, its batch {made:.0f} us more")
    assert added <= 120


PEAK = """
import sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
from overhaul.bench import make_step
from overhaul.setups import SETUPS
from support.plain_step import make_plain_step

kind, name, n = sys.argv[2], sys.argv[3], int(sys.argv[4])
setup = SETUPS[name]
step = make_plain_step(name) if kind == "plain" else make_step(name, n, kind)
images = torch.randn(n, 3, setup.image_size, setup.image_size)
labels = torch.randint(setup.student.kwargs["num_classes"], (n,))

def kib(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

before = kib("VmRSS")
for _ in range(3):
    step(images, labels)
print(kib("VmHWM") - before)
"""


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("name", ["cifar_c", "cifar_e"])
def test_a_step_needs_at_most_half_the_memory(name, precision):
    """What steps add to the peak of their process, whose libraries and networks are the same."""

    def peak(kind: str) -> int:
        command = [sys.executable, "-c", PEAK, str(REPOSITORY / "tests"), kind, name, str(BATCH[name])]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    plain, ours = peak("plain"), peak(precision)
    print(f"\n{name}, {precision}: {ours / 1024:.0f} of {plain / 1024:.0f} MiB ({100 * ours / plain:.0f} %)")
    assert ours <= plain / 2
