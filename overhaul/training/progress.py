"""What a person sees of a run under way: its pace, signs of life, a line an epoch, and its result."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator

from overhaul.recipe import Setup
from overhaul.run.state import State
from overhaul.system.accelerator import Nobody, of_main
from overhaul.system.messages import duration, printable, say
from overhaul.system.preemption import StopSignal
from overhaul.system.signs import Signs

WARM_UP, MEASURED = 3, 8  # steps: those not timed, and the last one timed


class Progress:
    """Lines, and signs of life between them unless quiet.

    steps: of the whole run that are still to do; world: how many processes there are.
    """

    def __init__(self, steps: int, quiet: bool = False, world: int = 1) -> None:
        self.steps, self.quiet, self.world, self.done, self.started = steps, quiet, world, 0, time.monotonic()
        self.signs, self.means = None, ""  # of the epoch or test that is open, or was last

    def say(self, text: str) -> None:
        say(text, sys.stdout)

    def open_epoch(self, title: str, steps: int, done: int = 0) -> None:
        self.means = ""
        self.signs = Signs(title, steps, "step", self.say, self.words, done, self.quiet)

    def step(self) -> None:
        self.done += 1
        self.signs.count()

    def show(self, means: dict, images_per_second: float) -> None:
        """The epoch's means so far."""
        apart = [f"{name} {each:.3f}" for key, each in means.items() if (name := key.partition("distill_loss.")[2])]
        loss = " ".join([f"loss {means['loss']:.3f}", *([f"({', '.join(apart)})"] if apart else [])])
        self.means = f"{loss}, top-1 {means['train_top1']:.1f} %, {images_per_second:.0f} images/s"
        self.signs.refresh()

    def words(self) -> str:
        """What stands beside the count of steps or batches."""
        left = f"{duration(self.left)} left in all" if self.done else ""
        return ", ".join(filter(None, (self.means, left)))

    def open_test(self, images: int | None) -> None:
        self.means = ""
        self.signs = Signs("test", images, "images", self.say, self.words, quiet=self.quiet)

    def tested(self, images: int) -> None:
        """By this process, as the others do at its pace."""
        more, total = images * self.world, self.signs.total
        self.signs.count(more if total is None else min(more, total - self.signs.done))

    def close(self) -> None:
        """The epoch or test that is open."""
        if self.signs:
            self.signs.close()

    def epoch(self, line: dict, setup: Setup, beside: str = "") -> None:
        """A line of metrics.jsonl. beside: how it compares with another run's."""
        self.say(
            f"epoch {line['epoch']:3d}/{setup.epochs}  {losses(line, setup)}  train top-1 {line['train_top1']:.2f} %  "
            f"test top-1 {line['test_top1']:.2f} %, top-5 {line['test_top5']:.2f} %  lr {line['lr']:g}  "
            f"{line['images_per_second']:.0f} images/s  {duration(self.left)} left{beside}"
        )

    @property
    def left(self) -> float:
        """Seconds to the end of the run, evaluations included, at the pace so far."""
        return (time.monotonic() - self.started) / max(self.done, 1) * (self.steps - self.done)


def losses(line: dict, setup: Setup) -> str:
    """The loss of an epoch, and what it is made of."""
    labelled = f"{line['cross_entropy']:.3f}"
    if setup.label_weight != 1:
        labelled = f"{setup.label_weight:g} x {labelled}"
    if len(setup.methods) > 1:
        distilled = [f"{line[f'distill_loss.{name}']:.3f} ({name})" for name in setup.methods]
    else:
        distilled = [f"{line['distill_loss']:.3f}"] if setup.method != "original" else []
    return " = ".join([f"loss {line['loss']:.3f}", *([" + ".join([labelled, *distilled])] if distilled else [])])


def start_progress(show: bool, accelerator: Accelerator, steps: int, quiet: bool) -> Progress | Nobody:
    """The progress of a run of that many steps, on the main process, if it is shown."""
    return of_main(accelerator, lambda: Progress(steps, quiet, accelerator.num_processes)) if show else Nobody()


def shown(progress: Progress | Nobody, stop: StopSignal) -> Callable[[Iterable], Iterator]:
    """What gives a test loader's batches on as stop.in_step does, and shows how many images there have been."""

    def batches(loader) -> Iterator:
        progress.open_test(loader.expected)
        try:
            for images, labels in stop.in_step(loader):
                yield images, labels
                progress.tested(len(labels))
        finally:
            progress.close()

    return batches


class Pace:
    """The peak memory of the first step and the images a second after warm-up.

    The caller reads a value from the device at each of `sync_steps`, steps of the running epoch, so that its clock and
    the device's agree. steps: those still to be trained; first: those of the epoch that are done.
    """

    def __init__(self, device: torch.device, batch_size: int, epoch_steps: int, steps: int, first: int = 0) -> None:
        self.device, self.batch_size, self.steps, self.first = device, batch_size, steps, first
        last = min(MEASURED, epoch_steps - first)
        self.sync_steps = {first + each for each in (1, min(WARM_UP, last - 1), last) if each > 0}
        self.started, self.memory = (first, time.monotonic()), 0
        forget_peak(device)

    def look(self, step: int) -> str | None:
        """To be called after the steps in `sync_steps`; after the last of them, what to say."""
        now = (step, time.monotonic())
        if step == self.first + 1:
            self.memory = peak_memory(self.device)
        if step < max(self.sync_steps):
            self.started = now
            return None
        steps, seconds = (after - before for before, after in zip(self.started, now, strict=True))
        pace = steps * self.batch_size / seconds
        left = self.steps * self.batch_size / pace
        timed = f"steps {self.started[0] + 1} to {step}"
        return (
            f"  pace       {pace:.3g} images/s ({timed}): about {duration(left)} of training to come, tests apart\n"
            f"  memory     {self.memory / 2**30:.2f} GiB at the peak of the first step, of "
            f"{'the GPU' if self.device.type == 'cuda' else 'this process, all that it has loaded included'}"
        )


def forget_peak(device: torch.device) -> None:
    """Let the peak of a CUDA GPU's memory begin anew; a process's is that of its whole life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of a CUDA GPU's tensors, on other devices of this process, all that it has loaded included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resumed(state: State, processes: int, threads: int | None) -> str:
    """What is said where a run goes on, on so many processes of so many threads."""
    words = f"resumed {state.where}"
    if state.threads and threads and state.threads != threads:
        words += (
            f"; it ran on {state.threads} thread{'s' * (state.threads > 1)} before and on {threads} now "
            f"(OMP_NUM_THREADS): not the same to the last bit, as sums are taken in another order"
        )
    if state.processes != processes:
        words += (
            f"; it ran on {state.processes} process{'es' * (state.processes > 1)} before and on {processes} now: the "
            f"same images in the same order, but not the same to the last bit, as BatchNorm takes its statistics over "
            f"other shares of a batch"
        )
    return words


def result_lines(setup: Setup, seed: int, final: dict, best: dict, folder: Path) -> str:
    """The errors of the final and the best epoch beside the published ones, and where the student lies."""
    lines = [
        f"{setup.name}, {setup.method}, seed {seed}, {setup.epochs} epochs: "
        f"top-1 error {100 - final['test_top1']:.2f} %, top-5 {100 - final['test_top5']:.2f} % (final); "
        f"{100 - best['test_top1']:.2f} %, {100 - best['test_top5']:.2f} % (best, epoch {best['epoch']})"
    ]
    if paper := setup.published:
        rows = paper.rows(setup.method)
        errors = (f"{one:.2f} %{f' / {five:.2f} %' if five else ''} {name}" for name, one, five in rows)
        lines.append(f"published top-1{' / top-5' if paper.top5 else ''} error: {', '.join(errors)} ({paper.models})")
    where = printable(str(folder))
    return "\n".join([*lines, f"final student: {where}/final   best student: {where}/best"])
