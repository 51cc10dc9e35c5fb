"""A report as one page of HTML that needs nothing beside itself."""

import os
from pathlib import Path
from urllib.parse import quote

from overhaul.report import charts
from overhaul.report.drawing import apart, swatch
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
    environment.globals |= {"percent": percent, "shown": shown}
    styles = charts.styles(groups)
    drawn = charts.charts(groups, styles)
    pictures = [{**chart, "svg": markup(chart["svg"], f"c{place}")} for place, chart in enumerate(drawn)]
    swatches = [markup(swatch(style), f"s{place}") for place, style in enumerate(styles)]
    runs = [run_row(told, place, folder) for place, group in enumerate(groups) for told in group.runs]
    return environment.get_template("page.html").render(
        summary=summary,
        groups=[{"label": group.label, "n": len(group.runs)} for group in groups],
        styles=styles,
        swatches=swatches,
        charts=pictures,
        runs=runs,
        few=len(runs) <= FEW,
        warnings=[(told.name, each) for group in groups for told in group.runs for each in told.warnings],
        sides=sides,
        refresh=refresh,
    )


def safe(value: object) -> object:
    """Text without control characters and marks that turn its direction; markup of ours as it is."""
    return printable(value) if type(value) is str else value


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def shown(value: object) -> object:
    return "-" if value is None else value


def markup(picture: str, name: str):
    from markupsafe import Markup

    return Markup(apart(picture, name))


def run_row(told, group: int, folder: Path) -> dict:
    """What the table of runs says of one."""
    errors = [(error, epoch) for epoch, error in charts.test_errors(told)]
    seconds = charts.seconds(told)
    best = min(errors, default=(None, None))
    return {
        "name": told.name,
        "link": link(told.folder, folder),
        "group": group,
        "seed": told.record.get("run", {}).get("seed"),
        "epochs": len(told.metrics),
        "of": told.record.get("recipe", {}).get("epochs"),
        "finished": told.finished,
        "final": errors[-1][0] if errors else None,
        "best": best[0],
        "best_epoch": best[1],
        "time": None if seconds is None else duration(seconds),
        "hardware": told.record.get("run", {}).get("hardware"),
    }


def link(path: Path, folder: Path) -> str:
    """From a page in `folder` to a folder, as a browser follows it."""
    try:
        way = os.path.relpath(path, folder)
    except ValueError:  # another drive of Windows
        return path.absolute().as_uri() + "/"
    return quote(os.fsencode(way.replace(os.sep, "/"))) + "/"
