"""Runs as their folders tell of them, read without torch: record, metrics and configuration, whoever wrote them."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from overhaul.run.folder import best_line
from overhaul.system.messages import UserError, printable

RECORD, METRICS, CONFIG = "overhaul.json", "metrics.jsonl", "config.yaml"
DEPTH = 3  # folders between the one that is named and a run
LARGEST = 64 * 2**20  # bytes of a file that is read
DEEPEST = 20  # a record's values within values
PARTS = {"data": dict, "student": dict, "recipe": dict, "run": dict}  # what every record has
NUMBERS = ("lr", "loss", "cross_entropy", "distill_loss", "train_top1", "images_per_second", "seconds", "test_top5")


@dataclass
class Told:
    """A run. metrics: the lines of its metrics.jsonl, epochs 1, 2, ...; warnings: of what was left out, a line each.

    Texts are as the files have them, whoever wrote those.
    """

    folder: Path
    name: str
    record: dict
    metrics: list[dict]
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def config(self) -> dict:
        """Its config.yaml; {} where there is none, as in a repository of the Hub, or a broken one."""
        try:
            config = yaml.safe_load(read_text(self.folder, CONFIG, self.name) or "")
        except (yaml.YAMLError, UserError, RecursionError, ValueError):
            return {}
        return config if isinstance(config, dict) else {}

    @property
    def setup(self) -> str:
        return self.record["setup"]

    @property
    def method(self) -> str:
        return self.record["method"]

    @property
    def seed(self) -> int:
        return self.record["run"]["seed"]

    @property
    def epochs(self) -> int:
        """Those that the recipe asks for."""
        return self.record["recipe"]["epochs"]

    @property
    def finished(self) -> bool:
        return len(self.metrics) >= self.epochs

    @property
    def final(self) -> dict | None:
        """The line of its last epoch so far, None before the first."""
        return self.metrics[-1] if self.metrics else None

    @property
    def best(self) -> dict | None:
        return best_line(self.metrics)

    @property
    def seconds(self) -> float | None:
        """Of training, tests apart; None where an epoch does not say."""
        found = [line.get("seconds") for line in self.metrics]
        return sum(found) if found and None not in found else None

    @property
    def images_per_second(self) -> float | None:
        """Of training, over all epochs."""
        found = [line.get("images_per_second") for line in self.metrics]
        if not self.seconds or None in found:
            return None
        seen = sum(pace * line["seconds"] for pace, line in zip(found, self.metrics, strict=True))
        return seen / self.seconds


def find(path: str | Path) -> list[Path]:
    """The folders of runs: the path itself, or those under it, up to three folders deep, in the order of their names.

    UserError where there is no such folder; [] where it holds no run.
    """
    root = Path(path).expanduser()
    if os.path.isfile(root):
        raise UserError(f"{path} is a file; name the folder of a run")
    if not os.path.isdir(root):  # Path.is_dir raises for names that no folder can have
        raise UserError(f"{path}: there is no such folder")
    return list(runs_under(root, DEPTH))


def runs_under(folder: Path, depth: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in (RECORD, METRICS, CONFIG)):
        yield folder
        return
    if not depth:
        return
    try:
        inner = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:  # it may not be listed
        return
    for each in inner:
        yield from runs_under(each, depth - 1)


def read(folder: str | Path, name: str | None = None) -> Told:
    """The run of a folder, or of one that holds an overhaul.json and a metrics.jsonl alone.

    name: its folder's, unless named. Raises UserError where record or metrics cannot be read, one line that names it.
    """
    folder = Path(folder)
    name = name or folder.name or str(folder)
    record = read_record(folder, name)
    told = Told(folder, name, record, [])
    told.metrics = read_metrics(folder, name, told.warnings)
    if len(told.metrics) > told.epochs:
        raise broken(name, f"{METRICS} has {len(told.metrics)} epochs, and the recipe {told.epochs}")
    return told


def broken(name: str, why: str) -> UserError:
    return UserError(f"{printable(name)[:200]} is left out: {printable(why)[:200]}")


def read_text(folder: Path, file: str, name: str) -> str | None:
    """What a file holds; None where it is missing."""
    path = folder / file
    try:
        if path.stat().st_size > LARGEST:
            raise broken(name, f"{file} has more than {LARGEST // 2**20} MiB")
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise broken(name, f"{file} is no text") from None
    except OSError as error:
        raise broken(name, f"{file} cannot be read: {error.strerror}") from None


def read_record(folder: Path, name: str) -> dict:
    text = read_text(folder, RECORD, name)
    if text is None:
        raise broken(name, f"it has no {RECORD} yet, which a run writes when it begins")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise broken(name, f"{RECORD} is no JSON") from None
    if is_deep(record):
        raise broken(name, f"{RECORD} is nested more than {DEEPEST} deep")
    if not isinstance(record, dict) or not all(isinstance(record.get(key), of) for key, of in PARTS.items()):
        raise broken(name, f"{RECORD} is no record of a run, or one of another version")
    named = all(isinstance(record.get(key), str) and record[key] for key in ("setup", "method"))
    epochs, seed = record["recipe"].get("epochs"), record["run"].get("seed")
    if not named or not is_count(epochs) or epochs < 1 or not is_count(seed):
        raise broken(name, f"{RECORD} does not say setup, method, epochs and seed, or is of another version")
    for key in ("teacher", "published"):
        if not isinstance(record.get(key), (dict, type(None))):
            raise broken(name, f"{RECORD} says something else than a {key}")
    return record


def is_deep(value: object) -> bool:
    inside = [value]
    for _ in range(DEEPEST):
        inside = [
            each
            for outer in inside
            if isinstance(outer, (dict, list))
            for each in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(inside)


def read_metrics(folder: Path, name: str, warnings: list[str]) -> list[dict]:
    """Its lines; a last one that was cut off is left out, with a warning."""
    lines = (read_text(folder, METRICS, name) or "").split("\n")
    metrics = []
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number == len(lines):  # without its newline
                warnings.append(f"{printable(name)}: the last line of {METRICS} is cut off, so its epoch is left out")
                break
            raise broken(name, f"line {number} of {METRICS} is no JSON") from None
        if not is_epoch(line, len(metrics) + 1):
            raise broken(name, f"line {number} of {METRICS} does not tell of epoch {len(metrics) + 1}")
        metrics.append(line)
    return metrics


def is_epoch(line: object, epoch: int) -> bool:
    """Whether a line says how epoch number `epoch` went."""
    if not isinstance(line, dict) or line.get("epoch") != epoch or not is_number(line.get("test_top1")):
        return False
    apart = (key for key in line if key.startswith("distill_loss."))
    numbers = all(is_number(line[key]) for key in (*NUMBERS, *apart) if line.get(key) is not None)
    return numbers and 0 <= line["test_top1"] <= 100 and (line.get("seconds") or 0) >= 0


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
