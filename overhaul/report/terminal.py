"""A report's curves as text, for a terminal."""

from overhaul.report import charts
from overhaul.report.statistics import error
from overhaul.system.messages import printable

BLOCKS, ASCII = " ▁▂▃▄▅▆▇█", " .:#"
ROWS = 8  # lines of the chart of one group


def curves(groups: list, width: int = 80, height: int = 24, encoding: str | None = "utf-8") -> str:
    """Test errors in percent over the epochs of the recipe, from 0 to the highest: the mean of a group's runs.

    One group is a chart, of several each has a line; what does not fit the height is counted. encoding: the terminal's.
    """
    blocks = BLOCKS if can_show(BLOCKS, encoding) else ASCII
    lines = [charts.Line.of([charts.test_errors(told) for told in group.runs]) for group in groups]
    highest = max((value for line in lines if line for value in line.mean), default=0) or 1
    if len(groups) == 1:
        text = chart(groups[0], lines[0], highest, width, blocks)
    else:
        text = table(groups, lines, highest, width, height, blocks)
    if blocks is ASCII:
        text = [line.encode("ascii", "replace").decode() for line in text]
    return "\n".join(line[:width] for line in text)


def can_show(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def chart(group, line, highest: float, width: int, blocks: str) -> list[str]:
    head = [f"{printable(group.label)}, {state(group)}"]
    if line is None:
        return head
    axis = [f"{error(highest)} %", *[""] * (ROWS - 2), "0 %"]
    shown = columns(line, group.runs[0].epochs, width - 10)
    rows = [f"{words:>8} |{row}" for words, row in zip(axis, area(shown, highest, ROWS, blocks), strict=True)]
    return [*head, f"test error: {error(line.mean[-1])} %, lowest {error(min(line.mean))} %", *rows]


def table(groups: list, lines: list, highest: float, width: int, height: int, blocks: str) -> list[str]:
    labels, told = [printable(group.label) for group in groups], [state(group) for group in groups]
    label = min(max(map(len, labels)), max(12, 2 * width // 5))
    room = max(4, width - label - 13 - max(map(len, told)))
    found = [f"test error, 0 to {error(highest)} %"]
    for group, line, name, words in zip(groups, lines, labels, told, strict=True):
        row = area(columns(line, group.runs[0].epochs, room), highest, 1, blocks)[0] if line else " " * room
        last = f"{error(line.mean[-1])} %" if line else "-"
        found.append(f"{clipped(name, label):{label}} {row} {last:>8}  {words}")
    most = max(2, height - 1)
    return found if len(found) <= most else [*found[: most - 1], f"and {len(found) - most + 1} more groups"]


def clipped(text: str, most: int) -> str:
    """Without its middle, as ends tell groups apart."""
    return text if len(text) <= most else f"{text[: most // 3 - 1]}..{text[most // 3 + 1 - most :]}"


def state(group) -> str:
    """How far its runs are."""
    done = [len(told.metrics) for told in group.runs]
    epochs = group.runs[0].epochs
    least, most = min(done), max(done)
    so_far = f"{least}" if least == most else f"{least} to {most}"
    return f"epoch {so_far}/{epochs}, n = {len(done)}"


def columns(line, epochs: int, width: int) -> list[float | None]:
    """The value at each of `width` places from the first epoch to the recipe's last, None where it has not come."""
    found = []
    for place in range(width):
        epoch = 1 + place * epochs // width
        known = [value for each, value in zip(line.epochs, line.mean, strict=True) if each <= epoch]
        found.append(known[-1] if known and epoch <= line.epochs[-1] else None)
    return found


def area(values: list[float | None], highest: float, rows: int, blocks: str) -> list[str]:
    """Lines of text, the top first, that are filled up to the values."""
    steps = len(blocks) - 1
    heights = [0 if value is None else max(1, round(value / highest * rows * steps)) for value in values]
    return [
        "".join(blocks[min(steps, max(0, height - row * steps))] for height in heights) for row in reversed(range(rows))
    ]
