"""Weights in and out: from a run, a checkpoint file, torchvision or the Hub; students to folders, files and the Hub."""

from overhaul.hub.fitting import same
from overhaul.hub.weights import (
    Weights,
    at_commit,
    build,
    fetch,
    fetch_named,
    load,
    save,
    student_files,
)

__all__ = [
    "Weights",
    "at_commit",
    "build",
    "fetch",
    "fetch_named",
    "load",
    "same",
    "save",
    "student_files",
]
