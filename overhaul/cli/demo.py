"""The main job from end to end on handwritten digits: a teacher, the student alone, the student distilled."""

from dataclasses import replace
from pathlib import Path

from overhaul.options import Run
from overhaul.report.tables import parameters, text_table
from overhaul.setups import SETUPS, Setup
from overhaul.training.trainer import Result, train


def demo(folder: Path, epochs: int | None = None) -> str:
    """Train the three (or go on with what is there) under `folder`; a table of them and where the student lies.

    epochs: of each, in place of their own.
    """
    pair = SETUPS["digits_teacher"], SETUPS["digits"]
    teacher_setup, distilled = (replace(setup, epochs=epochs or setup.epochs) for setup in pair)
    teacher = run_in(folder, teacher_setup)
    alone = run_in(folder, replace(distilled, method="original"))
    weights = replace(distilled.teacher, weights=str(teacher.folder))
    overhaul = run_in(folder, replace(distilled, teacher=weights))
    rows = [
        row("teacher", teacher_setup, teacher),
        row("student, original", distilled, alone),
        row("student, overhaul", distilled, overhaul),
    ]
    head = ("network", "parameters", "test top-1 %", "training time")
    return f"\n{text_table([head, *rows])}\n\nthe distilled student: {overhaul.folder / 'final'}"


def run_in(folder: Path, setup: Setup) -> Result:
    return train(setup, Run(output_dir=str(folder / f"{setup.name}-{setup.method}-seed0")))


def row(name: str, setup: Setup, result: Result) -> tuple[str, ...]:
    seconds = sum(line["seconds"] for line in result.metrics)
    return name, f"{parameters(setup.student):,}", f"{result.final['test_top1']:.2f}", f"{seconds:.0f} s"
