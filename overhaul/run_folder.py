"""A run's folder: whose it is, its configuration, its metrics, and files that appear whole or not at all."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import yaml

from overhaul.run import Run
from overhaul.setups import Setup

MAY_CHANGE = (
    "output_dir",
    "data_path",
    "tracker",
    "workers",
    "skip_broken",
    "push_to_hub",
    "push_every",
    "push_private",
)  # between two starts of one run
NOT_KEPT = ("resume", "overwrite", "dry_run")  # they say how to start, not what the run is
OURS = ("checkpoints", "final", "best", "logs", "metrics.jsonl", "overhaul.json", "config.yaml")


def output_dir(setup: Setup, run: Run) -> Path:
    return Path(run.output_dir or f"runs/{setup.name}-{setup.method}-seed{run.seed}").expanduser()


def claim(folder: Path, run: Run) -> None:
    """ValueError unless the folder is free or holds a run that may be continued or overwritten. Changes nothing."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{nearest} is a file; name another folder with --output_dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(f"{nearest} may not be written to; name another folder with --output_dir")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} holds files but no run; name another folder with --output_dir")
    if run.resume == "never" and not run.overwrite:
        raise ValueError(
            f"{folder} holds a run, and --resume never leaves it alone: add --overwrite, or --output_dir DIR"
        )


def resolved(setup: Setup, run: Run, mixed_precision: str) -> dict:
    """The whole configuration as plain values, as `overhaul train --config` takes it."""
    recipe = {key: value for key, value in asdict(setup).items() if key not in ("name", "published")}
    how = {key: value for key, value in asdict(run).items() if key not in NOT_KEPT}
    return json.loads(json.dumps({"setup": setup.name, **recipe, **how, "mixed_precision": mixed_precision}))


def read_config(file: Path) -> dict:
    try:
        config = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(
            f"{file} is broken, so the run in its folder cannot be told; name another folder with --output_dir, or "
            f"replace the run with --resume never --overwrite"
        )
    return config


def compare(mine: dict, theirs: dict, folder: Path) -> None:
    mine, theirs = flatten(mine), flatten(theirs)
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} here"
        for key in mine | theirs
        if key not in MAY_CHANGE and mine.get(key) != theirs.get(key)
    ]
    if differing:
        raise ValueError(
            f"{folder} belongs to another configuration ({'; '.join(differing)}); name another folder with "
            f"--output_dir, or replace the run with --resume never --overwrite"
        )


def flatten(config: dict, prefix: str = "") -> dict:
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


def complete_checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    names = re.compile(r"epoch-(\d+)")
    found = (path for path in (folder / "checkpoints").glob("epoch-*") if names.fullmatch(path.name))
    return sorted(found, key=lambda path: int(names.fullmatch(path.name)[1]))


def write_metrics(folder: Path, metrics: list[dict]) -> None:
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))


def write_record(folder: Path, record: dict) -> None:
    write_text(folder / "overhaul.json", json.dumps(record, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(content)
    flush(temporary)
    temporary.replace(path)


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
