"""Hostile inputs by way of the command line, YAML, values and the environment."""

from support.hostile import Case

CASES: list[Case] = []
