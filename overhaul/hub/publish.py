"""A run's student as a repository of the Hub: put together, pushed, and pushed again while it trains."""

import json
import sys
import tempfile
import threading
from pathlib import Path

from tqdm import tqdm

from overhaul.hub import card
from overhaul.hub import client as remote
from overhaul.hub import config as model_config
from overhaul.hub import weights as hub
from overhaul.options import Run
from overhaul.report import plots as curves
from overhaul.run import folder as run_folder
from overhaul.system.messages import check_repo
from overhaul.training.build import Job

SHARED = ("config.json", "model.safetensors")


def push(folder: str | Path, repo: str, private: bool = False, best: bool = False) -> str:
    """Send the final student of a run, or its best one, to USER/REPO, and return the commit's address.

    Raises ValueError for a folder that holds no such student, and where the Hub refuses or cannot be reached; the
    folder stays as it is.
    """
    folder, which = Path(folder).expanduser(), "best" if best else "final"
    check_repo("overhaul push", repo)
    if not (folder / "overhaul.json").is_file():
        raise ValueError(f"{folder} is not the folder of a run")
    if not all((folder / which / name).is_file() for name in SHARED):
        so_far = "" if best else "; it has not finished: --best takes its best student so far"
        raise ValueError(f"{folder} has no {which} student{so_far}")
    with tempfile.TemporaryDirectory() as made:
        try:
            line = make_repository(folder, folder / which, Path(made), repo, which)
        except OSError as error:
            raise ValueError(f"what is pushed cannot be put together: {error}") from None
        top1 = f"{line['test_top1']:.2f}"
        message = f"{which.capitalize()} student, epoch {line['epoch']}: test top-1 {top1} %"
        return remote.push(Path(made), repo, private, message, tag=f"top1-{top1}")


def make_repository(folder: Path, student: Path, target: Path, repo: str, which: str) -> dict:
    """Write what is pushed into `target`; the line of metrics.jsonl that the student is of."""
    record, metrics = read_run(folder)
    last, best = metrics[-1], run_folder.best_line(metrics)
    config, epochs = model_config.read(student / "config.json"), record["recipe"]["epochs"]
    for name in SHARED:
        (target / name).write_bytes((student / name).read_bytes())
    record |= {"pushed": which, "epochs_done": last["epoch"], "final": last, "best": best}
    run_folder.write_record(target, record)
    run_folder.write_metrics(target, metrics)
    (target / "curves.png").write_bytes(curves.draw(metrics, card.title(record)))
    (target / "README.md").write_text(card.render(record, metrics, config, repo, which, epochs))
    return best if which == "best" else last


def read_run(folder: Path) -> tuple[dict, list[dict]]:
    """A run's record and the lines of its metrics.jsonl."""
    try:
        record = json.loads((folder / "overhaul.json").read_text())
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no run that can be read ({error})") from None
    if not metrics:
        raise ValueError(f"{folder} has not finished an epoch yet")
    return record, metrics


class Publisher:
    """Pushes a run's student while it trains, in a thread of its own, and at its end; of the main process only."""

    def __init__(self, run: Run, folder: Path, main: bool) -> None:
        self.run, self.folder, self.repo = run, folder, run.push_to_hub if main else None
        self.thread = None
        if self.repo and remote.whoami() is None:
            tell(f"the Hub cannot be reached now; {self.repo} is pushed to at the end of training")

    def after_epoch(self, job: Job, epoch: int) -> None:
        """Begin to push this epoch's student, every --push_every epochs, unless the last push still goes on."""
        every = self.run.push_every
        if not (self.repo and every) or epoch % every or epoch == job.setup.epochs:
            return
        if self.thread and self.thread.is_alive():
            tell(f"the last push to {self.repo} still goes on; epoch {epoch} is left out")
            return
        try:
            made = tempfile.TemporaryDirectory()
            student, target = Path(made.name, "student"), Path(made.name, "repository")
            hub.save(student, job.student, job.setup, job.classes)
            target.mkdir()
            line = make_repository(self.folder, student, target, self.repo, "final")
        except OSError as error:
            tell(f"epoch {epoch} could not be put together for {self.repo} ({error}); training goes on")
            return
        message = f"Epoch {epoch} of {job.setup.epochs}: test top-1 {line['test_top1']:.2f} %"
        self.thread = threading.Thread(target=self.attempt, args=(made, target, message), daemon=True)
        self.thread.start()

    def attempt(self, made: tempfile.TemporaryDirectory, target: Path, message: str) -> None:
        with made:
            try:
                remote.push(target, self.repo, self.run.push_private, message)
            except ValueError as error:
                tell(f"{error}; training goes on, and it is tried again at the end")

    def finish(self) -> str | None:
        """Push the final student and return its address; ValueError, with what to do, where that fails."""
        if not self.repo:
            return None
        if self.thread:
            self.thread.join()
        try:
            return push(self.folder, self.repo, self.run.push_private)
        except ValueError as error:
            private = " --private" if self.run.push_private else ""
            raise ValueError(
                f"{error}; the run is whole in {self.folder}: push it with `overhaul push {self.folder} {self.repo}"
                f"{private}`"
            ) from None


def tell(words: str) -> None:
    tqdm.write(f"overhaul: {words}", file=sys.stderr)
