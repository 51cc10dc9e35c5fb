"""A run's student as a repository of the Hub: put together, pushed, and pushed again while it trains."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from overhaul.hub import card, client
from overhaul.hub.config import read_config
from overhaul.options import Run
from overhaul.report import plots
from overhaul.run.folder import STUDENT, RunFolder, best_line, is_student
from overhaul.system.files import write_folder
from overhaul.system.markdown import unescaped
from overhaul.system.messages import UserError, check_repo, warn


def push(folder: str | Path, repo: str, private: bool = False, best: bool = False) -> str:
    """Send the final student of a run, or its best one, to USER/REPO, and return the commit's address.

    Raises UserError for a folder that holds no such student, and where the Hub refuses or cannot be reached; the
    folder stays as it is.
    """
    folder, which = RunFolder(Path(folder).expanduser()), "best" if best else "final"
    check_repo("overhaul push", repo)
    if not os.path.isfile(folder.record_file):  # nor has any name that no file can have
        raise UserError(f"{str(folder.path)[:200]} is not the folder of a run")
    if not is_student(folder.student(which)):
        so_far = "" if best else "; it has not finished: --best takes its best student so far"
        raise UserError(f"{folder.path} has no {which} student{so_far}")
    with tempfile.TemporaryDirectory() as made:
        try:
            line = make_repository(folder, folder.student(which), Path(made), repo, which)
        except OSError as error:
            raise UserError(f"what is pushed cannot be put together: {error}") from None
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{folder.record_file} is damaged ({type(error).__name__}: {error})") from None
        top1 = f"{line['test_top1']:.2f}"
        message = f"{which.capitalize()} student, epoch {line['epoch']}: test top-1 {top1} %"
        return client.upload(Path(made), repo, private, message, tag=f"top1-{top1}")


def make_repository(folder: RunFolder, student: Path, target: Path, repo: str, which: str) -> dict:
    """Write what is pushed into `target`; the line of metrics.jsonl that the student is of."""
    record, metrics = folder.read()
    last, best = metrics[-1], best_line(metrics)
    config, epochs = read_config(student / "config.json"), record["recipe"]["epochs"]
    for name in STUDENT:
        (target / name).write_bytes((student / name).read_bytes())
    record |= {"pushed": which, "epochs_done": last["epoch"], "final": last, "best": best}
    made = RunFolder(target)
    made.write_record(record)
    made.write_metrics(metrics)
    (target / "curves.png").write_bytes(plots.draw(metrics, unescaped(card.title(record))))
    (target / "README.md").write_text(card.render(record, metrics, config, repo, which, epochs))
    return best if which == "best" else last


class Publisher:
    """Pushes a run's student while it trains, in a thread of its own, and at its end; of the main process only."""

    def __init__(self, run: Run, folder: RunFolder) -> None:
        self.run, self.folder, self.repo, self.thread = run, folder, run.push_to_hub, None
        if self.repo and client.whoami() is None:
            warn(f"the Hub cannot be reached now; {self.repo} is pushed to at the end of training")

    def after_epoch(self, epoch: int, epochs: int, student_files: Callable[[], dict[str, bytes]]) -> None:
        """Begin to push this epoch's student, every --push_every epochs, unless the last push still goes on."""
        every = self.run.push_every
        if not (self.repo and every) or epoch % every or epoch == epochs:
            return
        if self.thread and self.thread.is_alive():
            warn(f"the last push to {self.repo} still goes on; epoch {epoch} is left out")
            return
        try:
            made = tempfile.TemporaryDirectory()
            student, target = Path(made.name, "student"), Path(made.name, "repository")
            write_folder(student, student_files())
            target.mkdir()
            line = make_repository(self.folder, student, target, self.repo, "final")
        except OSError as error:
            warn(f"epoch {epoch} could not be put together for {self.repo} ({error}); training goes on")
            return
        message = f"Epoch {epoch} of {epochs}: test top-1 {line['test_top1']:.2f} %"
        self.thread = threading.Thread(target=self.attempt, args=(made, target, message), daemon=True)
        self.thread.start()

    def attempt(self, made: tempfile.TemporaryDirectory, target: Path, message: str) -> None:
        with made:
            try:
                client.upload(target, self.repo, self.run.push_private, message)
            except UserError as error:
                warn(f"{error}; training goes on, and it is tried again at the end")

    def finish(self) -> str | None:
        """Push the final student and return its address; UserError, with what to do, where that fails."""
        if not self.repo:
            return None
        if self.thread:
            self.thread.join()
        path = self.folder.path
        try:
            return push(path, self.repo, self.run.push_private)
        except UserError as error:
            private = " --private" if self.run.push_private else ""
            raise UserError(
                f"{error}; the run is whole in {path}: push it with `overhaul push {path} {self.repo}{private}`"
            ) from None
