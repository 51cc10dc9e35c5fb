"""Keeps a run from being lost: when its state is written down, and what happens where that fails."""

import sys
import time
from pathlib import Path

from accelerate.utils import gather_object
from tqdm import tqdm

from overhaul.hub import weights as hub
from overhaul.options import Run
from overhaul.run import checkpoints
from overhaul.run import folder as run_folder
from overhaul.run.state import State, Unsaved, save, written
from overhaul.system import accelerator as engine
from overhaul.system.preemption import Preempted, Watch
from overhaul.training.build import Job
from overhaul.training.metrics import Meter


class Keeper:
    """A run's state on the disk: checkpoints, metrics.jsonl, the best and the final student.

    newest: the checkpoint that the run goes on from. A full disk does not stop the training: what could not be written
    is tried again with the next checkpoint, and at the end, which then fails.
    """

    def __init__(
        self, job: Job, run: Run, folder: Path, state: State, watch: Watch, newest: Path | None = None
    ) -> None:
        self.job, self.run, self.folder, self.state, self.watch = job, run, folder, state, watch
        self.newest, self.saved_at = newest and newest.name, time.monotonic()
        self.best = None  # files of the best student that are not written yet
        self.unsaved = None  # why the newest state is not on the disk
        self.meter = Meter(job.accelerator)

    @property
    def steps_left(self) -> int:
        """Of the whole run."""
        state = self.state
        return (state.epochs - state.epoch) * len(self.job.train_loader) - state.step

    def open_epoch(self) -> None:
        """Take up the epoch where the state says that it is."""
        kept = self.own_share()
        self.meter = Meter(self.job.accelerator, kept)
        self.job.train_loader.set_epoch(self.state.epoch, self.state.step, kept["broken"] if kept else ())

    def own_share(self) -> dict | None:
        """What this process has summed up in the epoch; of another number of processes, the main one takes all."""
        kept, accelerator = self.state.running, self.job.accelerator
        if not self.state.step:
            return None
        if len(kept) == accelerator.num_processes:
            return kept[accelerator.process_index]
        if not accelerator.is_main_process:
            return None
        return {
            "sums": [sum(column) for column in zip(*(each["sums"] for each in kept), strict=True)],
            "seconds": max(each["seconds"] for each in kept),
            "broken": sorted({name for each in kept for name in each["broken"]}),
        }

    def after_step(self) -> None:
        """Save where it is time to; Told, on all processes, once any has been told to stop."""
        if self.run.dry_run:
            return
        every, late = self.run.checkpoint_steps, time.monotonic() - self.saved_at > 60 * self.run.checkpoint_minutes
        steps = self.state.epoch * len(self.job.train_loader) + self.state.step
        if self.watch.any(late or (every is not None and steps % every == 0)):
            self.save()

    def after_epoch(self, line: dict) -> None:
        """Write down what an epoch brought."""
        job, state = self.job, self.state
        state.metrics.append({"epoch": state.epoch + 1, **line})
        state.step, state.running = 0, None
        if state.best is state.metrics[-1] and job.accelerator.is_main_process:
            self.best = hub.student_files(job.student, job.setup, job.classes)
        self.save()
        engine.log(job.accelerator, state.metrics[-1])

    def save(self, then: str = "; training goes on, and it is tried again") -> None:
        """Write the state down, unless that has been done; a failure is told, with what comes then, and remembered."""
        accelerator, state = self.job.accelerator, self.state
        if state.name == self.newest:
            return
        if state.step:
            self.read_means()
            self.check_weights()
            own = {**self.meter.state(), "broken": sorted(self.job.train_loader.broken)}
            state.running = gather_object([own])
        state.processes = accelerator.num_processes
        try:
            self.write()
            self.newest, self.unsaved = state.name, None
        except Unsaved as error:
            self.unsaved = str(error)
            if then and accelerator.is_main_process:
                tqdm.write(f"overhaul: {state.name} could not be saved ({error}){then}", file=sys.stderr)
                sys.stderr.flush()
        self.saved_at = time.monotonic()

    def write(self) -> None:
        """The best student first, which the checkpoint tells of; then the checkpoint, and its metrics."""
        accelerator, folder, state = self.job.accelerator, self.folder, self.state
        written(accelerator, folder, lambda: self.best and run_folder.write_folder(folder / "best", self.best))
        self.best = None
        save(accelerator, folder, state)
        on_main, best = accelerator.is_main_process, state.best
        written(accelerator, folder, lambda: on_main and run_folder.write_metrics(folder, state.metrics))
        written(accelerator, folder, lambda: on_main and checkpoints.prune(folder, best and best["epoch"]))

    def stop(self) -> None:
        """Save the state of a run that has been told to stop; raises Preempted, or ValueError where that fails."""
        self.save(then="")
        told = f"told to stop{f' by {self.watch.told}' if self.watch.told else ''}"
        engine.end(self.job.accelerator)
        if self.unsaved:
            raise ValueError(f"{told}, but its last state could not be saved ({self.unsaved}); {self.goes_on()}")
        raise Preempted(f"{told}, and saved {self.state.where}; {self.goes_on()}")

    def finish(self) -> None:
        """Write the final student; ValueError where that, or the last checkpoint before, cannot be written."""
        job, folder = self.job, self.folder
        on_main = job.accelerator.is_main_process
        if self.unsaved:
            self.save(then="")
        try:
            if self.unsaved:
                raise Unsaved(self.unsaved)
            final = folder / "final"
            written(job.accelerator, folder, lambda: on_main and hub.save(final, job.student, job.setup, job.classes))
        except Unsaved as error:
            raise ValueError(f"the end of the run could not be saved ({error}); make room: {self.goes_on()}") from None

    def goes_on(self) -> str:
        command = "the same command" + " without --resume never --overwrite" * self.run.overwrite
        return f"{command} goes on from {self.newest or 'the beginning'}"

    def read_means(self) -> dict:
        """The epoch's means so far; ValueError, on all processes, where they show that the run must not go on."""
        loader, epoch = self.job.train_loader, self.state.epoch
        means = self.meter.read(len(loader.broken))
        broken = means.pop("broken")
        if (step := means.pop("first_bad")) < float("inf"):
            where = f"step {int(step)} of epoch {epoch + 1} (step {epoch * len(loader) + int(step)} of the run)"
            raise ValueError(self.not_finite(f"the loss is no longer finite at {where}"))
        if broken > loader.skip_broken:
            raise ValueError(f"{broken} images in epoch {epoch + 1} are broken, and --skip_broken allows fewer")
        return {**means, "broken": broken} if broken else means

    def check_weights(self) -> None:
        """Take over the main process's BatchNorm statistics; ValueError where a weight is not a finite number."""
        engine.sync_buffers(self.job.model)
        if not engine.all_finite(self.job.model):
            raise ValueError(self.not_finite(f"the weights are no longer finite {self.state.where}"))

    def not_finite(self, what: str) -> str:
        setup, kept = self.job.setup, checkpoints.found(self.folder)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        lower = f"lower --lr ({setup.lr:g}) or --distill_weight ({setup.distill_weight:g})"
        return f"{what}; {lower} and start anew; {last}"
