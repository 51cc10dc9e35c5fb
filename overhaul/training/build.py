"""What the loop turns, put together once: data, teacher, student, optimiser."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from overhaul import distill, hub, models
from overhaul.data.known import is_named
from overhaul.data.loaders import EvalLoader, EvalStream, Normalize, TrainLoader, TrainStream, make_loaders
from overhaul.options import Run, default_folder
from overhaul.recipe import Setup
from overhaul.setups import resolve, teacher_setup
from overhaul.system.accelerator import agreed, start
from overhaul.system.messages import UserError, choose
from overhaul.training.optimisation import TeacherForward, make_ready, warm_up_ddp


@dataclass(kw_only=True)
class Components:
    """A setup made ready on this process.

    setup: as data and teacher have resolved it. model: what Accelerate has prepared. teacher_weights: where the
    teacher's come from, without them.
    """

    setup: Setup
    run: Run
    accelerator: Accelerator
    model: nn.Module
    teacher: nn.Module | None
    teacher_forward: TeacherForward | None
    teacher_weights: hub.Weights | None
    optimizer: torch.optim.Optimizer
    train_loader: TrainLoader | TrainStream
    test_loader: EvalLoader | EvalStream
    normalize: Normalize
    classes: tuple[str, ...]

    @property
    def method(self) -> nn.Module:
        """The module of distill.METHODS, outside every wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def student(self) -> nn.Module:
        return self.method.student

    def warm_up_ddp(self) -> None:
        """See optimisation.warm_up_ddp."""
        share = self.setup.batch_size // self.accelerator.num_processes // self.run.gradient_accumulation_steps
        warm_up_ddp(self.accelerator, self.model, self.teacher_forward, self.setup, share)

    def student_files(self) -> dict[str, bytes]:
        """Of the folder of the student as it is now."""
        return hub.student_files(self.student, self.setup, self.classes)


def build(setup: Setup, run: Run, folder: Path | None = None) -> Components:
    """The components of a setup; UserError for data, a teacher or a network that cannot be had or do not go together.

    folder: the tracker's.
    """
    accelerator = start_accelerator(run, folder)
    check_shares(setup, run, accelerator)
    method = distill.METHODS[choose("--method", setup.method, tuple(distill.METHODS))]
    if method.needs_teacher and not (setup.teacher and setup.teacher.weights):
        raise UserError(no_teacher(setup))
    num_classes = setup.num_classes or setup.student.kwargs.get("num_classes", 0)
    train_loader, test_loader = make_loaders(setup, run, num_classes, accelerator)
    classes, teacher, origin = train_loader.images.classes, None, None
    named = is_named(setup.data, run.data_path, train_loader.images, test_loader.images)
    setup = resolve(setup, run, classes, named=named)
    if setup.teacher:
        source = agreed(accelerator, lambda: hub.at_commit(setup.teacher.weights))
        with accelerator.main_process_first():
            teacher, origin = load_teacher(setup, source, classes)
        setup = resolve(setup, run, classes, origin.net)
    set_seed(run.seed)
    model = method(models.create(setup.student), teacher)
    model, optimizer, teacher_forward = make_ready(model, teacher, setup, run, accelerator)
    return Components(
        setup=setup,
        run=run,
        accelerator=accelerator,
        model=model,
        teacher=teacher,
        teacher_forward=teacher_forward,
        teacher_weights=origin,
        optimizer=optimizer,
        train_loader=train_loader,
        test_loader=test_loader,
        normalize=Normalize(setup.mean, setup.std, accelerator.device),
        classes=classes,
    )


def start_accelerator(run: Run, folder: Path | None = None) -> Accelerator:
    """The Accelerator that a run asks for."""
    how = {"comm_hook": run.comm_hook, "deterministic": run.deterministic}
    return start(run.mixed_precision, **how, tracker=run.tracker, folder=folder)


def check_shares(setup: Setup, run: Run, accelerator: Accelerator) -> None:
    """UserError for a batch that cannot be shared out, or for what this device cannot do."""
    world, steps, on_cpu = accelerator.num_processes, run.gradient_accumulation_steps, accelerator.device.type == "cpu"
    shares = f"{world} processes" if steps == 1 else f"{world} processes x {steps} gradient accumulation steps"
    if setup.batch_size % (world * steps):
        raise UserError(f"--batch_size {setup.batch_size} is of all processes together, and {shares} do not divide it")
    if setup.batch_size < 2 * world * steps:
        raise UserError(f"--batch_size {setup.batch_size} leaves BatchNorm less than 2 images ({shares})")
    if run.sync_bn and on_cpu:
        raise UserError("--sync_bn needs GPUs: PyTorch has no synchronised BatchNorm on a CPU")
    if run.compile != "no" and on_cpu and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise UserError("--compile on a CPU needs a C++ compiler (g++ or clang++), and none is on the PATH")


def no_teacher(setup: Setup) -> str:
    row = teacher_setup(setup)
    wanted = f" ({setup.teacher})" if setup.teacher else ""
    train_it = f"train one (overhaul train --setup {row.name}, then --teacher " if row else "train one (then --teacher "
    folder = f"{default_folder(row.name, row.method, 0)})" if row else "its folder)"
    return (
        f"--setup {setup.name} needs a trained teacher{wanted}; three ways: {train_it}{folder}, give a checkpoint file "
        f"(--teacher FILE.pt), or name one on the Hub (--teacher USER/REPO)"
    )


def load_teacher(setup: Setup, source: str, classes: Sequence[str]) -> tuple[nn.Module, hub.Weights]:
    """The teacher of a source, ready, and where its weights come from, without them."""
    weights = hub.fetch(source, setup.teacher)
    found = weights.net.kwargs["num_classes"]
    if found != len(classes):
        raise UserError(f"the teacher {weights.source} knows {found} classes and the data have {len(classes)}")
    return distill.as_teacher(hub.build(weights)), replace(weights, state={})
