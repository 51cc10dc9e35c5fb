"""A report's numbers, and the same as text, Markdown, CSV and JSON."""

import csv
import io
import json
import textwrap
from dataclasses import asdict
from statistics import fmean

from overhaul.report import published
from overhaul.report.groups import Group
from overhaul.report.runs import Told, is_number
from overhaul.report.statistics import ROUNDING, Difference, Statistics, error, gain, interval
from overhaul.system.markdown import escaped, markdown_table
from overhaul.system.messages import duration, printable, some, text_table

WHICH = ("final", "best")
RULES = (
    "n: finished runs of one recipe, a seed each; others are listed, and in no number. Errors are top-1, of the test.",
    "final: the student after the last epoch. best: that of the epoch of the lowest error, which the test images chose "
    "themselves: it is optimistic.",
    "mean, sd (of the sample) and median over the seeds; the paper gives the median of 5 final models for CIFAR, and "
    "the best epoch for ImageNet.",
    "95 % interval: of the mean, by Student's t over the seeds; one run has none.",
    "gain: how much lower the error is than original's, the student alone by the same recipe: the mean over the seeds "
    "that both have, paired, if they are at least two or all of one side; else the difference of the means, its "
    "interval Welch's.",
    "published: the paper's error; with * it is not comparable, for the reasons below.",
    "time: of training, tests apart; time and images/s are means of the runs. parameters: the student's.",
    ROUNDING,
)
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # what a spreadsheet would calculate


def summary(groups: list[Group], warnings: list[str] = ()) -> dict:
    """All that is reported, as plain values: {"groups": [a dict each], "rules": [sentences], "warnings": [lines]}.

    Errors are in percent, gains in points, time in seconds; what there is not is None.
    """
    more = [each for group in groups for told in group.runs for each in told.warnings]
    return {"groups": [of_group(group) for group in groups], "rules": [*RULES], "warnings": [*warnings, *more]}


def of_group(group: Group) -> dict:
    finished, record = group.finished, group.runs[0].record
    teacher, size = record.get("teacher") or {}, record["student"].get("parameters")
    return {
        "label": group.label,
        "setup": group.setup,
        "method": group.method,
        "n": len(finished),
        "seeds": [told.seed for told in finished],
        "unfinished": len(group.runs) - len(finished),
        **{which: values(getattr(group, which)) for which in WHICH},
        "gain": {which: values(group.gain(which)) for which in WHICH},
        "baseline": group.baseline and group.baseline.label,
        "no_baseline": group.without or None,
        "published": published.beside(group),
        "parameters": size if is_number(size) else None,
        "teacher_error": 100 - teacher["test_top1"] if is_number(teacher.get("test_top1")) else None,
        "seconds": mean([told.seconds for told in finished]),
        "images_per_second": mean([told.images_per_second for told in finished]),
        "hardware": sorted({printable(str(told.record["run"].get("hardware"))) for told in group.runs}),
        "differences": group.differences,
        "runs": [of_run(told) for told in group.runs],
    }


def of_run(told: Told) -> dict:
    final, best = told.final or {}, told.best or {}
    return {
        "name": told.name,
        "folder": str(told.folder),
        "seed": told.seed,
        "finished": told.finished,
        "epochs_done": len(told.metrics),
        "epochs": told.epochs,
        "final": 100 - final["test_top1"] if final else None,
        "best": 100 - best["test_top1"] if best else None,
        "best_epoch": best.get("epoch"),
        "seconds": told.seconds,
        "images_per_second": told.images_per_second,
    }


def values(of: Statistics | Difference | None) -> dict | None:
    return of and json.loads(json.dumps(asdict(of)))


def mean(found: list[float | None]) -> float | None:
    return fmean(found) if found and None not in found else None


def tables(found: dict) -> list[list[tuple[str, ...]]]:
    """Of a summary the errors and what they cost: rows of plain text under their heads."""
    head = ("group", "n", "of", "mean", "sd", "median", "95 % interval", "gain", "95 % interval", "published")
    errors = [head, *(error_row(each, which) for each in found["groups"] for which in WHICH)]
    head = ("group", "parameters", "time", "images/s", "teacher's error", "gain", "runs")
    return [errors, [head, *map(cost_row, found["groups"])]]


def error_row(of: dict, which: str) -> tuple[str, ...]:
    paper, here = of["published"], of[which] or {}
    mine, apart = [here.get(key) for key in ("mean", "sd", "median", "low", "high")], of["gain"][which]
    return (
        of["label"],
        str(of["n"]),
        which,
        *map(error, mine[:3]),
        single(here and here["low"] is None) or interval(*mine[3:]),
        gain(apart and apart["gain"]),
        single(apart and apart["low"] is None) or (interval(apart["low"], apart["high"]) if apart else "-"),
        f"{paper['error']:.2f}{'*' * bool(paper['why_not'])}" if paper and paper["rule"] == which else "-",
    )


def single(is_single: object) -> str:
    return "none, n = 1" if is_single else ""


def cost_row(of: dict) -> tuple[str, ...]:
    apart, runs = of["gain"]["final"], [f"{of['n']} finished", f"{of['unfinished']} unfinished"]
    return (
        of["label"],
        "-" if of["parameters"] is None else f"{of['parameters']:,}",
        "-" if of["seconds"] is None else duration(of["seconds"]),
        "-" if of["images_per_second"] is None else f"{of['images_per_second']:,.0f}",
        error(of["teacher_error"]),
        apart["how"] if apart else "-",
        ", ".join(each for each in runs if not each.startswith("0 ")),
    )


def notes(found: dict) -> list[str]:
    """What is unfinished, has no baseline, or is published and not comparable, and why."""
    lines = []
    for each in found["groups"]:
        label, paper = each["label"], each["published"]
        begun = [
            f"seed {of['seed']} at {of['epochs_done']} of {of['epochs']}" for of in each["runs"] if not of["finished"]
        ]
        if begun:
            lines.append(f"{label} is unfinished: {some(begun)} epochs")
        if each["no_baseline"]:
            lines.append(f"{label} has no gain: {each['no_baseline']}")
        if paper and paper["why_not"]:
            told, why = f"{paper['error']:.2f} ({paper['of']}, {paper['models']})", "; ".join(paper["why_not"])
            lines.append(f"* {label}: {told} is not comparable: {why}")
    return lines


def as_text(found: dict) -> str:
    """For a terminal, in 120 columns unless a table needs more."""
    errors, costs = map(text_table, tables(found))
    told = [textwrap.fill(each, 120, subsequent_indent="  ") for each in (*notes(found), "", *found["rules"])]
    return "\n".join([errors, "", costs, "", *told])


def reported(found: dict, called: dict) -> str:
    """What api.report returns, for a terminal."""
    return f"{as_text(found)}\n\nwritten: {', '.join(found['files'])} in {found['folder']}"


def as_markdown(found: dict) -> str:
    errors, costs = map(markdown_table, tables(found))
    told = [f"- {escaped(printable(each))}" for each in (*notes(found), *found["warnings"])]
    runs = [
        (each["label"], run["name"], str(run["seed"]), f"{run['epochs_done']} of {run['epochs']}", *errors_of(run))
        for each in found["groups"]
        for run in each["runs"]
    ]
    listed = markdown_table([("group", "run", "seed", "epochs", "final", "best"), *runs])
    rules = "\n".join(f"- {escaped(each)}" for each in found["rules"])
    parts = ["# Report", errors, costs, "\n".join(told), "## Runs", listed, "## What the columns mean", rules]
    return "\n\n".join(filter(None, parts)) + "\n"


def errors_of(run: dict) -> tuple[str, str]:
    return error(run["final"]), error(run["best"])


def as_json(found: dict) -> str:
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def as_csv(found: dict) -> str:
    """A line a group, by RFC 4180, numbers unrounded; no text in it is a formula to a spreadsheet."""
    file, rows = io.StringIO(newline=""), list(map(flat, found["groups"]))
    writer = csv.DictWriter(file, rows[0].keys() if rows else ())
    writer.writeheader()
    writer.writerows({key: cell(each) for key, each in row.items()} for row in rows)
    return file.getvalue()


def flat(of: dict) -> dict:
    """A group as the columns of a CSV."""
    row = {key: of[key] for key in ("label", "setup", "method", "n", "unfinished")}
    row["seeds"] = " ".join(map(str, of["seeds"]))
    for which in WHICH:
        row |= {f"{which}_{key}": (of[which] or {}).get(key) for key in ("mean", "sd", "median", "low", "high")}
        apart = of["gain"][which] or {}
        row |= {f"{which}_{name}": apart.get(key) for name, key in GAIN.items()}
    paper = of["published"] or {}
    row |= {"baseline": of["baseline"], "published": paper.get("error"), "published_of": paper.get("of")}
    row["not_comparable"] = "; ".join(paper.get("why_not", []))
    return row | {key: of[key] for key in ("teacher_error", "parameters", "seconds", "images_per_second")}


GAIN = {"gain": "gain", "gain_low": "low", "gain_high": "high", "gain_how": "how"}  # columns of a difference


def cell(value: object) -> object:
    """Numbers as they are; text on one line, with ' before what a spreadsheet would calculate."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(FORMULA) else text
