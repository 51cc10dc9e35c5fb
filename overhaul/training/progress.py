"""What a person sees of a run: its opening, a bar an epoch on a terminal, a line an epoch, and its result."""

import sys
import time
from pathlib import Path

from tqdm import tqdm

from overhaul.setups import Setup


class Progress:
    """Lines and bars of the main process; on the others every call does nothing.

    steps: of the whole run that are still to do, for the time left.
    """

    def __init__(self, main: bool, steps: int) -> None:
        self.main, self.steps, self.done, self.started = main, steps, 0, time.monotonic()
        self.bar = None

    def say(self, text: str) -> None:
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def open_epoch(self, title: str, steps: int, done: int = 0) -> None:
        quiet = not (self.main and sys.stderr.isatty())
        how = {"unit": "step", "leave": False, "disable": quiet, "dynamic_ncols": True}
        self.bar = tqdm(total=steps, initial=done, desc=title, **how)

    def step(self) -> None:
        self.done += 1
        self.bar.update()

    def show(self, loss: float, top1: float, images_per_second: float) -> None:
        self.bar.set_postfix_str(
            f"loss {loss:.3f}, top-1 {top1:.1f} %, {images_per_second:.0f} images/s, {duration(self.left)} left in all"
        )

    def close_epoch(self) -> None:
        self.bar.close()

    @property
    def left(self) -> float:
        """Seconds to the end of the run, evaluations included, at the pace so far."""
        return (time.monotonic() - self.started) / max(self.done, 1) * (self.steps - self.done)


def duration(seconds: float) -> str:
    """For people: "42 s", "3 min 05 s", "2 h 10 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def epoch_line(line: dict, setup: Setup, left: float) -> str:
    losses = f"loss {line['loss']:.3f}"
    if setup.method != "original":
        losses += f" = {line['cross_entropy']:.3f} + {line['distill_loss']:.3f}"
    return (
        f"epoch {line['epoch']:3d}/{setup.epochs}  {losses}  train top-1 {line['train_top1']:.2f} %  "
        f"test top-1 {line['test_top1']:.2f} %, top-5 {line['test_top5']:.2f} %  lr {line['lr']:g}  "
        f"{line['images_per_second']:.0f} images/s  {duration(left)} left"
    )


def result_lines(setup: Setup, seed: int, final: dict, best: dict, folder: Path) -> str:
    """The errors of the final and the best epoch beside the published ones, and where the student lies."""
    lines = [
        f"{setup.name}, {setup.method}, seed {seed}, {setup.epochs} epochs: "
        f"top-1 error {100 - final['test_top1']:.2f} %, top-5 {100 - final['test_top5']:.2f} % (final); "
        f"{100 - best['test_top1']:.2f} %, {100 - best['test_top5']:.2f} % (best, epoch {best['epoch']})"
    ]
    if setup.published:
        paper = setup.published
        models = "median of 5 final models" if paper.rule == "final" else "best epoch"
        top5 = paper.top5 or (None, None, None)
        names = ("distilled", "student alone", "teacher")
        pairs = zip(names, (paper.distilled, paper.student, paper.teacher), (top5[2], top5[1], top5[0]), strict=True)
        errors = (f"{one:.2f} %{f' / {five:.2f} %' if five else ''} {name}" for name, one, five in pairs)
        lines.append(f"published top-1{' / top-5' if paper.top5 else ''} error: {', '.join(errors)} ({models})")
    return "\n".join([*lines, f"final student: {folder / 'final'}   best student: {folder / 'best'}"])
