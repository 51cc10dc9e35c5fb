"""The paper's number beside a group's, and what keeps the two from being compared."""

from dataclasses import asdict

from overhaul.report.groups import Group
from overhaul.report.runs import is_number
from overhaul.report.statistics import error
from overhaul.setups import SETUPS
from overhaul.system.messages import printable
from overhaul.usual import OF_METHOD

RUNS = 5  # whose median the paper gives, of CIFAR
NEAR = 0.1  # percent that a teacher's error may be off
USUAL = {  # of a run's fields, those that can move a number
    "mixed_precision": "no",
    "gradient_accumulation_steps": 1,
    "sync_bn": False,
    "comm_hook": "no",
    "streaming": False,
}


def beside(group: Group) -> dict | None:
    """{"error": percent, "of", "models", "rule": final or best, "ours", "why_not": [words]}; None where none is known.

    ours: the group's error by the paper's rule. Comparable are the two where why_not is empty.
    """
    row = SETUPS.get(group.setup)
    if row is None or row.published is None:
        return None
    paper, alone = row.published, group.method == "original"
    found = group.final if paper.rule == "final" else group.best
    return {
        "error": paper.student if alone else paper.distilled,
        "of": "student alone" if alone else "distilled by overhaul",
        "models": paper.models,
        "rule": paper.rule,
        "ours": found and (found.median if paper.rule == "final" else found.mean),
        "why_not": why_not(group, row),
    }


def why_not(group: Group, row) -> list[str]:
    """What of a group is not as in the paper, in a few words each."""
    record, n, found = group.runs[0].record, len(group.finished), []
    if group.method not in ("original", "overhaul"):
        found.append(f"the paper has no {printable(group.method)[:40]}")
    if record.get("published") is None:
        found.append("own data or networks")
    found += [*of_recipe(group, row), *of_run(record["run"]), *of_teacher(group, record, row.published.teacher)]
    if record.get("changes_of_length"):
        found.append("the length was changed on the way")
    if not n:
        found.append("no run has finished")
    elif row.published.rule == "final" and n < RUNS:
        found.append(f"n = {n} of {RUNS}")
    return found


def of_recipe(group: Group, row) -> list[str]:
    mine, found = group.runs[0].record["recipe"], []
    for key, usual in asdict(row).items():
        usual = list(usual) if isinstance(usual, tuple) else usual
        of_another = key in OF_METHOD and group.method != row.method
        if key in mine and mine[key] != usual and not of_another:
            told = printable(str(mine[key]))[:40]
            found.append(f"{told} epochs, not {usual}" if key == "epochs" else f"{key} {told}, not {usual}")
    return found


def of_run(how: dict) -> list[str]:
    return [f"{key} {printable(str(how[key]))[:40]}" for key, usual in USUAL.items() if how.get(key, usual) != usual]


def of_teacher(group: Group, record: dict, theirs: float) -> list[str]:
    """Of another error than the paper's."""
    top1 = (record.get("teacher") or {}).get("test_top1")
    if group.method == "original" or (is_number(top1) and abs(100 - top1 - theirs) <= NEAR):
        return []
    mine = f"{error(100 - top1)} %" if is_number(top1) else "not known"
    return [f"the teacher's error is {mine}, not {theirs:.2f} %"]
