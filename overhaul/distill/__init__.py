"""The methods by name, and what they are made of."""

from overhaul.distill.method import Original, as_teacher
from overhaul.distill.overhaul import Overhaul, connector, margin, partial_l2

METHODS = {"overhaul": Overhaul, "original": Original}

__all__ = ["METHODS", "as_teacher", "connector", "margin", "partial_l2"]
