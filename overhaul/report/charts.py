"""What a report draws of its groups: which look how, and the charts."""

import io
import math

from overhaul.report.drawing import COLOURS, GREY, Line, Style, draw_lines, over_cost, over_epochs
from overhaul.report.runs import is_number
from overhaul.report.statistics import error
from overhaul.system.messages import printable

ENOUGH = 3  # epochs of a half that is worth a chart
UNITS = ((3600, "hours"), (60, "minutes"), (1, "seconds"))


def number(value: object) -> float | None:
    return value if is_number(value) else None


def styles(groups: list) -> list[Style]:
    """How each group looks; of more than there are colours the best, and the first student alone, have one."""
    if len(groups) <= len(COLOURS):
        return [Style(place) for place in range(len(groups))]
    order = sorted(range(len(groups)), key=lambda place: last_error(groups[place]))
    alone = [place for place in order if groups[place].runs[0].method == "original"][:1]
    chosen = [*alone, *(place for place in order if place not in alone)][: len(COLOURS)]
    return [Style(chosen.index(place) if place in chosen else None) for place in range(len(groups))]


def last_error(group) -> float:
    """The mean of the runs' last test errors in percent; infinite where there is none."""
    found = [100 - told.final["test_top1"] for told in group.runs if told.final]
    return sum(found) / len(found) if found else math.inf


def values(told, key: str) -> list[tuple[int, float]]:
    """The (epoch, value) pairs of a run whose metrics.jsonl has such a value."""
    return [(line["epoch"], line[key]) for line in told.metrics if line.get(key) is not None]


def test_errors(told, key: str = "test_top1") -> list[tuple[int, float]]:
    """(epoch, top-1 error in percent) pairs."""
    return [(epoch, 100 - value) for epoch, value in values(told, key)]


def train_errors(told) -> list[tuple[int, float]]:
    return test_errors(told, "train_top1")


def later(told) -> list[tuple[int, float]]:
    """The test errors of the recipe's second half, where it has epochs enough to call it that."""
    half = told.epochs // 2
    return [(epoch, value) for epoch, value in test_errors(told) if epoch > half] if half >= ENOUGH else []


def loss_of(told, name: str) -> list[tuple[int, float]]:
    """A method's loss, which a sum of methods writes down apart, and a single one as distill_loss."""
    return values(told, "distill_loss" if told.method == name else f"distill_loss.{name}")


def methods(groups: list) -> list[str]:
    """The methods that have a loss, in the order of the groups."""
    words = [group.runs[0].method for group in groups]
    return [*dict.fromkeys(each for word in words for each in word.split("+") if each != "original")]


def teacher_error(groups: list) -> float | None:
    """The error in percent of the teacher that all runs have that have one."""
    teachers = [told.record.get("teacher") or {} for group in groups for told in group.runs]
    found = {number(each.get("test_top1")) for each in teachers} - {None}
    return 100 - found.pop() if len(found) == 1 else None


def charts(groups: list, looks: list[Style]) -> list[dict]:
    """The charts of a report, a {"title", "note", "svg"} each; one for which the runs have no numbers is left out."""
    teacher = teacher_error(groups)
    dotted = "" if teacher is None else f"; dotted: the teacher, {error(teacher)} %"
    wanted = [
        ("Test error", f"top-1 error in percent{dotted}", test_errors, {"rule": teacher}),
        ("Test error, the second half", "the axis does not begin at 0", later, {"zero": False}),
        ("Training error", "of the augmented images, while it learns", train_errors, {}),
        ("Loss: cross-entropy", "with the labels, without its weight", lambda told: values(told, "cross_entropy"), {}),
        *(
            (f"Loss: {name}", "with its weight", lambda told, name=name: loss_of(told, name), {"log": True})
            for name in methods(groups)
        ),
    ]
    found = []
    for title, note, value, how in wanted:
        pairs = zip(looks, (Line.of([value(told) for told in group.runs]) for group in groups), strict=True)
        if lines := [(style, line) for style, line in pairs if line]:
            words = "loss" if title.startswith("Loss") else "error, %"
            found.append({"title": title, "note": note, "svg": over_epochs(lines, words, **how)})
    return found + costs(groups, looks)


def costs(groups: list, looks: list[Style]) -> list[dict]:
    """Final test error of finished runs against training time and, where students differ, against their size."""
    times = [[told.seconds for told in group.finished] for group in groups]
    longest = max((each for group in times for each in group if each), default=0)
    unit, name = next(((unit, name) for unit, name in UNITS if longest >= 2 * unit), UNITS[-1])
    sizes = [[number(told.record["student"].get("parameters")) for told in group.finished] for group in groups]
    found = []
    for title, words, note, costs, scale in (
        ("Error against time", f"training time, {name}", "of training, without the tests", times, unit),
        ("Error against size", "parameters of the student, millions", "", sizes, 1e6),
    ):
        points = []
        for style, group, row in zip(looks, groups, costs, strict=True):
            known = [(cost, told) for cost, told in zip(row, group.finished, strict=True) if cost is not None]
            points += [(style, [(cost / scale, 100 - told.final["test_top1"]) for cost, told in known])] * bool(known)
        several = {cost for _, pairs in points for cost, _ in pairs}
        if points and (costs is times or len(several) > 1):
            svg = over_cost(points, words, "final test error, %")
            marks = "a small mark a run, a large one the mean of a group; the axis of errors does not begin at 0"
            note = f"{marks}; {note}" if note else marks
            found.append({"title": title, "note": note, "svg": svg})
    return found


def curves(groups: list) -> bytes:
    """A PNG of test and training error over the epochs, a line a group, with its legend."""
    from matplotlib.figure import Figure

    looks, teacher = styles(groups), teacher_error(groups)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for axes, value, words, rule in zip(
        figure.subplots(1, 2), (test_errors, train_errors), ("test", "training"), (teacher, None), strict=True
    ):
        pairs = zip(looks, (Line.of([value(told) for told in group.runs]) for group in groups), strict=True)
        draw_lines(axes, [(style, line) for style, line in pairs if line], rule)
        axes.set(xlabel="epoch", ylabel=f"{words} top-1 error, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    legend(figure, groups, looks, teacher)
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=100, metadata={"Software": None})
    return found.getvalue()


def legend(figure, groups: list, looks: list[Style], teacher: float | None) -> None:
    from matplotlib.lines import Line2D

    lines, words = [], []
    for group, style in zip(groups, looks, strict=True):
        if style.number is not None:
            lines.append(Line2D([], [], color=style.colour, linestyle=style.dash, marker=style.mark, markersize=4))
            words.append(f"{shorten(group.label)}, n = {len(group.runs)}")
    if rest := sum(style.number is None for style in looks):
        lines.append(Line2D([], [], color=GREY))
        words.append(f"{rest} other groups")
    if teacher is not None:
        lines.append(Line2D([], [], color="#555555", linestyle=":"))
        words.append(f"teacher, {error(teacher)} %")
    shown = figure.legend(lines, words, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    for text in shown.get_texts():
        text.set_parse_math(False)


def shorten(label: str, most: int = 60) -> str:
    label = printable(label)
    return label if len(label) <= most else f"{label[: most - 3]}..."
