"""Finds in any convolutional network the maps to compare: the last of each resolution, before its activation."""

from overhaul.discovery.addresses import Address, Embedding, Feature
from overhaul.discovery.functions import spellings
from overhaul.discovery.passes import check, dry_run, logits_of, meta_twin, on_a_copy
from overhaul.discovery.rules import Found, described, find, uncertain

__all__ = [
    "Address",
    "Embedding",
    "Feature",
    "Found",
    "check",
    "described",
    "dry_run",
    "find",
    "logits_of",
    "meta_twin",
    "on_a_copy",
    "spellings",
    "uncertain",
]
