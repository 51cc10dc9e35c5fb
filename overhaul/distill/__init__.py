"""The methods by name, and what they are made of; each method is a file here that names its class `Method`.

A method says what of a teacher it `needs`: "features", "logits" (the teacher must know the data's classes) or None.
"""

import importlib

from overhaul import catalogue
from overhaul.distill.margins import margin, measured
from overhaul.distill.method import as_teacher, mode_kept, teaching
from overhaul.distill.overhaul import connector, partial_l2
from overhaul.distill.pairing import pairs, stage_weights, unpaired
from overhaul.distill.plain import distill

METHODS = {name: importlib.import_module(f"{__name__}.{name}").Method for name in catalogue.methods()}

__all__ = [
    "METHODS",
    "as_teacher",
    "connector",
    "distill",
    "margin",
    "measured",
    "mode_kept",
    "pairs",
    "partial_l2",
    "stage_weights",
    "teaching",
    "unpaired",
]
