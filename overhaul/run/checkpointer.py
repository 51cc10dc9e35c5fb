"""Keeps a run from being lost: when its state is written down, and what happens where that fails."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from overhaul.options import Run
from overhaul.run import checkpoints, replaced
from overhaul.run.folder import RunFolder
from overhaul.run.restore import STATE_FILE
from overhaul.run.resume import resume
from overhaul.run.state import State
from overhaul.system.accelerator import of_main, other_gpus_hidden, threads
from overhaul.system.files import write_folder, write_text
from overhaul.system.messages import UserError, warn
from overhaul.system.preemption import Preempted, note_saved
from overhaul.system.processes import Unsaved, all_or_none, on_main


class Checkpointer:
    """Writes a run's state, its metrics, its best and its final student; on all processes at once.

    newest: the checkpoint that the run goes on from. student_files: gives the files of the student's folder. A full
    disk does not stop the training: what could not be written is tried again with the next checkpoint, and at the end,
    which then fails.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        folder: RunFolder,
        run: Run,
        state: State,
        student_files: Callable[[], dict[str, bytes]],
        newest: Path | None = None,
    ) -> None:
        self.accelerator, self.folder, self.run, self.state = accelerator, folder, run, state
        self.student_files = of_main(accelerator, lambda: student_files)
        self.newest, self.saved_at = newest and newest.name, time.monotonic()
        self.best = None  # files of the best student that are not written yet
        self.unsaved = None  # why the newest state is not on the disk

    @classmethod
    def resume_or_start(
        cls,
        accelerator: Accelerator,
        folder: RunFolder,
        run: Run,
        config: dict,
        fresh: State,
        student_files: Callable[[], dict[str, bytes]],
        before_loading: Callable[[], None],
    ) -> "Checkpointer":
        """Go on with the run in the folder, or begin one; UserError where that cannot be, see folder and state.

        config: see configuration.configuration; fresh: the state of a run that begins.
        """
        folder.check(config)
        on_main(accelerator, folder.open)
        fresh.config = config
        state, newest = resume(accelerator, folder.path, fresh, before_loading)
        on_main(accelerator, lambda: folder.begin(config, state.metrics if newest else None))
        return cls(accelerator, folder, run, state, student_files, newest)

    @property
    def saved(self) -> bool:
        """Whether the state is on the disk as it is."""
        return self.state.name == self.newest

    def due(self, steps: int) -> bool:
        """Whether it is the step for a checkpoint, on all processes. steps: of the run, that are done."""
        every = self.run.checkpoint_steps
        return every is not None and steps % every == 0

    def late(self) -> bool:
        """Whether it is time for one, by this process's clock."""
        return time.monotonic() - self.saved_at > 60 * self.run.checkpoint_minutes

    def keep_best(self) -> None:
        """Keep the student of the epoch that has ended, to be written with the next checkpoint, if it is the best."""
        if self.state.best is self.state.metrics[-1]:
            self.best = self.student_files()

    def save(self, then: str = "; training goes on, and it is tried again") -> None:
        """Write the state down; a failure is told by the main process, with what comes then, and remembered."""
        self.state.processes, self.state.threads = self.accelerator.num_processes, threads(self.accelerator)
        try:
            self.write()
            self.newest, self.unsaved = self.state.name, None
            note_saved()
        except Unsaved as error:
            checkpoints.discard(self.folder.path)
            self.unsaved = str(error)
            if then:
                of_main(self.accelerator, lambda: warn)(f"{self.state.name} could not be saved ({error}){then}")
        self.saved_at = time.monotonic()

    def write(self) -> None:
        """The best student first, which the checkpoint tells of; then the checkpoint, and its metrics."""
        path, state = self.folder.path, self.state
        self.write_on_main(lambda: self.best and write_folder(self.folder.student("best"), self.best))
        self.best = None
        self.write_on_main(self.begin)
        with other_gpus_hidden(self.accelerator):
            all_or_none(self.accelerator, lambda: self.accelerator.save_state(str(checkpoints.unfinished(path))), path)
        self.write_on_main(lambda: checkpoints.complete(path, state.name))
        self.write_on_main(lambda: self.folder.write_metrics(state.metrics))
        self.write_on_main(lambda: checkpoints.prune(path, state.best and state.best["epoch"]))
        self.write_on_main(lambda: replaced.forget(path))

    def begin(self) -> None:
        """A new folder for the checkpoint, with the state."""
        checkpoints.begin(self.folder.path)
        write_text(checkpoints.unfinished(self.folder.path) / STATE_FILE, json.dumps(self.state.state_dict()) + "\n")

    def write_on_main(self, write: Callable[[], object]) -> None:
        all_or_none(self.accelerator, write, self.folder.path, main_only=True)

    def stop(self, received: str | None) -> None:
        """End a run that has been told to stop, by a signal to this process if one was received.

        Raises Preempted, or UserError where its state could not be saved.
        """
        told = f"told to stop{f' by {received}' if received else ''}"
        if self.unsaved:
            raise UserError(f"{told}, but its last state could not be saved ({self.unsaved}); {self.goes_on()}")
        raise Preempted(f"{told}, and saved {self.state.where}; {self.goes_on()}", together=True)

    def finish(self) -> None:
        """Write the final student; UserError where that, or the last checkpoint before, cannot be written."""
        if self.unsaved:
            self.save(then="")
        try:
            if self.unsaved:
                raise Unsaved(self.unsaved)
            self.write_on_main(lambda: write_folder(self.folder.student("final"), self.student_files()))
        except Unsaved as error:
            raise UserError(f"the end of the run could not be saved ({error}); make room: {self.goes_on()}") from None

    def goes_on(self) -> str:
        command = "the same command" + " without --resume never --overwrite" * bool(self.run.overwrite and self.newest)
        return f"{command} goes on from {self.newest or 'the beginning'}"
