"""Hostile inputs by way of the Hub and files of weights."""

from support.hostile import Case

CASES: list[Case] = []
