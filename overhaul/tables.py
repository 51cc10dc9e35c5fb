"""Plain-text tables: the setups, and the result of the demo."""

import torch

from overhaul import models
from overhaul.setups import SETUPS, Net, Setup

RATIOS = ("ratio", "lowest", "highest")
HEAD = ("setup", "method", "teacher", "student", "M parameters", "data", "epochs", "batch", "published error %")


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Rows under their head, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def bench_table(lines: list[dict]) -> str:
    """Images a second of one core, ours and the release's."""
    head = ("training images", "ours, images/s", "release, images/s", "ratio (median)", "lowest", "highest")
    rows = [
        (line["data"], *(f"{line[key]:,.0f}" for key in ("ours", "release")), *(f"{line[key]:.2f}" for key in RATIOS))
        for line in lines
    ]
    return text_table([head, *rows])


def parameters(net: Net) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.create(net).parameters())


def setups_table() -> str:
    return text_table([HEAD, *map(setup_row, SETUPS.values())]) + (
        "\n\npublished error: top-1 (ImageNet: / top-5) of the student alone -> distilled; CIFAR: median of 5 final "
        "models, ImageNet: best epoch"
    )


def setup_row(setup: Setup) -> tuple[str, ...]:
    nets = [net for net in (setup.teacher, setup.student) if net]
    sizes = " -> ".join(f"{parameters(net) / 1e6:.2f}" for net in nets)
    teacher = describe(setup.teacher) if setup.teacher else "-"
    return (
        setup.name,
        setup.method,
        teacher,
        describe(setup.student),
        sizes,
        setup.data,
        str(setup.epochs),
        str(setup.batch_size),
        errors(setup),
    )


def describe(net: Net) -> str:
    """The net as papers write it, without its number of classes."""
    numbers = " ".join(
        f"{key} {value}" for key, value in net.kwargs.items() if key not in ("num_classes", "bottleneck")
    )
    return f"{net.family} {numbers}".strip()


def errors(setup: Setup) -> str:
    paper = setup.published
    if paper is None:
        return "-"
    if paper.top5 is None:
        return f"{paper.student:.2f} -> {paper.distilled:.2f}"
    _, student, distilled = paper.top5
    return f"{paper.student:.2f} / {student:.2f} -> {paper.distilled:.2f} / {distilled:.2f}"
