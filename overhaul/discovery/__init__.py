"""Finds in any convolutional network the maps to compare: the last of each resolution, before its activation."""

from overhaul.discovery.addresses import named
from overhaul.discovery.graph import Address, Feature, dry_run, logits_of, meta_twin
from overhaul.discovery.rules import find

__all__ = ["Address", "Feature", "dry_run", "find", "logits_of", "meta_twin", "named"]
