"""The methods by name, and what they are made of."""

from overhaul.distill.overhaul import METHODS, as_teacher, connector, margin, partial_l2

__all__ = ["METHODS", "as_teacher", "connector", "margin", "partial_l2"]
