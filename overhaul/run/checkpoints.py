"""A run's checkpoints on the disk: each a folder that is whole, by its checksums, or is set aside."""

import json
import re
import shutil
import sys
from pathlib import Path

from overhaul.hub.files import sha256
from overhaul.run.folder import flush, write_text

KEPT = 2  # the newest ones, beside the best epoch's
NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")
MANIFEST = "manifest.json"
BROKEN, UNFINISHED, DELETED = "broken-", "unfinished", "deleted"


def name(epoch: int, step: int) -> str:
    """Of the checkpoint after so many finished epochs and so many steps of the next one."""
    return f"epoch-{epoch:04d}-step-{step:06d}" if step else f"epoch-{epoch:04d}"


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    paths = [path for path in (folder / "checkpoints").glob("epoch-*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: [int(number or 0) for number in NAME.fullmatch(path.name).groups()])


def begin(folder: Path) -> Path:
    """An empty folder for the files of the next checkpoint."""
    unfinished = folder / "checkpoints" / UNFINISHED
    for left in (UNFINISHED, DELETED):
        shutil.rmtree(folder / "checkpoints" / left, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished


def complete(unfinished: Path, target: str) -> None:
    """Write down the checksums, force all to the disk, and give the folder its name."""
    files = sorted(unfinished.iterdir())
    sums = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
    for path in files:
        flush(path)
    write_text(unfinished / MANIFEST, json.dumps({"files": sums}, indent=2) + "\n")
    flush(unfinished)
    unfinished.rename(unfinished.parent / target)
    flush(unfinished.parent)


def prune(folder: Path, best: int | None) -> None:
    """Delete all but the newest checkpoints and that of the best epoch; one that is being deleted has another name."""
    for old in found(folder)[:-KEPT]:
        if best is None or old.name != name(best, 0):
            shutil.rmtree(folder / "checkpoints" / DELETED, ignore_errors=True)
            shutil.rmtree(old.rename(folder / "checkpoints" / DELETED))


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text())["files"]
        if not files:
            return f"{MANIFEST} is empty"
        for file, expected in files.items():
            if (checkpoint / file).stat().st_size != expected["bytes"]:
                return f"{file} has not its {expected['bytes']:,} bytes"
            if sha256(checkpoint / file) != expected["sha256"]:
                return f"{file} does not have its checksum"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is broken"
    return None


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint to go on from, or None where the run has not made one; broken ones are set aside with a warning.

    Raises ValueError where none is left of those that the run has made.
    """
    for checkpoint in reversed(found(folder)):
        wrong = fault(checkpoint)
        if not wrong:
            return checkpoint
        aside = set_aside(checkpoint)
        print(f"overhaul: {checkpoint} is broken ({wrong}); set aside as {aside.name}", file=sys.stderr, flush=True)
    aside = sorted((folder / "checkpoints").glob(f"{BROKEN}*"))
    metrics = folder / "metrics.jsonl"
    if aside or (metrics.exists() and metrics.stat().st_size):
        what = f"every checkpoint of {folder} is broken" if aside else f"the checkpoints of {folder} are gone"
        raise ValueError(f"{what}, so it cannot go on; replace the run with --resume never --overwrite")
    return None


def set_aside(checkpoint: Path) -> Path:
    """Give a broken checkpoint another name."""
    target, number = checkpoint.with_name(BROKEN + checkpoint.name), 1
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{BROKEN}{checkpoint.name}-{number}")
    return checkpoint.rename(target)
