"""Hostile inputs by way of data sets."""

from support.hostile import Case

CASES: list[Case] = []
