"""A study from its description to its runs, its report and a line a run."""

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from overhaul.study.costs import costs
from overhaul.study.grid import Axes, left_out_of_original
from overhaul.study.jobs import Jobs, environments, last_words
from overhaul.study.plan import LOGS, Planned, locked, planned, write
from overhaul.system.messages import UserError, duration, warn
from overhaul.system.preemption import STATUS, Preempted

LOOK = 1.0  # seconds between two looks at the runs' metrics


def study(
    axes: Axes,
    asked: Sequence[tuple[str, dict]],
    out: str,
    jobs: int = 1,
    dry_run: bool = False,
    quiet: bool = False,
    show: bool = False,
) -> list[dict]:
    """Carry out a study; see api.study. asked: the label of each run, and its arguments of api.train."""
    folder = Path(out).expanduser()
    runs, places = planned(folder, asked), environments(jobs)
    if show and (names := left_out_of_original(axes)):
        tqdm.write(
            f"runs of original train the student alone, once, without {', '.join(f'--{each}' for each in names)}"
        )
    if dry_run:
        known = costs(runs)
        return [line(run, run.state(), *known.get(run.name, ())) for run in runs]
    with locked(folder, ".lock"):
        write(folder, axes, runs)
        states = carry_out(runs, places, show, quiet)
        report(folder, show)
    return [line(run, *states[run.name]) for run in runs]


def task(axes: Axes, asked: Sequence[tuple[str, dict]], out: str, number: int) -> list[str]:
    """The flags of `overhaul train` for a run by its number in the study's list, from 0; writes the study down."""
    folder = Path(out).expanduser()
    runs = planned(folder, asked)
    if not 0 <= number < len(runs):
        raise UserError(f"the study has {len(runs)} runs, 0 to {len(runs) - 1}, and no number {number}")
    write(folder, axes, runs)
    return ["--config", str(runs[number].config_file)]


def line(run: Planned, state: str, seconds_left: float | None = None, why: str | None = None) -> dict:
    """What a study returns of a run."""
    metrics = run.metrics()
    return {
        "run": run.name,
        "setup": run.setup.name,
        "method": run.setup.method,
        "seed": run.run.seed,
        "state": state,
        "epochs": len(metrics),
        "epochs_asked": run.epochs,
        "test_top1": metrics[-1]["test_top1"] if metrics else None,
        "seconds": sum(each.get("seconds") or 0 for each in metrics),
        "seconds_left": seconds_left,
        "why": why,
        "folder": str(run.folder),
    }


def carry_out(runs: Sequence[Planned], places: Sequence[dict], show: bool, quiet: bool) -> dict[str, tuple]:
    """Run what is not finished; of each run its state in the end and, of one that failed, None and its last line."""
    states = {run.name: ("finished",) for run in runs if run.finished()}
    bar, began = Bar(runs, show, quiet), time.monotonic()
    bar.say(f"{len(runs)} runs, {len(states)} of them finished; what they say is in {runs[0].out / LOGS}")
    jobs = Jobs([run for run in runs if run.name not in states], places)
    with ExitStack() as closing:
        closing.callback(bar.close)
        try:
            for run, status in jobs.ended(bar.look):
                states[run.name] = state = outcome(run, status)
                bar.say(f"{run.name}: {told(run, state)} ({len(states)} of {len(runs)}, {since(began)})")
        except Preempted as stopped:
            raise Preempted(f"{stopped}; {so_far(runs)}") from None
    return states


def since(began: float) -> str:
    return f"{duration(time.monotonic() - began)} since the start"


def so_far(runs: Sequence[Planned]) -> str:
    return f"{sum(run.finished() for run in runs)} of {len(runs)} runs are finished"


def outcome(run: Planned, status: int) -> tuple:
    """State, None and why, of a run whose process has ended."""
    if status == 0 and run.finished():
        return ("finished",)
    words = last_words(run.log)
    return ("interrupted", None, words) if status == STATUS else ("failed", None, words)


def told(run: Planned, state: tuple) -> str:
    metrics = run.metrics()
    if state[0] == "finished":
        return f"finished, top-1 {metrics[-1]['test_top1']:.2f} %"
    return f"{state[0]}: {state[2]}"


class Bar:
    """One bar of the epochs of all runs, on a terminal; lines go above it."""

    def __init__(self, runs: Sequence[Planned], show: bool, quiet: bool) -> None:
        self.runs, self.show, self.looked = runs, show, time.monotonic()
        total = sum(run.epochs or 0 for run in runs) or None
        hidden = True if quiet or not show else None  # None: where there is no terminal
        self.bar = tqdm(total=total, initial=self.done(), desc="study", unit="epoch", disable=hidden)

    def done(self) -> int:
        return sum(len(run.metrics()) for run in self.runs)

    def look(self) -> None:
        if not self.bar.disable and time.monotonic() - self.looked >= LOOK:
            self.looked = time.monotonic()
            self.bar.update(self.done() - self.bar.n)

    def say(self, text: str) -> None:
        if self.show:
            tqdm.write(text)

    def close(self) -> None:
        self.bar.close()


def report(folder: Path, show: bool) -> None:
    """Write the report of the runs; that it cannot be written is no failure of theirs."""
    from overhaul.reported import report

    try:
        report(str(folder))
    except UserError as error:
        if show:
            warn(f"no report: {error}")
    else:
        if show and os.path.isdir(folder / "report"):
            tqdm.write(f"report: {folder / 'report'}")
