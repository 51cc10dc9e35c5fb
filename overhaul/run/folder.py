"""A run on the disk: its folder, whose it is, its configuration, its metrics, its record and its students."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path

import yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from overhaul.options import Run, default_folder
from overhaul.recipe import Setup
from overhaul.system.files import write_text
from overhaul.system.messages import UserError, launched, warn
from overhaul.usual import as_entries, is_of_method

MAY_CHANGE = (
    "output_dir",
    "data_path",
    "beside",
    "tracker",
    "workers",
    "skip_broken",
    "checkpoint_steps",
    "checkpoint_minutes",
    "timeout_minutes",
    "push_to_hub",
    "push_every",
    "push_private",
)  # between two starts of one run
DEFAULTS = {each.name: each.default for of in (Setup, Run) for each in fields(of) if each.default is not MISSING}
NOT_KEPT = ("resume", "resume_with", "overwrite", "dry_run", "quiet")  # how it starts and is shown, not what it is
OURS = ("checkpoints", "final", "best", "logs", "metrics.jsonl", "overhaul.json", "config.yaml", "curves.png")
STUDENT = ("config.json", "model.safetensors")  # the files of a student's folder
ANEW = "name another folder with --output_dir, or replace the run with --resume never --overwrite"


class RunFolder:
    """The folder of a run; while it is entered no other run may work in it.

    path/config.yaml, metrics.jsonl, overhaul.json (the record), checkpoints/, best/ and final/ (students), logs/, and
    curves.png at its end.
    Entering raises UserError where the folder is in use, holds other files, or a run that may neither be continued nor
    replaced, and changes nothing. The lock ends with the process, however that dies.
    """

    def __init__(self, path: Path, run: Run | None = None) -> None:
        self.path, self.run, self.descriptor = path, run, None

    @classmethod
    def of(cls, setup: Setup, run: Run) -> "RunFolder":
        """The folder that a run names, or the usual one."""
        return cls(Path(run.output_dir or default_folder(setup.name, setup.method, run.seed)).expanduser(), run)

    def __enter__(self) -> "RunFolder":
        path, run = self.path, self.run
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not nearest.is_dir():
            raise UserError(f"{nearest} is a file; name another folder with --output_dir")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UserError(f"{nearest} may not be written to; name another folder with --output_dir")
        held = path.exists() and any(not each.name.startswith(".") for each in path.iterdir())
        if held and not self.config_file.is_file():
            raise UserError(f"{path} holds files but no run; name another folder with --output_dir")
        if held and run.resume == "never" and not run.overwrite:
            raise UserError(
                f"{path} holds a run, and --resume never leaves it alone: add --overwrite, or --output_dir DIR"
            )
        if run.resume_with and not held:
            raise UserError(f"--resume_with goes on with a run, and {path} holds none")
        if path.exists():
            self.lock()
        return self

    def __exit__(self, *_) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)

    def lock(self) -> None:
        """Keep other runs out of the folder, which must be there; UserError if one is at work in it."""
        if self.descriptor is not None or launched("RANK") > 0 or fcntl is None:
            return
        file = self.path / ".lock"
        try:
            self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, never a forked worker's
        except BlockingIOError:
            who = file.read_text().strip()
            raise UserError(f"{self.path} is in use by another run ({who}): wait for its end, or stop it") from None
        except OSError as error:
            warn(f"{self.path} cannot be locked ({error}): start no second run in it")
        else:
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())

    def check(self, config: dict) -> None:
        """UserError where the folder's run has another configuration (see configuration), unless it is replaced."""
        if self.config_file.exists() and not self.run.overwrite:
            compare(config, self.read_config(), self.path, ("epochs",) if self.run.resume_with else ())

    def open(self) -> None:
        """Make the folder, or what a run that is replaced has left in it, ready; for the main process."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if self.run.overwrite:
                remove_run(self.path)

    def begin(self, config: dict, metrics: list[dict] | None) -> None:
        """Write the configuration and, of a run that goes on, the metrics of its checkpoint; for the main process."""
        with self.writing():
            write_text(self.config_file, yaml.safe_dump(config, sort_keys=False))
            if metrics is not None:
                self.write_metrics(metrics)

    def begin_record(self, record: dict) -> None:
        """Write the record of a run that begins or goes on; for the main process."""
        with self.writing():
            self.write_record(record)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A run that cannot write to its folder at its start is one line."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written to ({error}); make room, or name another folder with --output_dir"
            ) from None

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def record_file(self) -> Path:
        return self.path / "overhaul.json"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes of the run that the folder holds, in its order; None where it begins, or is old."""
        if self.run.overwrite or not self.config_file.exists():
            return None
        try:
            names = json.loads(self.record_file.read_text())["data"].get("class_names")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return names and tuple(map(str, names))

    def student(self, which: str) -> Path:
        """The folder of the final or the best student."""
        return self.path / which

    def write_metrics(self, metrics: list[dict]) -> None:
        write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in metrics))

    def write_record(self, record: dict) -> None:
        write_text(self.record_file, json.dumps(record, indent=2) + "\n")

    def read_config(self) -> dict:
        try:
            config = yaml.safe_load(self.config_file.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} is broken, so the run in its folder cannot be told; {ANEW}")
        return config

    def read(self) -> tuple[dict, list[dict]]:
        """The run's record and the lines of its metrics.jsonl; UserError where it has not finished an epoch."""
        try:
            record = json.loads(self.record_file.read_text())
            metrics = [json.loads(line) for line in self.metrics_file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} holds no run that can be read ({error})") from None
        if not metrics:
            raise UserError(f"{self.path} has not finished an epoch yet")
        return record, metrics


def is_student(folder: Path) -> bool:
    """Whether a folder holds the two files of a student."""
    return all((folder / name).is_file() for name in STUDENT)


def unless_restarted(run: Run) -> Run:
    """The run; without its --resume never where a launcher or SLURM has started it again, as it must not begin anew."""
    again = any(map(launched, ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")))
    return replace(run, resume="auto", overwrite=False) if again else run


def configuration(setup: Setup, run: Run, mixed_precision: str) -> dict:
    """All of a run as plain values, as `overhaul train --config` takes them."""
    how = {key: value for key, value in asdict(run).items() if key not in NOT_KEPT}
    return json.loads(json.dumps({"setup": setup.name, **as_entries(setup), **how, "mixed_precision": mixed_precision}))


def compare(mine: dict, theirs: dict, folder: Path, besides: tuple[str, ...] = ()) -> None:
    """UserError where two differ in what may not change, but for `besides`; what an old one lacks has its default.

    Of another method its name alone is told.
    """
    mine = flatten(mine)
    theirs = {key: DEFAULTS.get(key) for key in mine} | flatten(theirs)
    if mine["method"] != theirs["method"]:
        besides = (*besides, *(each for each in mine | theirs if is_of_method(each) and each != "method"))
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} here"
        for key in mine | theirs
        if key not in (*MAY_CHANGE, *besides) and mine.get(key) != theirs.get(key)
    ]
    if differing:
        longer = ""
        if [each.split(":")[0] for each in differing] == ["epochs"]:
            longer = f"; to go on with another length, add --resume_with epochs={mine['epochs']}"
        raise UserError(f"{folder} belongs to another configuration ({'; '.join(differing)}); {ANEW}{longer}")


def flatten(config: dict, prefix: str = "") -> dict:
    """Values by flat names: {"teacher": {"family": ...}} becomes {"teacher.family": ...}."""
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def remove_run(folder: Path) -> None:
    """Delete what a run leaves in its folder, and nothing else."""
    for name in OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def best_line(metrics: list[dict]) -> dict | None:
    """The line of metrics.jsonl of the best epoch, the first of equals."""
    return max(metrics, key=lambda line: line["test_top1"], default=None)
