"""Weights in and out: from a run, a checkpoint file, torchvision or the Hub; students to folders, files and the Hub."""

from overhaul.hub.fitting import same
from overhaul.hub.students import save, student_files
from overhaul.hub.weights import Weights, at_commit, build, fetch, fetch_named, load, put, told

__all__ = [
    "Weights",
    "at_commit",
    "build",
    "fetch",
    "fetch_named",
    "load",
    "put",
    "same",
    "save",
    "student_files",
    "told",
]
