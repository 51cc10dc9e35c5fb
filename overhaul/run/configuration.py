"""A run's configuration as plain values, and what of it may differ between two starts of one run."""

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.system.messages import UserError
from overhaul.usual import as_entries, is_of_method

MAY_CHANGE = (
    "output_dir",
    "data_path",
    "beside",
    "tracker",
    "workers",
    "skip_broken",
    "max_pixels",
    "checkpoint_steps",
    "checkpoint_minutes",
    "timeout_minutes",
    "push_to_hub",
    "push_every",
    "push_private",
)  # between two starts of one run
DEFAULTS = {each.name: each.default for of in (Setup, Run) for each in fields(of) if each.default is not MISSING}
NOT_KEPT = ("resume", "resume_with", "overwrite", "dry_run", "quiet")  # how it starts and is shown, not what it is
MOST = 12  # differences that a message tells
ANEW = "name another folder with --output_dir, or replace the run with --resume never --overwrite"


def configuration(setup: Setup, run: Run, mixed_precision: str) -> dict:
    """All of a run as plain values, as `overhaul train --config` takes them."""
    how = {key: value for key, value in asdict(run).items() if key not in NOT_KEPT}
    return json.loads(json.dumps({"setup": setup.name, **as_entries(setup), **how, "mixed_precision": mixed_precision}))


def compare(mine: dict, theirs: dict, folder: Path, besides: tuple[str, ...] = ()) -> None:
    """UserError where two differ in what may not change, but for `besides`; what an old one lacks has its default.

    Of another method its name alone is told.
    """
    mine = flatten(mine)
    theirs = {key: DEFAULTS.get(key) for key in mine} | flatten(theirs)
    if mine["method"] != theirs["method"]:
        besides = (*besides, *(each for each in mine | theirs if is_of_method(each) and each != "method"))
    differing = [
        f"{key}: {shown(theirs.get(key))} there, {shown(mine.get(key))} here"
        for key in mine | theirs
        if key not in (*MAY_CHANGE, *besides) and mine.get(key) != theirs.get(key)
    ]
    if differing:
        what = "; ".join(differing[:MOST]) + (f" and {len(differing) - MOST} more" if len(differing) > MOST else "")
        longer = f"; to go on with another length, add --resume_with epochs={mine['epochs']}"
        longer = longer if [each.split(":")[0] for each in differing] == ["epochs"] else ""
        raise UserError(f"{folder} belongs to another configuration ({what}); {ANEW}{longer}")


def shown(value: object) -> str:
    return text if len(text := str(value)) <= 80 else f"{text[:80]}..."


def flatten(config: dict, prefix: str = "") -> dict:
    """Values by flat names: {"teacher": {"family": ...}} becomes {"teacher.family": ...}."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
