"""How a chart is drawn as SVG for a page: a line or a mark a group of runs, with the range of its seeds."""

import io
import math
import re
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito's: all can tell
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (8, 2, 2, 2)))
MARKS = "osD^vPX"
GREY = "#b9b9b9"  # of the groups beyond the colours
POINTS = 120  # of a line: one a pixel pair of the chart; more would only make the page large
SIZE = (4.6, 3.1)  # inches; small, so that a phone shows its letters as they are


@dataclass(frozen=True)
class Style:
    """How a group looks in all charts; number: of those that have a colour, or None."""

    number: int | None

    @property
    def colour(self) -> str:
        return GREY if self.number is None else COLOURS[self.number % len(COLOURS)]

    @property
    def dash(self):
        return "-" if self.number is None else DASHES[self.number % len(DASHES)]

    @property
    def mark(self) -> str:
        return "o" if self.number is None else MARKS[self.number % len(MARKS)]


@dataclass(frozen=True)
class Line:
    """A value over the epochs: the mean of a group's runs that have the epoch, their lowest and their highest."""

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, runs: list[list[tuple[int, float]]]) -> "Line | None":
        """runs: the (epoch, value) pairs of each; None where there are none."""
        by_epoch: dict[int, list[float]] = {}
        for epoch, value in (pair for run in runs for pair in run):
            by_epoch.setdefault(epoch, []).append(value)
        if not by_epoch:
            return None
        epochs = sorted(by_epoch)
        epochs = sorted({*epochs[:: -(-len(epochs) // POINTS)], epochs[-1]})
        found = [by_epoch[epoch] for epoch in epochs]
        return cls(epochs, [sum(each) / len(each) for each in found], [*map(min, found)], [*map(max, found)])


def over_epochs(
    lines: list[tuple[Style, Line]], words: str, rule: float | None = None, zero: bool = True, log: bool = False
) -> str:
    """An SVG of lines over the epochs. words: of the y axis; rule: a level drawn across; zero: y begins at 0."""
    figure, axes = canvas()
    draw_lines(axes, lines, rule)
    axes.set(xlabel="epoch", ylabel=words)
    if log and apart_by(20, [value for _, line in lines for value in line.mean]):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
    elif zero:
        axes.set_ylim(bottom=0)
    return svg(figure)


def draw_lines(axes, lines: list[tuple[Style, Line]], rule: float | None = None) -> None:
    for style, line in in_order(lines):
        known = style.number is not None
        how = {"color": style.colour, "linestyle": style.dash, "linewidth": 1.6 if known else 0.6}
        marker = style.mark if known and len(line.epochs) < 20 else None
        axes.plot(line.epochs, line.mean, marker=marker, markersize=3.5, **how)
        if known and line.low != line.high:
            axes.fill_between(line.epochs, line.low, line.high, color=style.colour, alpha=0.18, linewidth=0)
    if rule is not None:
        axes.axhline(rule, color="#555555", linewidth=1, linestyle=":")
    axes.xaxis.get_major_locator().set_params(integer=True)


def in_order(pairs: list[tuple]) -> list[tuple]:
    """As they are drawn: the grey ones below, the first group on top."""
    return sorted(pairs, key=lambda pair: -math.inf if pair[0].number is None else -pair[0].number)


def over_cost(points: list[tuple[Style, list[tuple[float, float]]]], x: str, y: str) -> str:
    """An SVG of what runs cost and reach: a small mark a run (cost, value), a large one a group's mean."""
    figure, axes = canvas()
    costs = [cost for _, runs in points for cost, _ in runs]
    for style, runs in in_order(points):
        how = {"color": style.colour, "marker": style.mark, "linestyle": "none"}
        if len(runs) > 1:
            axes.plot(*zip(*runs, strict=True), markersize=3, alpha=0.6, **how)
        middle = [sum(values) / len(runs) for values in zip(*runs, strict=True)]
        axes.plot(*([value] for value in middle), markersize=4 if style.number is None else 7, **how)
    axes.set(xlabel=x, ylabel=y)
    if apart_by(20, costs):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    else:
        axes.set_xlim(left=0, right=1.08 * max(costs) or 1)
    return svg(figure)


def apart_by(times: float, values: list[float]) -> bool:
    """Whether a logarithmic axis shows them better."""
    return 0 < min(values) < max(values) / times


def plain_numbers(axis) -> None:
    """1, 2, 5, 10 on a logarithmic axis, not powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def canvas():
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    axes = figure.add_axes((0.14, 0.15, 0.84, 0.82))  # matplotlib's own layouts draw all twice
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure) -> str:
    """Without what a page has itself; letters stay letters, numbers have two decimals."""
    import matplotlib

    told = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "overhaul", "path.simplify_threshold": 0.4}):
        figure.savefig(told, format="svg", metadata=nothing, transparent=True)
    text = told.getvalue()
    text = re.sub(r"<!--.*?-->|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", text).replace("xlink:href", "href")
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d{2})\d+", r"\1", tag[0]), text)


def apart(picture: str, name: str) -> str:
    """The SVG with ids of its own among others of its page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", picture)


def swatch(style: Style) -> str:
    """A small SVG for the legend: a group's line and mark."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.42, 0.16))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.plot([0.03, 0.5, 0.97], [0.5] * 3, color=style.colour, linestyle=style.dash, linewidth=1.6)
    axes.plot([0.5], [0.5], color=style.colour, marker=style.mark, markersize=5)
    return svg(figure)
