"""What the loop turns, put together once: data, teacher, student, optimiser."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from overhaul import models
from overhaul.data import sources
from overhaul.data.loaders import EvalLoader, Normalize, TrainLoader
from overhaul.data.streaming import EvalStream, TrainStream, open_streams
from overhaul.data.workers import deaths_explained
from overhaul.distill import overhaul as distill
from overhaul.hub import config as model_config
from overhaul.hub import weights as hub
from overhaul.options import Run
from overhaul.setups import SETUPS, Net, Setup, get, same_net, teacher_setup
from overhaul.system import accelerator as engine
from overhaul.system.messages import choose
from overhaul.training.evaluation import evaluate
from overhaul.training.optimisation import Teach, make_ready


@dataclass
class Job:
    """A setup made ready on this process.

    setup: as the data and the teacher have resolved it. parts: of a batch, one after the other (gradient accumulation).
    origin: where the teacher's weights come from, without them.
    """

    setup: Setup
    accelerator: Accelerator
    model: nn.Module
    teacher: nn.Module | None
    teach: Teach | None
    optimizer: torch.optim.Optimizer
    train_loader: TrainLoader | TrainStream
    test_loader: EvalLoader | EvalStream
    normalize: Normalize
    classes: tuple[str, ...]
    parts: int
    origin: hub.Weights | None

    @property
    def method(self) -> nn.Module:
        """The module of distill.METHODS, outside every wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def student(self) -> nn.Module:
        return self.method.student

    def evaluate(self, net: nn.Module, rounds: Callable[[Iterable], Iterable] = iter) -> dict:
        """Accuracy of the teacher or the bare student over the test set; leaves it in eval mode.

        rounds: see evaluation.evaluate.
        """
        return evaluate(net, self.test_loader, self.normalize, self.accelerator, rounds)


def make_job(setup: Setup, run: Run, accelerator: Accelerator) -> Job:
    """The job of a setup; ValueError for data, a teacher or a network that cannot be had or do not go together."""
    check_shares(setup, run, accelerator)
    method = distill.METHODS[choose("--method", setup.method, tuple(distill.METHODS))]
    if not method.needs_teacher:
        setup = replace(setup, teacher=None)
    elif setup.teacher is None or not setup.teacher.weights:
        raise ValueError(no_teacher(setup))
    num_classes = setup.num_classes or setup.student.kwargs.get("num_classes", 0)
    train_loader, test_loader = make_loaders(setup, run, num_classes, accelerator)
    classes = train_loader.images.classes
    setup, teacher, origin = fit_to_classes(setup, len(classes)), None, None
    if setup.teacher:
        source = engine.agreed(accelerator, lambda: hub.pinned(setup.teacher.weights))
        with accelerator.main_process_first():
            setup, teacher, origin = load_teacher(setup, source)
    setup = unpublished_if_changed(setup)
    set_seed(run.seed)
    model = method(models.create(setup.student), teacher)
    model, optimizer, teach = make_ready(model, teacher, setup, run, accelerator)
    return Job(
        setup=setup,
        accelerator=accelerator,
        model=model,
        teacher=teacher,
        teach=teach,
        optimizer=optimizer,
        train_loader=train_loader,
        test_loader=test_loader,
        normalize=Normalize(setup.mean, setup.std, accelerator.device),
        classes=classes,
        parts=run.gradient_accumulation_steps,
        origin=origin,
    )


def check_shares(setup: Setup, run: Run, accelerator: Accelerator) -> None:
    """ValueError for a batch that cannot be shared out, or for what this device cannot do."""
    world, parts, on_cpu = accelerator.num_processes, run.gradient_accumulation_steps, accelerator.device.type == "cpu"
    shares = f"{world} processes" if parts == 1 else f"{world} processes x {parts} gradient accumulation steps"
    if setup.batch_size % (world * parts):
        raise ValueError(f"--batch_size {setup.batch_size} is of all processes together, and {shares} do not divide it")
    if setup.batch_size < 2 * world * parts:
        raise ValueError(f"--batch_size {setup.batch_size} leaves BatchNorm less than 2 images ({shares})")
    if run.sync_bn and on_cpu:
        raise ValueError("--sync_bn needs GPUs: PyTorch has no synchronised BatchNorm on a CPU")
    if run.compile != "no" and on_cpu and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise ValueError("--compile on a CPU needs a C++ compiler (g++ or clang++), and none is on the PATH")


def make_loaders(setup: Setup, run: Run, num_classes: int, accelerator: Accelerator):
    """This process's training and test loader; images that are cropped by area stay encoded until they are wanted."""
    rank, world = accelerator.process_index, accelerator.num_processes
    if run.streaming:
        with accelerator.main_process_first():
            images, test_images = open_streams(setup, run, num_classes, rank, world)
        workers = count_workers(run)
        return TrainStream(images, setup, run, rank, world, workers), EvalStream(test_images, setup, run, workers)
    in_memory = setup.crop_area is None or (setup.data == "digits" and not run.data_path)
    with accelerator.main_process_first():
        images, test_images = sources.load(
            setup.data, setup.image_size, run, num_classes, resize=setup.test_resize, in_memory=in_memory
        )
    share = share_of(run, accelerator, in_memory)
    return TrainLoader(images, setup, run.seed, **share), EvalLoader(test_images, **share)


def share_of(run: Run, accelerator: Accelerator, in_memory: bool) -> dict:
    """What a loader must know of the run and of this process."""
    workers = 0 if in_memory else count_workers(run)
    rank, world = accelerator.process_index, accelerator.num_processes
    return {"rank": rank, "world": world, "workers": workers, "skip_broken": run.skip_broken}


def count_workers(run: Run) -> int:
    """Worker processes of this process: as asked for, or its share of the machine's cores, up to 16."""
    if run.workers is not None:
        return run.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def no_teacher(setup: Setup) -> str:
    row = teacher_setup(setup)
    wanted = f" ({setup.teacher})" if setup.teacher else ""
    train_it = f"train one (overhaul train --setup {row.name}, then --teacher " if row else "train one (then --teacher "
    folder = f"runs/{row.name}-original-seed0)" if row else "its folder)"
    return (
        f"--setup {setup.name} needs a trained teacher{wanted}; three ways: {train_it}{folder}, give a checkpoint file "
        f"(--teacher FILE.pt), or name one on the Hub (--teacher USER/REPO)"
    )


def unpublished_if_changed(setup: Setup) -> Setup:
    """The setup without its published errors, which are of no use beside other networks or other data."""
    if setup.published is None:
        return setup
    row = SETUPS[setup.name]
    same_teacher = setup.teacher is None or same_net(setup.teacher, row.teacher)
    same = setup.data == row.data and same_net(setup.student, row.student) and same_teacher
    return setup if same else replace(setup, published=None)


def fit_to_classes(setup: Setup, num_classes: int) -> Setup:
    """The setup with its networks' number of classes as the data have it."""

    def fitted(net: Net) -> Net:
        return replace(net, kwargs={**net.kwargs, "num_classes": num_classes})

    return replace(setup, student=fitted(setup.student), teacher=setup.teacher and fitted(setup.teacher))


def load_teacher(setup: Setup, source: str) -> tuple[Setup, nn.Module, hub.Weights]:
    """The setup with the net that its teacher's weights turned out to be, the teacher, ready, and their origin."""
    weights = hub.fetch(source, setup.teacher)
    wanted, found = setup.student.kwargs["num_classes"], weights.net.kwargs["num_classes"]
    if wanted != found:
        raise ValueError(f"the teacher {weights.source} knows {found} classes and the data have {wanted}")
    teacher = distill.as_teacher(hub.build(weights))
    setup = replace(setup, teacher=replace(weights.net, weights=setup.teacher.weights))
    return setup, teacher, replace(weights, state={})


@deaths_explained()
def evaluate_source(source: str, data: str, run: Run, like: str | None = None) -> dict:
    """Accuracy of a source (see hub.load) on the test split of a data set: {"top1", "top5", "images"}.

    Image size, mean and std are the source's own where it says them, else those of the setup `like`, else those of the
    first setup on these data.
    """
    weights = hub.fetch(source)
    rows = [get(like)] if like else [row for row in SETUPS.values() if row.data == data]
    test = model_config.shown(weights.config, source, rows[0] if rows else None)
    num_classes = weights.net.kwargs["num_classes"]
    in_memory = test.size <= 64
    how = {"resize": test.resize, "interpolation": test.interpolation, "in_memory": in_memory}
    (images,) = sources.load(data, test.size, run, num_classes, splits=("test",), **how)
    if len(images.classes) != num_classes:
        raise ValueError(f"{source} knows {num_classes} classes and the data have {len(images.classes)}")
    accelerator = engine.start(run)
    network = hub.build(weights).to(accelerator.device, memory_format=torch.channels_last)
    loader = EvalLoader(images, **share_of(run, accelerator, in_memory))
    result = evaluate(network, loader, Normalize(test.mean, test.std, accelerator.device), accelerator)
    accelerator.end_training()
    return result
