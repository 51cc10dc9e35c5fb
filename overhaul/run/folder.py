"""A run's folder: whose it is, its configuration, its metrics, and files that appear whole or not at all."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from overhaul.options import Run
from overhaul.setups import Setup

MAY_CHANGE = (
    "output_dir",
    "data_path",
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
NOT_KEPT = ("resume", "resume_with", "overwrite", "dry_run")  # they say how to start, not what the run is
OURS = ("checkpoints", "final", "best", "logs", "metrics.jsonl", "overhaul.json", "config.yaml")
LOCK = ".lock"


def output_dir(setup: Setup, run: Run) -> Path:
    return Path(run.output_dir or f"runs/{setup.name}-{setup.method}-seed{run.seed}").expanduser()


class Claim:
    """A run's folder while it is used: free, or with a run that may be continued or overwritten, and nobody else's.

    Entering raises ValueError where it is not, and changes nothing. The lock ends with the process, however that dies.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run, self.descriptor = folder, run, None

    def __enter__(self) -> "Claim":
        folder, run = self.folder, self.run
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise ValueError(f"{nearest} is a file; name another folder with --output_dir")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise ValueError(f"{nearest} may not be written to; name another folder with --output_dir")
        held = folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())
        if held and not (folder / "config.yaml").is_file():
            raise ValueError(f"{folder} holds files but no run; name another folder with --output_dir")
        if held and run.resume == "never" and not run.overwrite:
            raise ValueError(
                f"{folder} holds a run, and --resume never leaves it alone: add --overwrite, or --output_dir DIR"
            )
        if run.resume_with and not held:
            raise ValueError(f"--resume_with goes on with a run, and {folder} holds none")
        if folder.exists():
            self.lock()
        return self

    def __exit__(self, *_) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)

    def lock(self) -> None:
        """Keep other runs out of the folder, which must be there; ValueError if one is at work in it."""
        if self.descriptor is not None or int(os.environ.get("RANK", 0)) > 0 or fcntl is None:
            return
        file = self.folder / LOCK
        try:
            self.descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, never a forked worker's
        except BlockingIOError:
            who = file.read_text().strip()
            raise ValueError(f"{self.folder} is in use by another run ({who}): wait for its end, or stop it") from None
        except OSError as error:
            print(f"overhaul: {self.folder} cannot be locked ({error}): start no second run in it", file=sys.stderr)
        else:
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())


def unless_restarted(run: Run) -> Run:
    """The run; without its --resume never where a launcher or SLURM has started it again, as it must not begin anew."""
    again = any(int(os.environ.get(name) or 0) for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return replace(run, resume="auto", overwrite=False) if again else run


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


def compare(mine: dict, theirs: dict, folder: Path, besides: tuple[str, ...] = ()) -> None:
    """ValueError for a configuration that differs in what may not change between two starts, or is named besides."""
    mine, theirs = flatten(mine), flatten(theirs)
    differing = [
        f"{key}: {theirs.get(key)} there, {mine.get(key)} here"
        for key in mine | theirs
        if key not in (*MAY_CHANGE, *besides) and mine.get(key) != theirs.get(key)
    ]
    if differing:
        longer = ""
        if [each.split(":")[0] for each in differing] == ["epochs"]:
            longer = f"; to go on with another length, add --resume_with epochs={mine['epochs']}"
        raise ValueError(
            f"{folder} belongs to another configuration ({'; '.join(differing)}); name another folder with "
            f"--output_dir, or replace the run with --resume never --overwrite{longer}"
        )


def flatten(config: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A run that cannot write to its folder at its start is one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error}); make room, or name another folder with --output_dir"
        ) from None


def remove_run(folder: Path) -> None:
    """Delete what a run leaves in its folder, and nothing else."""
    for name in OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def write_metrics(folder: Path, metrics: list[dict]) -> None:
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))


def best_line(metrics: list[dict]) -> dict | None:
    """The line of metrics.jsonl of the best epoch, the first of equals."""
    return max(metrics, key=lambda line: line["test_top1"], default=None)


def write_record(folder: Path, record: dict) -> None:
    write_text(folder / "overhaul.json", json.dumps(record, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step; one that cannot be written leaves the old one, and nothing beside it."""
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_bytes(content)
        flush(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Replace a folder's files, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    flush(folder)


def flush(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
