"""Folders of runs that nobody trained: config.yaml, overhaul.json and metrics.jsonl as a run leaves them."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from overhaul.methods import filled
from overhaul.options import Run, default_folder
from overhaul.recipe import Setup
from overhaul.run.configuration import configuration
from overhaul.setups import SETUPS, settings
from overhaul.training.record import ELSEWHERE, HOW

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast
CLASSES = tuple(f"class {number}" for number in range(10))


def rising(top1: float, epochs: int) -> list[float]:
    """Test accuracies of the epochs in percent, the last and best of which is top1."""
    return [top1 * (1 - 0.5 ** (epoch + 1)) / (1 - 0.5**epochs) for epoch in range(epochs)]


def write_run(
    folder: Path,
    setup: str = "cifar_c",
    method: str = "kd",
    seed: int = 0,
    epochs: int = 8,
    top1: float | Sequence[float] = 60.0,
    done: int | None = None,
    **changes,
) -> Path:
    """Write a run under a folder, which is SETUP-METHOD-seedN there unless `name` says otherwise; its path.

    top1: of the test, of the last epoch in percent, or of each. done: epochs, of a run that has not finished.
    changes: fields of a Setup or a Run (lr=0.05, distill_weight=0.5, mixed_precision="bf16"); parts of the record, as
    record={"data": {"name": ...}} or record={"teacher": None}; name: the run's folder.
    """
    record_changes, name = changes.pop("record", {}), changes.pop("name", None)
    row, run = settings(setup, {"method": method, "epochs": epochs, "seed": seed, **changes})
    name = name or Path(default_folder(row.name, row.method, seed)).name
    path = Path(folder) / name
    path.mkdir(parents=True)
    config = configuration(row, run, run.mixed_precision or "no") | {"output_dir": str(path)}
    (path / "config.yaml").write_text(yaml.dump(config, Dumper=DUMPER, sort_keys=False))
    record = merged(record_of(row, run), record_changes)
    (path / "overhaul.json").write_text(json.dumps(record, indent=2) + "\n")
    accuracies = rising(top1, epochs) if isinstance(top1, (int, float)) else list(top1)
    lines = [line(epoch, each, row) for epoch, each in enumerate(accuracies[:done], 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def merged(record: dict, changes: dict) -> dict:
    """The record with changes, which reach into its parts."""
    found = copy.deepcopy(record)
    for key, each in changes.items():
        inner = isinstance(each, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], each) if inner else each
    return found


def line(epoch: int, top1: float, row: Setup) -> dict:
    """A line of metrics.jsonl."""
    distilled = 0.0 if row.method == "original" else 2.0 / epoch
    apart = (
        {f"distill_loss.{name}": distilled / len(row.methods) for name in row.methods} if len(row.methods) > 1 else {}
    )
    means = {"loss": 3.0 / epoch + distilled, "cross_entropy": 3.0 / epoch, "distill_loss": distilled, **apart}
    speed = {"images_per_second": 500.0, "seconds": 100.0}
    tested = {"test_top1": top1, "test_top5": min(top1 + 20, 100)}
    return {"epoch": epoch, "lr": row.lr, **means, "train_top1": top1 - 5 if top1 > 5 else 0.0, **speed, **tested}


def record_of(row: Setup, run: Run) -> dict:
    """What training.record.make_record writes, of networks that nobody built."""
    recipe = {key: each for key, each in asdict(row).items() if key not in ELSEWHERE}
    teacher = None if row.method == "original" or row.teacher is None else told_teacher(row)
    how = {key: getattr(run, key) for key in HOW}
    classes = list(CLASSES)
    data = {"name": row.data or "my_images", "hub_id": None, "local_copy": row.data is None, "revision": None}
    data |= {"classes": len(classes), "class_names": classes, "images": 5000, "test_images": 1000, "test_split": "test"}
    data |= {"training_images": "5,000 images of 10 classes, labels 0123abcd"}
    published = SETUPS[row.name].published if row.name in SETUPS else None
    return {
        "setup": row.name,
        "method": row.method,
        "method_settings": filled(row.method, row.method_settings),
        "teacher": teacher,
        "student": {"family": row.student.family, "kwargs": row.student.kwargs, "parameters": 703284},
        "data": data,
        "recipe": recipe,
        "changes_of_length": [],
        "run": {**how, "mixed_precision": run.mixed_precision or "no", "hardware": "1 x cpu, 2 threads, fp32"},
        "published": published and asdict(published),
        "positions": None,
        "first_batch": None,
        "versions": {"python": "3.11.7", "overhaul": "0.1.0", "torch": "2.14.1"},
    }


def told_teacher(row: Setup) -> dict:
    weights = {"source": "teacher.pt", "revision": None, "sha256": hashlib.sha256(row.name.encode()).hexdigest()}
    net = {"family": row.teacher.family, "kwargs": row.teacher.kwargs, "parameters": 5868164}
    return {**net, **weights, "test_top1": 100 - (row.published.teacher if row.published else 1.0)}
