"""The methods by name, and what they are made of; each method is a file here that names its class `Method`."""

import importlib

from overhaul import catalogue
from overhaul.distill.method import as_teacher
from overhaul.distill.overhaul import connector, margin, partial_l2

METHODS = {name: importlib.import_module(f"{__name__}.{name}").Method for name in catalogue.methods()}

__all__ = ["METHODS", "as_teacher", "connector", "margin", "partial_l2"]
