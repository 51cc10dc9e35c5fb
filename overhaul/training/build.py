"""What the loop turns, put together once: data, teacher, student, optimiser."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from overhaul import catalogue, distill, hub, methods, models
from overhaul.chosen import chosen
from overhaul.data.known import is_named
from overhaul.data.loaders import EvalLoader, EvalStream, Normalize, TrainLoader, TrainStream, load_splits, make_loaders
from overhaul.nets import FUNCTION, Net, advice, is_foreign
from overhaul.options import Run, default_folder
from overhaul.recipe import Setup
from overhaul.run.folder import RunFolder
from overhaul.setups import resolve, teacher_setup
from overhaul.system.accelerator import forget_runs, keep_memory, start
from overhaul.system.messages import UserError
from overhaul.system.numbers import check_memory
from overhaul.training import graph, networks, pretrained
from overhaul.training.evaluation import TeacherTest
from overhaul.training.optimisation import make_ready, warm_up_ddp
from overhaul.training.positions import compared
from overhaul.training.teaching import TeacherForward


@dataclass(kw_only=True)
class Components:
    """A setup made ready on this process.

    setup: as data and teacher have resolved it. model: what Accelerate has prepared. teacher_weights, student_weights:
    where they come from, without them. teacher_test: how the teacher is measured, None where it knows other classes.
    positions: see positions.compared; None where no features are compared. choice: what was chosen for the images and
    why, "" where nothing was. notes: what a person should be told of the networks.
    """

    setup: Setup
    run: Run
    accelerator: Accelerator
    model: nn.Module
    teacher: nn.Module | None
    teacher_forward: TeacherForward | None
    teacher_weights: hub.Weights | None
    teacher_test: TeacherTest | None
    student_weights: hub.Weights | None
    positions: dict | None
    choice: str
    notes: list[str]
    optimizer: torch.optim.Optimizer
    train_loader: TrainLoader | TrainStream
    test_loader: EvalLoader | EvalStream
    normalize: Normalize
    classes: tuple[str, ...]

    @property
    def method(self) -> nn.Module:
        """The module of distill.make, outside every wrapper."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def student(self) -> nn.Module:
        return self.method.student

    @property
    def share(self) -> int:
        """How many of a batch's images are this process's."""
        return self.setup.batch_size // self.accelerator.num_processes

    @property
    def sums(self) -> dict[str, str | None]:
        """The SHA-256 of the files of the trained weights, by role."""
        both = {"teacher": self.teacher_weights, "student": self.student_weights}
        return {role: weights and weights.sha256 for role, weights in both.items()}

    def warm_up_ddp(self) -> None:
        """See optimisation.warm_up_ddp."""
        share = self.share // self.run.gradient_accumulation_steps
        warm_up_ddp(self.accelerator, self.model, self.teacher_forward, self.setup, share)

    def student_files(self) -> dict[str, bytes]:
        """Of the folder of the student as it is now."""
        return hub.student_files(self.student, self.setup, self.classes, self.student_weights)


def build(setup: Setup, run: Run, folder: RunFolder | None = None) -> Components:
    """The components of a setup; UserError for data, a network or weights that cannot be had or do not go together.

    folder: the run's; one that goes on numbers its classes as it did.
    """
    accelerator = start_accelerator(run, folder)
    keep_memory(accelerator.device)
    forget_runs(accelerator.device)
    check_device(setup, run, accelerator)
    check_shares(setup, run, accelerator)
    check_networks(setup)
    taught = bool(methods.needs(setup.method))
    named, far = setup, taught and not Path(setup.teacher.weights).expanduser().exists()
    teacher_weights = pretrained.fetch("teacher", named, accelerator) if taught and not far else None
    student_weights = pretrained.fetch("student", named, accelerator)
    setup = pretrained.with_images(setup, student_weights)
    num_classes = setup.num_classes or setup.student.kwargs.get("num_classes", 0)
    splits = load_splits(setup, run, num_classes, accelerator, folder and folder.classes)
    setup, choice = chosen(setup, len(splits[0]), pretrained=student_weights is not None)
    check_shares(setup, run, accelerator)
    loaders = make_loaders(setup, run, splits, accelerator)
    pretrained.check_number(setup, loaders[0].images.classes)
    if far:
        networks.check_student(setup, student_weights, len(loaders[0].images.classes))
        teacher_weights = pretrained.fetch("teacher", named, accelerator)
    return assemble(setup, run, accelerator, loaders, teacher_weights, student_weights, choice)


def assemble(
    setup: Setup,
    run: Run,
    accelerator: Accelerator,
    loaders: tuple,
    teacher_weights: hub.Weights | None,
    student_weights: hub.Weights | None,
    choice: str = "",
) -> Components:
    """The networks for the classes of the data, ready to be trained."""
    classes, notes = loaders[0].images.classes, []
    named = is_named(setup.data, run.data_path, *(loader.images for loader in loaders))
    setup = resolve(setup, run, classes, *(each and each.net for each in (teacher_weights, student_weights)), named)
    teacher, test, shift = make_teacher(teacher_weights, setup, classes, accelerator, notes)
    set_seed(run.seed)
    student = networks.make_student(setup, student_weights, classes, notes, run.sync_bn)
    method = distill.make(setup.method, student, teacher, setup.method_settings)
    by = dict(zip(setup.methods, distill.parts(method), strict=True))
    positions = compared(student, teacher, networks.sizes(setup), by) if networks.by_features(setup) else None
    how = setup, run, accelerator, shift, order_of(test, setup)
    model, optimizer, teacher_forward = make_ready(method, teacher, *how)
    return Components(
        setup=setup,
        run=run,
        accelerator=accelerator,
        model=model,
        teacher=teacher,
        teacher_forward=teacher_forward,
        teacher_weights=teacher_weights and replace(teacher_weights, state={}),
        teacher_test=test,
        student_weights=student_weights and replace(student_weights, state={}),
        positions=positions,
        choice=choice,
        notes=notes,
        optimizer=optimizer,
        train_loader=loaders[0],
        test_loader=loaders[1],
        normalize=Normalize(setup.mean, setup.std, accelerator.device),
        classes=classes,
    )


def make_teacher(
    weights: hub.Weights | None, setup: Setup, classes: tuple[str, ...], accelerator, notes: list[str]
) -> tuple:
    """The teacher, how it is measured, and how its images differ from the student's; None each without one."""
    if not weights:
        return None, None, None
    teacher = networks.make_teacher(weights, setup, notes)
    test = pretrained.teacher_test(weights, setup, classes, accelerator.device, notes)
    networks.check_needs(setup, test is not None)
    notes += filter(None, [networks.weight_note(setup)])
    return teacher, test, pretrained.shift(weights, setup)


def order_of(test: TeacherTest | None, setup: Setup) -> list[int] | None:
    """For each class of the data its number in the teacher's logits, where they are compared and have another order."""
    if test is None or "logits" not in methods.needs(setup.method):
        return None
    in_order = test.order == list(range(setup.teacher.kwargs["num_classes"]))
    return None if in_order else test.order


def start_accelerator(run: Run, folder: RunFolder | None = None) -> Accelerator:
    """The Accelerator that a run asks for."""
    how = {"comm_hook": run.comm_hook, "deterministic": run.deterministic, "tf32": run.tf32}
    return start(run.mixed_precision, **how, tracker=run.tracker, folder=folder and folder.path)


def check_device(setup: Setup, run: Run, accelerator: Accelerator) -> None:
    """UserError for what this device cannot do, or these processes."""
    graph.check(setup, run, accelerator)
    on_cpu = accelerator.device.type == "cpu"
    if run.comm_hook != "no" and accelerator.num_processes == 1:
        raise UserError("--comm_hook is of the gradients between processes, and there is only one")
    if run.sync_bn and on_cpu:
        raise UserError("--sync_bn needs GPUs: PyTorch has no synchronised BatchNorm on a CPU")
    if run.compile != "no" and on_cpu and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")):
        raise UserError("--compile on a CPU needs a C++ compiler (g++ or clang++), and none is on the PATH")


def check_shares(setup: Setup, run: Run, accelerator: Accelerator) -> None:
    """UserError for a batch that cannot be shared out; one that is still open passes."""
    if setup.batch_size is None:
        return
    world, steps = accelerator.num_processes, run.gradient_accumulation_steps
    shares = f"{world} processes" if steps == 1 else f"{world} processes x {steps} gradient accumulation steps"
    if setup.batch_size % (world * steps):
        raise UserError(f"--batch_size {setup.batch_size} is of all processes together, and {shares} do not divide it")
    if setup.batch_size < 2 * world * steps:
        raise UserError(f"--batch_size {setup.batch_size} leaves BatchNorm less than 2 images ({shares})")
    share, side = setup.batch_size // (world * steps), setup.image_size or 1
    check_memory(f"--batch_size {setup.batch_size} of --image_size {side}", 12 * share * side**2)  # 3 channels of fp32
    for name in setup.methods:
        least = catalogue.method(name).least_images
        if setup.batch_size < least * world * steps:
            raise UserError(f"--method {name} compares {least} images or more at once; raise --batch_size ({shares})")


def check_networks(setup: Setup) -> None:
    """UserError for networks that cannot be built, and for a teacher without weights; asks nobody."""
    taught = methods.needs(setup.method)
    if taught and not (setup.teacher and setup.teacher.weights):
        raise UserError(no_teacher(setup))
    for role in ("student", "teacher") if taught else ("student",):
        net = getattr(setup, role)
        if net.family and (models.is_complete(net) or not net.weights):
            if role == "student" and not FUNCTION.fullmatch(net.family):  # a teacher has to fit its file
                check_size(net, setup.num_classes)
            models.classifier(net)


def check_size(student: Net, classes: int | None) -> None:
    """UserError for a student whose numbers, gradients and momentum are more than this machine's memory.

    classes: of the data, where they are known.
    """
    known = {models.CLASSES: classes or 1, **student.kwargs}
    check_memory(f"--student {student}", 12 * models.parameters(replace(student, kwargs=known)))


def no_teacher(setup: Setup) -> str:
    if setup.teacher and is_foreign(setup.teacher.family):
        return f"the teacher {setup.teacher.family} has no trained weights; {advice(setup.teacher.family, '--teacher')}"
    row = teacher_setup(setup)
    wanted = f" ({setup.teacher})" if setup.teacher and setup.teacher.family else ""
    train_it = f"train one (overhaul train --setup {row.name}, then --teacher " if row else "train one (then --teacher "
    folder = f"{default_folder(row.name, row.method, 0)})" if row else "its folder)"
    return (
        f"--setup {setup.name} needs a trained teacher{wanted}; three ways: {train_it}{folder}, give a checkpoint file "
        f"(--teacher FILE.pt), or name one on the Hub (--teacher USER/REPO)"
    )
