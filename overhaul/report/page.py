"""A report as one page of HTML that needs nothing beside itself."""

import os
from pathlib import Path
from urllib.parse import quote

from overhaul.report import charts, written
from overhaul.report.drawing import apart, swatch
from overhaul.report.groups import short
from overhaul.report.statistics import error, gain
from overhaul.report.tables import plain
from overhaul.system.messages import duration, printable

TEMPLATES = Path(__file__).parent
FEW = 40  # runs whose table lies open


def page(summary: dict, groups: list, sides: list[dict] = (), refresh: int | None = None, folder: Path = Path()) -> str:
    """The page. summary: see written.summary; groups: see groups.groups; sides: see sides.side_by_side.

    refresh: seconds after which a browser is to read it again, while a run goes on; folder: where the page lies, from
    which its links lead to the runs. Whatever comes from a file is text on it, and never a tag, a script or an address.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    how = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    environment = Environment(loader=FileSystemLoader(TEMPLATES), finalize=safe, **how)
    environment.globals |= {"error": error, "gain": gain, "down": down, "shown": shown, "short": short}
    styles = charts.styles(groups)
    drawn = charts.charts(groups, styles)
    pictures = [{**chart, "svg": markup(chart["svg"], f"c{place}")} for place, chart in enumerate(drawn)]
    swatches = {style.number: markup(swatch(style), f"s{style.number}") for style in styles if style.number is not None}
    runs = [run_row(told, place, folder) for place, group in enumerate(groups) for told in group.runs]
    return environment.get_template("page.html").render(
        summary=summary,
        tables=tables(summary),
        notes=written.notes(summary),
        groups=[group_row(group) for group in groups],
        differing=[*dict.fromkeys(key for group in groups for key in group.differences)],
        styles=styles,
        swatches=swatches,
        charts=pictures,
        runs=runs,
        few=len(runs) <= FEW,
        sides=sides,
        refresh=refresh,
    )


def tables(summary: dict) -> list[dict]:
    """Those of the text, with the number of each row's group."""
    found = []
    for head, *rows in written.tables(summary):
        each = len(rows) // len(summary["groups"])  # rows of a group
        cells = [{"group": place // each, "cells": row} for place, row in enumerate(rows)]
        found.append({"head": head, "rows": cells})
    return found


def group_row(group) -> dict:
    differences = {key: plain(value) for key, value in group.differences.items()}
    return {"label": group.label, "n": len(group.runs), "differences": differences}


def safe(value: object) -> object:
    """Text without control characters and marks that turn its direction; markup of ours as it is."""
    return printable(value) if type(value) is str else value


def down(value: float | None) -> str:
    """A percentage of which more is better: halves down."""
    return "-" if value is None else gain(value).lstrip("+")


def shown(value: object) -> object:
    return "-" if value is None else value


def markup(picture: str, name: str):
    from markupsafe import Markup

    return Markup(apart(picture, name).replace("<svg", f'<svg id="{name}"', 1))


def run_row(told, group: int, folder: Path) -> dict:
    """What the table of runs says of one."""
    best, hardware = told.best, told.record["run"].get("hardware")
    return {
        "name": told.name,
        "link": link(told.folder, folder),
        "group": group,
        "seed": told.seed,
        "epochs": f"{len(told.metrics)}" if told.finished else f"{len(told.metrics)} of {told.epochs}",
        "final": told.final and 100 - told.final["test_top1"],
        "best": best and 100 - best["test_top1"],
        "best_epoch": best and best["epoch"],
        "time": None if told.seconds is None else duration(told.seconds),
        "hardware": hardware if isinstance(hardware, str) else None,
    }


def link(path: Path, folder: Path) -> str:
    """From a page in `folder` to a folder, as a browser follows it."""
    try:
        way = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return path.absolute().as_uri() + "/"
    return quote(os.fsencode(way.replace(os.sep, "/"))) + "/"
