"""Every flag of `overhaul train` changes what is trained, how or where, or is refused where it would change nothing."""

import re
from pathlib import Path

import datasets
import pytest
import torch
from support.images import NAMES, some_images, write_parquet
from support.places import TESTS
from support.runs import SIZE, refused

from overhaul import catalogue, models
from overhaul.cli.arguments import parse_training
from overhaul.run.checkpointer import Checkpointer
from overhaul.run.folder import RunFolder
from overhaul.setups import settings
from overhaul.training.build import Components, build
from overhaul.training.optimisation import distill_weights, training_step
from overhaul.training.optimizer import begin_epoch
from overhaul.training.trainer import Trainer

LISTED = (TESTS / "unit" / "cli" / "flags.txt").read_text().splitlines()[0].removeprefix("train: ").split()
FLAGS = [flag for flag in LISTED if not flag.startswith(("--method.", "--distill_weight."))]  # those are in SETTINGS


def components(*flags) -> Components:
    named = ["--setup", "digits", "--batch_size", "24", *map(str, flags)]
    if "--image_size" not in named:
        named += ["--image_size", str(SIZE)]
    values = parse_training(named)
    return build(*settings(values.pop("setup"), values))


def first_images(of: Components) -> list:
    images, labels = next(iter(of.train_loader))
    places = torch.arange(images[0].numel()).view(images.shape[1:])
    return [(of.normalize(images) * places).sum().item(), labels.tolist()]


def shown_images(of: Components) -> list:
    return [images.sum().item() for images, _ in of.test_loader]


def of_optimizer(name: str):
    return lambda of: of.optimizer.param_groups[0][name]


def distillation(of: Components) -> float:
    images, labels = next(iter(of.train_loader))
    networks = of.accelerator, of.model, of.teacher_forward, of.optimizer
    weight = distill_weights(of.method, of.setup, 0, of.share)
    how = of.setup.label_weight, of.setup.label_smoothing, of.setup.clip_grad
    return training_step(*networks, of.normalize(images), labels, weight, 1, *how)[2].item()


def step(of: Components) -> float:
    """What a student is after it."""
    distillation(of)
    return weights(of)


def momentum_after_a_drop(of: Components) -> float:
    distillation(of)
    begin_epoch(of.optimizer, of.setup, 3)
    return sum(each["momentum_buffer"].abs().sum().item() for each in of.optimizer.state.values()) > 0


def due(of: Components) -> bool:
    checkpointer = Checkpointer(of.accelerator, RunFolder(Path("unused")), of.run, None, None)
    checkpointer.saved_at -= 120
    return checkpointer.due(3) or checkpointer.late()


def weights(of: Components) -> float:
    return sum(value.sum().item() for value in of.student.state_dict().values() if value.is_floating_point())


BUILT = {  # what a flag is given, and where it shows
    "--batch_size": ([12], lambda of: len(of.train_loader)),
    "--epochs": ([9], lambda of: Trainer(**vars(of), folder=None, show=False).state.epochs),
    "--lr": ([0.01], lambda of: begin_epoch(of.optimizer, of.setup, 0)),
    "--lr_drops": (["[0.1]"], lambda of: begin_epoch(of.optimizer, of.setup, 1)),
    "--lr_schedule": (["linear"], lambda of: begin_epoch(of.optimizer, of.setup, 1)),
    "--lr_min": ([0.01, "--lr_schedule", "cosine"], lambda of: begin_epoch(of.optimizer, of.setup, 3)),
    "--warmup_epochs": ([2], lambda of: begin_epoch(of.optimizer, of.setup, 0)),
    "--optimizer": (["adamw"], lambda of: type(of.optimizer.optimizer)),
    "--no_decay_norms": ([True], lambda of: len(of.optimizer.param_groups)),
    "--head_lr_scale": ([2], lambda of: len(of.optimizer.param_groups)),
    "--clip_grad": ([0.01], step),
    "--label_smoothing": ([0.1], step),
    "--restart_momentum": ([False], momentum_after_a_drop),
    "--momentum": ([0.5], of_optimizer("momentum")),
    "--nesterov": ([False], of_optimizer("nesterov")),
    "--weight_decay": ([0.1], of_optimizer("weight_decay")),
    "--label_weight": ([0.5], step),
    "--distill_weight": ([1], distillation),
    "--ramp_epochs": ([3], distillation),
    "--mixup": ([1], first_images),
    "--cutmix": ([1], first_images),
    "--auto_augment": (["trivial"], first_images),
    "--random_erasing": ([1], first_images),
    "--interpolation": (["bicubic", "--crop_area", "[0.1, 1]"], first_images),
    "--image_size": ([20], first_images),
    "--test_resize": ([24], shown_images),
    "--pad": ([0], first_images),
    "--crop_area": (["[0.1, 1]"], first_images),
    "--flip": ([True], first_images),
    "--mean": (["[0.1, 0.1, 0.1]"], first_images),
    "--std": (["[0.1, 0.1, 0.1]"], first_images),
    "--method": (["original"], lambda of: type(of.method)),
    "--data": (["{folder}"], lambda of: of.setup.data),
    "--data_path": (["{other}"], first_images),
    "--image_column": (["second"], first_images),
    "--label_column": (["number"], lambda of: of.train_loader.images.labels.tolist()),
    "--class_names": (["{names}"], lambda of: of.classes),
    "--skip_broken": ([2], lambda of: of.train_loader.skip_broken),
    "--max_pixels": ([5000, "--crop_area", "[0.1, 1]"], lambda of: of.train_loader.images.bounds.max_pixels),
    "--seed": ([1], first_images),
    "--mixed_precision": (["bf16"], lambda of: of.accelerator.mixed_precision),
    "--student": (["{student}"], weights),
    "--student.weights": (["{student}"], weights),
    "--student.family": (["cifar_resnet", "--student.kwargs.depth", 8], lambda of: type(of.student)),
    "--student.kwargs": (['{{"depth": 16}}'], weights),
    "--student.kwargs.depth": ([16], weights),
    "--student.key": (["b", "--student", "{two}"], weights),
    "--teacher": (["{other_teacher}"], distillation),
    "--teacher.weights": (["{other_teacher}"], distillation),
    "--teacher.key": (["b", "--teacher", "{two}"], distillation),
    "--teacher.mean": (["[0.1, 0.2, 0.3]", "--teacher.std", "[1, 1, 1]", "--teacher", "{bare}"], distillation),
    "--teacher.std": (["[1, 2, 3]", "--teacher.mean", "[0, 0, 0]", "--teacher", "{bare}"], distillation),
    "--workers": ([0, "--crop_area", "[0.1, 1]"], lambda of: of.train_loader.workers),
    "--checkpoint_steps": ([3], due),
    "--checkpoint_minutes": ([1], due),
    "--deterministic": ([True], lambda of: torch.are_deterministic_algorithms_enabled()),
    "--tf32": ([False], lambda of: torch.backends.cudnn.allow_tf32),
    "--compile": (["default"], lambda of: of.method._compiled_call_impl is not None),
}
REFUSED = {  # where a flag cannot count
    "--teacher": (["x", "--method", "original"], "trains the student alone"),
    "--distill_weight": ([2, "--method", "original"], "trains the student alone"),
    "--pad": ([3, "--crop_area", "[0.1, 1]"], "no border"),
    "--shuffle_buffer": ([7], "--streaming"),
    "--stream_images": ([7], "--streaming"),
    "--image_column": (["image"], "scikit-learn"),
    "--label_column": (["label"], "scikit-learn"),
    "--class_names": (["names.txt"], "scikit-learn"),
    "--skip_broken": ([1], "scikit-learn"),
    "--max_pixels": ([5000], "scikit-learn"),
    "--num_classes": ([11], "scikit-learn"),
    "--test_resize": ([90], "scikit-learn"),
    "--label_weight": ([0.5, "--method", "original"], "trains the student alone"),
    "--ramp_epochs": ([3, "--method", "original"], "trains the student alone"),
    "--teacher_norm": (["running", "--method", "original"], "trains the student alone"),
    "--beside": (["runs/x", "--method", "original"], "trains the student alone"),
    "--student.positions": (["[fc]", "--method", "original"], "trains the student alone"),
    "--student.image_size": ([20], "images of --image_size"),
    "--comm_hook": (["bf16"], "between processes"),
    "--student.kwargs": (['{"num_classes": 7}'], "the data have 10 classes"),
    "--data_config": (["a"], "--data_config"),
    "--student.mean": (["[0.5, 0.5, 0.5]", "--student.std", "[1, 1, 1]"], "count for nothing"),
    "--student.std": (["[0.5, 0.5, 0.5]", "--student.mean", "[1, 1, 1]"], "count for nothing"),
    "--student.key": (["ema"], "goes with the weights"),
    "--teacher.family": (["resnet"], "not resnet"),
    "--teacher.kwargs": (['{"depth": 40}'], "not wide_resnet depth=40"),
    "--teacher.kwargs.depth": ([40], "not wide_resnet depth=40"),
    "--sync_bn": ([], "needs GPUs"),
    "--overwrite": ([], "--resume never"),
    "--push_every": ([1], "--push_to_hub"),
    "--push_private": ([], "--push_to_hub"),
}
ELSEWHERE = {  # flags whose effect other tests show, and which
    "--config": "unit/cli/test_main.py",
    "--print_config": "unit/cli/test_main.py",
    "--setup": "unit/cli/test_main.py",
    "--output_dir": "runs/test_train.py",
    "--dry_run": "runs/test_train.py",
    "--resume": "runs/test_resume.py",
    "--resume_with": "runs/test_resume.py",
    "--streaming": "unit/data/test_streaming.py",
    "--comm_hook": "support/one_step.py",
    "--gradient_accumulation_steps": "support/one_step.py",
    "--timeout_minutes": "processes/test_preemption.py",
    "--tracker": "runs/test_resume.py",
    "--quiet": "runs/test_signs.py",
    "--push_to_hub": "unit/hub/test_publish.py",
    "--num_classes": "unit/data/test_sources.py",
    "--teacher.positions": "unit/cli/test_arguments.py",
    "--teacher.image_size": "unit/cli/test_arguments.py",
    "--data_config": "unit/data/test_sources.py",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """Folders and files that the flags name."""
    root = tmp_path_factory.mktemp("flags")
    made = {name: root / name for name in ("names", "two", "bare", "other_teacher", "student")}
    made |= {name: write_parquet(root / name, **split(n)) for name, n in (("folder", 30), ("other", 33))}
    made["names"].write_text("\n".join(reversed(NAMES)))
    torch.manual_seed(1)
    nets = [models.create("wide_resnet", depth=10, width=width, num_classes=3).state_dict() for width in (1, 1, 2, 2)]
    torch.save({"a": nets[0], "b": nets[1]}, made["two"])
    for name, net in (("bare", nets[2]), ("other_teacher", nets[3]), ("student", nets[1])):
        torch.save(net, made[name])
    return made


def split(n: int) -> dict:
    """Tables with two columns of images and two of labels."""
    names = datasets.ClassLabel(names=NAMES)
    features = {"image": datasets.Image(), "second": datasets.Image(), "label": names, "number": names}
    images, labels = some_images(n + 1), [i % 3 for i in range(n + 1)]
    columns = {"image": images[1:], "second": images[:-1], "label": labels[1:], "number": labels[:-1]}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    return {"train": table, "test": table}


def base(places: dict, more: list) -> list:
    """Flags of a run without the flag that is tried: its data and its teacher."""
    flags = ["--data_path", places["folder"]] if not {"--data", "--data_path"} & {str(each) for each in more} else []
    return flags + (["--teacher", places["bare"]] if "original" not in more and "--teacher" not in more else [])


@pytest.mark.parametrize("flag", BUILT)
def test_a_flag_changes_what_is_built(places, flag):
    values, shown = BUILT[flag]
    more = [flag, *(str(value).format(**places) for value in values)]
    try:
        without = shown(components(*base(places, []), *beside(more, flag)))
        assert shown(components(*base(places, more), *more)) != without
    finally:
        torch.use_deterministic_algorithms(False)


SETTINGS = {  # of each method, and what they are given
    "kd": {"temperature": 2, "standardize": True},
    "dkd": {"alpha": 2, "beta": 2, "temperature": 2},
    "dist": {"beta": 2, "gamma": 2, "temperature": 2},
    "fitnets": {"stage": 2},
    "rkd": {"distance_weight": 2, "angle_weight": 2},
}


@pytest.mark.parametrize("name", [f"{method}.{name}" for method, named in SETTINGS.items() for name in named])
def test_a_setting_of_a_method_changes_its_loss(places, name):
    method, _, setting = name.partition(".")
    flags = [*base(places, []), "--method", method]
    assert distillation(components(*flags, f"--method.{name}", SETTINGS[method][setting])) != distillation(
        components(*flags)
    )


def test_every_setting_is_tried():
    settings = {name: set(catalogue.method(name).settings) for name in catalogue.methods()}
    assert {name: each for name, each in settings.items() if each} == {name: {*each} for name, each in SETTINGS.items()}


def beside(more: list, flag: str) -> list:
    """What stands beside the flag that is tried, where it needs company that would show by itself."""
    alone = ("--teacher.key", "--student.key", "--workers", "--max_pixels", "--lr_min", "--interpolation")
    return more[2:] if flag in alone else []


@pytest.mark.parametrize("flag", REFUSED)
def test_a_flag_is_refused_where_it_would_change_nothing(flag, overhaul, digits_teacher):
    values, words = REFUSED[flag]
    teacher = [] if "original" in values else ["--teacher", digits_teacher]
    refused(overhaul("train", "--setup", "digits", *teacher, flag, *values), words)


def test_every_flag_is_tried():
    others = {flag for flag, file in ELSEWHERE.items() if re.search(flag.strip("-"), (TESTS / file).read_text())}
    assert set(ELSEWHERE) == others
    assert set(FLAGS) <= {*BUILT, *REFUSED, *ELSEWHERE}
