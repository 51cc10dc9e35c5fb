"""Weights in and out: from a run, a checkpoint file, torchvision or the Hub; students to folders, files and the Hub."""

from overhaul.hub.weights import load

__all__ = ["load"]
