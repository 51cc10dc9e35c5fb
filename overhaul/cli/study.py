"""The command `overhaul study`: flags with several values, a YAML file of them, and a table of the runs."""

import json
import textwrap
from pathlib import Path
from typing import Any

from overhaul import api
from overhaul.cli import help
from overhaul.cli.arguments import changes, names_student, read_yaml
from overhaul.cli.flags import Flags, training_flags
from overhaul.cli.values import SWITCH, is_names, is_switch, kinds_of, loaded, of_origin
from overhaul.recipe import Net
from overhaul.report.tables import filled
from overhaul.setups import SETUPS, get
from overhaul.study.grid import TAKEN, Axes, Cell, cells
from overhaul.study.plan import DESCRIPTION
from overhaul.study.study import study, task
from overhaul.system.messages import UserError, duration, nearest, text_table
from overhaul.system.preemption import STATUS

OWN = {"out": str, "jobs": int, "dry_run": bool, "quiet": bool, "config": str, "json": bool, "task": int}
NO_ENTRIES = ("config", "task", "json")  # of a --config file
HELPS = {
    "out": "the folder of the study: study.yaml, a folder a run, logs/ and report/; that of STUDY.yaml unless named",
    "jobs": "runs side by side, each on a GPU of its own, or on its share of the cores",
    "dry_run": "list the runs and what they will cost, by finished epochs or a few steps of each kind; writes nothing",
    "quiet": "no bar; a line a run is told all the same",
    "config": "a YAML file of these settings, each with a value or a list of several; flags count before it",
    "task": "write the study down and print the flags of run number N, from 0, for a job of its own",
    "json": "print JSON",
}


class StudyFlags(Flags):
    """Those of `overhaul train`, each with one value or several, and a study's own."""

    def __init__(self) -> None:
        theirs = {name: kind for name, kind in training_flags().kinds.items() if name not in (*TAKEN, "print_config")}
        super().__init__("study", theirs | OWN)

    def text(self, name: str, rest: list[str]) -> str:
        if is_switch(self.kind(name)) and rest and all(each.lower() in SWITCH for each in rest[0].split(",")):
            return rest.pop(0)
        return super().text(name, rest)


def parse(argv: list[str]) -> tuple[Axes, list[tuple[str, dict]], dict]:
    """A study's axes, the label and the arguments of api.train of each run, and the study's own settings."""
    flags = StudyFlags()
    given, alone = flags.split(argv)
    if len(alone) > 1:
        raise UserError(f"unknown argument {alone[1]}; {flags.command} --help lists the flags")
    entries, own = {}, {}
    files = [text for name, text in given if name == "config"]
    if alone:
        file = Path(alone[0], DESCRIPTION) if Path(alone[0]).is_dir() else Path(alone[0])
        files.insert(0, str(file))
        own |= {"out": str(file.parent)} if file.name == DESCRIPTION else {}
    for file in files:
        entries |= read(file, flags)
    entries |= {name: split(name, text) for name, text in given if name != "config"}
    for name in [each for each in entries if each in OWN]:
        values = entries.pop(name)
        if len(values) > 1:
            raise UserError(f"--{name} takes one value")
        own |= flags.flat(name, values[0])
    if "out" not in own:
        raise UserError("overhaul study needs --out FOLDER, which its runs are kept in")
    entries = {"setup": ["own"] if names_student(entries) else [], **entries}
    if not entries["setup"]:
        raise UserError(f"name setups with --setup ({', '.join(SETUPS)}), or a student with --student")
    axes = {name: [typed(name, each, flags) for each in values] for name, values in entries.items()}
    return axes, [(cell.label, arguments(cell, flags)) for cell in cells(axes)], own


def split(name: str, text: str) -> list[str]:
    """The values in a text: what stands between its commas, but for those in brackets, braces or quotes."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            values.append("")
            continue
        if letter in "\"'":
            quote = "" if letter == quote else quote or letter
        elif not quote:
            depth += (letter in "[{(") - (letter in "]})")
        values[-1] += letter
    values = [each.strip() for each in values]
    if len(values) > 1 and "" in values:
        raise UserError(f"--{name} {text}: a value between its commas is missing")
    if len({*values}) < len(values):
        raise UserError(f"--{name} {text}: a value stands there twice")
    return values


def typed(name: str, value: Any, flags: Flags) -> Any:
    """A value as study.yaml has it, checked; networks and names as they were said."""
    kind = flags.kind(name)
    flat = flags.flat(name, value)
    if kind is Net or of_origin(kind, dict) or is_names(kind) or list(flat) != [name]:
        return value if str in kinds_of(kind) or kind is Net else loaded(value)
    return list(flat[name]) if isinstance(flat[name], tuple) else flat[name]


def arguments(cell: Cell, flags: Flags) -> dict:
    """Those of api.train."""
    flat = {}
    for name, value in cell.values.items():
        flat |= flags.flat(name, value)
    flat.pop("setup")
    return changes(get(cell.values["setup"]), [flat])


def read(file: str, flags: Flags) -> dict[str, list]:
    """The entries of a YAML file, each with its values."""
    found = read_yaml(file, file)
    entries = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        kind = flags.kind(name)
        if kind is None or name in NO_ENTRIES:
            names = [each for each in flags.kinds if each not in NO_ENTRIES]
            raise UserError(f"{file} has the unknown entry {key}{nearest(name, names, 0.5)}")
        several = isinstance(value, list)
        if of_origin(kind, tuple):  # a list is one value, a list of lists several
            several = several and all(isinstance(each, (list, type(None))) for each in value)
        entries[name] = value if several else [value]
        for each in entries[name]:
            flags.flat(name, each, f"{file}: ")
        if not entries[name]:
            raise UserError(f"{file}: {name} has no value")
    return entries


def run(argv: list[str]) -> int:
    """The command; its status is 1 where a run failed, and STATUS where one was stopped by another than the study."""
    axes, asked, own = parse(argv)
    as_json, number = own.pop("json", False), own.pop("task", None)
    if number is not None:
        print("\n".join(task(axes, asked, own["out"], number)))
        return 0
    found = study(axes, asked, **own, show=not as_json)
    print(json.dumps(found) if as_json else table(found))
    states = {each["state"] for each in found}
    if own.get("dry_run"):
        return 0
    return 1 if "failed" in states else STATUS if "interrupted" in states else 0


def table(found: list[dict]) -> str:
    """A line a run."""
    rows = [("number", "run", "state", "epochs", "top-1 %", "training time", "to come", "")]
    for number, each in enumerate(found):
        top1 = "-" if each["test_top1"] is None else f"{each['test_top1']:.2f}"
        left = "-" if each["seconds_left"] is None else duration(each["seconds_left"])
        epochs = f"{each['epochs']}/{each['epochs_asked'] or '?'}"
        time = duration(each["seconds"]) if each["epochs"] else "-"
        rows.append(
            (
                str(number),
                each["run"],
                each["state"],
                epochs,
                top1,
                time,
                left,
                textwrap.shorten(each["why"] or "", 60, placeholder=" ..."),
            )
        )
    left = [each["seconds_left"] for each in found if each["seconds_left"] is not None]
    total = f"\n\n{duration(sum(left))} of training to come, one run after the other, tests apart" if left else ""
    return text_table(filled(rows)) + total


def helped(words: str, examples: tuple[str, ...]) -> str:
    """What --help says."""
    theirs = help.helps_of(api.train) | help.helps_of_nets() | help.helps_of_settings(None) | help.OWN | HELPS
    values, titles = help.values_of(None) | {"jobs": 1, "json": False}, {"the study": []}
    for name, kind in StudyFlags().kinds.items():
        if name.count(".") < 2 or not name.startswith(help.METHOD):
            title = "the study" if name in OWN else help.title_of(name)
            titles.setdefault(title, []).append(help.row(name, kind, theirs, values.get(name)))
    usage = "usage: overhaul study [STUDY.yaml] --out FOLDER [--setup NAME,...] [--FLAG VALUE,VALUE ...]"
    return help.page(usage, words, examples, titles)
