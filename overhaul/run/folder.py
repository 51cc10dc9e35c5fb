"""A run on the disk: its folder, whose it is, its configuration, its metrics, its record and its students."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from overhaul.options import Run, default_folder
from overhaul.recipe import Setup
from overhaul.run import links, replaced
from overhaul.run.configuration import ANEW, compare
from overhaul.run.lines import are_metrics
from overhaul.system.files import read_bytes, read_json, write_text
from overhaul.system.locks import lock
from overhaul.system.messages import UserError, launched, printable, warn

OURS = (
    *("checkpoints", "final", "best", "logs", "report"),
    *("metrics.jsonl", "overhaul.json", "config.yaml", "curves.png"),
)
NESTED = 1000  # brackets in a configuration
STUDENT = ("config.json", "model.safetensors")  # the files of a student's folder


class RunFolder:
    """The folder of a run; while it is entered no other run may work in it.

    path/config.yaml, metrics.jsonl, overhaul.json (the record), checkpoints/, best/ and final/ (students), logs/,
    curves.png at its end, and report/ where one was asked for.
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
        links.check_place(path)
        held = path.exists() and any(each.name[0] != "." and each.name != replaced.ASIDE for each in path.iterdir())
        links.check(path, (*OURS, replaced.ASIDE))
        if (earlier := replaced.waiting(path)) and not run.overwrite:
            raise UserError(
                f"{earlier} holds the run that was to be replaced, and the new one has no checkpoint yet: begin that "
                f"again with --resume never --overwrite, or move {earlier.name} to where it is to go on"
            )
        if held and not self.config_file.is_file() and not earlier:
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

    def __exit__(self, kind: type | None, error: BaseException | None, _) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if kind and self.run.overwrite and (earlier := replaced.waiting(self.path)):
            where = f"the earlier run is kept in {earlier}"
            if isinstance(error, UserError):
                error.args = (f"{error}; {where}",)
            elif launched("RANK") == 0:
                warn(where)

    def lock(self) -> None:
        """Keep other runs out of the folder, which must be there; UserError if one is at work in it."""
        if self.descriptor is None and launched("RANK") == 0:
            self.descriptor = lock(self.path / ".lock", str(self.path))

    def check(self, config: dict) -> None:
        """UserError where the folder's run has another configuration (see configuration), unless it is replaced."""
        if self.config_file.exists() and not self.run.overwrite:
            compare(config, self.read_config(), self.path, ("epochs",) if self.run.resume_with else ())

    def open(self) -> None:
        """Make the folder, and move a run that is replaced aside in it; for the main process."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if self.run.overwrite:
                replaced.set_aside(self.path, OURS)

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
            names = read_json(self.record_file)["data"].get("class_names")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return tuple(map(str, names)) if names and isinstance(names, list) else None

    def student(self, which: str) -> Path:
        """The folder of the final or the best student."""
        return self.path / which

    def write_metrics(self, metrics: list[dict]) -> None:
        write_text(self.metrics_file, "".join(json.dumps(line) + "\n" for line in metrics))

    def write_record(self, record: dict) -> None:
        write_text(self.record_file, json.dumps(record, indent=2) + "\n")

    def read_config(self) -> dict:
        try:
            text = read_bytes(self.config_file).decode()
            # brackets cost PyYAML the square of their number, and flatten() follows each alias
            many = text.count("[") + text.count("{") > NESTED
            grows = many or any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
            config = None if grows else yaml.safe_load(text)
        except (OSError, yaml.YAMLError, ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise UserError(f"{self.config_file} is broken, so the run in its folder cannot be told; {ANEW}")
        return config

    def read(self) -> tuple[dict, list[dict]]:
        """The run's record and the lines of its metrics.jsonl; UserError where it has not finished an epoch."""
        try:
            record = read_json(self.record_file)
            metrics = [json.loads(line) for line in read_bytes(self.metrics_file).splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{self.path} holds no run that can be read ({printable(str(error))[:300]})") from None
        if not metrics:
            raise UserError(f"{self.path} has not finished an epoch yet")
        if not isinstance(record, dict) or not are_metrics(metrics):
            raise UserError(f"{self.path} holds no run that can be read (its record or its metrics are damaged)")
        return record, metrics


def is_student(folder: Path) -> bool:
    """Whether a folder holds the two files of a student."""
    return all((folder / name).is_file() for name in STUDENT)


def unless_restarted(run: Run, folder: Path) -> Run:
    """The run; without its --resume never where a launcher or SLURM has started it again, as it must not begin anew.

    One that died before its first checkpoint still has an earlier run to replace.
    """
    again = any(map(launched, ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")))
    return replace(run, resume="auto", overwrite=False) if again and not replaced.waiting(folder) else run


def best_line(metrics: list[dict]) -> dict | None:
    """The line of metrics.jsonl of the best epoch, the first of equals."""
    return max(metrics, key=lambda line: line["test_top1"], default=None)
