"""Hostile inputs by way of the folder of a run."""

from support.hostile import Case

CASES: list[Case] = []
