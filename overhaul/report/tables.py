"""Plain-text tables: the setups, and the result of the demo."""

import torch

from overhaul import models
from overhaul.setups import SETUPS, Net, Setup

HEAD = ("setup", "method", "teacher", "student", "M parameters", "data", "epochs", "batch", "published error %")


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Rows under their head, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def bench_table(lines: list[dict]) -> str:
    """Images a second of one core."""
    keys = ("images_per_second", "lowest", "highest")
    rows = [(line["data"], *(f"{line[key]:,.0f}" for key in keys)) for line in lines]
    return text_table([("training images", "images/s (median)", "lowest", "highest"), *rows])


def step_table(result: dict) -> str:
    """What bench.bench found: a line a piece of the step, and the whole beside the machine."""
    whole, peak = sum(result["pieces"].values()), result["peak_memory"] / 2**30
    rows = [(name, f"{1000 * each:.1f}", f"{100 * each / whole:.1f}") for name, each in result["pieces"].items()]
    compiled = "" if result["compile"] == "no" else f", --compile {result['compile']}"
    share = result["flops"] / result["convolution_flops"]
    return "\n".join(
        [
            f"{result['setup']}, {result['method']}, batches of {result['batch_size']}: {result['device']}{compiled}\n",
            text_table([("piece of a step", "ms (median)", "share %"), *rows]),
            f"\nwhole step  {1000 * result['step']:.1f} ms (median of {result['steps']}), "
            f"{result['images_per_second']:,.1f} images/s",
            f"networks    {result['flops'] / 1e9:,.0f} GFLOP/s, {share:.2f} of what a large convolution reaches here "
            f"({result['convolution_flops'] / 1e9:,.0f})",
            f"memory      {peak:.2f} GiB at the peak",
        ]
    )


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
