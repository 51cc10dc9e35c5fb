"""Runs of a few steps, taught by any method: 96 of the digits in batches of 16, six steps an epoch."""

from pathlib import Path

from overhaul import catalogue
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.setups import settings
from support.runs import SIZE

NAMES = tuple(name for name in catalogue.methods() if name != "original")
SUM = "overhaul+kd"
STEPS = 6


def taught(teacher: Path | str, images: str, method: str, **changes) -> tuple[Setup, Run]:
    """What is trained, and how."""
    usual = {"teacher": str(teacher), "data_path": images, "image_size": SIZE, "epochs": 2, "batch_size": 16}
    return settings("digits", {**usual, "method": method, **changes})


def flags(teacher: Path | str, images: str, method: str, *more) -> list[str]:
    """The same as a command."""
    sizes = ["--image_size", SIZE, "--epochs", 2, "--batch_size", 16]
    networks = ["--setup", "digits", "--method", method, "--teacher", teacher, "--data_path", images]
    return list(map(str, ["train", *networks, *sizes, *more]))
