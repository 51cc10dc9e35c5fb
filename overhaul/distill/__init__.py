"""The methods by name, and what they are made of; each method is a file here that names its class `Method`.

A method is a subclass of Distiller, which says how one is written. Several may be summed up: see make.
"""

import importlib
from collections.abc import Mapping

from torch import nn

from overhaul import catalogue, methods
from overhaul.distill.distiller import Distiller, Exact, Paper, needed
from overhaul.distill.margins import margin, measured
from overhaul.distill.method import as_teacher, mode_kept, teaching
from overhaul.distill.overhaul import connector, partial_l2
from overhaul.distill.pairing import pairs, stage_weights, unpaired
from overhaul.distill.plain import distill
from overhaul.distill.sums import Sum

METHODS: dict[str, type[Distiller]] = {
    name: importlib.import_module(f"{__name__}.{name}").Method for name in catalogue.methods()
}

__all__ = [
    "METHODS",
    "Distiller",
    "Exact",
    "Paper",
    "Sum",
    "as_teacher",
    "connector",
    "distill",
    "make",
    "margin",
    "measured",
    "mode_kept",
    "needed",
    "pairs",
    "partial_l2",
    "parts",
    "stage_weights",
    "teaching",
    "unpaired",
]


def make(
    method: str, student: nn.Module, teacher: nn.Module | None, settings: Mapping[str, dict] | None = None
) -> Distiller | Sum:
    """The module of a method, or of several summed up, as in "overhaul+kd"; settings: see recipe.Setup."""
    settings = settings or {}
    names = methods.parts(method)
    if len(names) == 1:
        return METHODS[method](student, teacher, **settings.get(method, {}))
    return Sum(student, teacher, {name: METHODS[name] for name in names}, settings)


def parts(module: Distiller | Sum) -> list[Distiller]:
    """The methods that a module sums up, or the one that it is."""
    return list(module.parts.values()) if isinstance(module, Sum) else [module]
