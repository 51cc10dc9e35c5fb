"""A run's checkpoints on the disk: each a folder that is whole, by its checksums, or is set aside."""

import json
import re
from pathlib import Path

from overhaul.system.files import flush, read_json, remove, sha256, write_text
from overhaul.system.messages import UserError, printable, warn

KEPT = 2  # the newest ones, beside the best epoch's
NAME = re.compile(r"epoch-(\d{4,9})(?:-step-(\d{6,12}))?", re.ASCII)
MANIFEST = "manifest.json"
BROKEN, UNFINISHED, DELETED = "broken-", "unfinished", "deleted"


def name(epoch: int, step: int) -> str:
    """Of the checkpoint after so many finished epochs and so many steps of the next one."""
    return f"epoch-{epoch:04d}-step-{step:06d}" if step else f"epoch-{epoch:04d}"


def found(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first; nothing else that lies among them, and no link."""
    paths = [path for path in (folder / "checkpoints").glob("epoch-*") if NAME.fullmatch(path.name)]
    paths = [path for path in paths if path.is_dir() and not path.is_symlink()]
    return sorted(paths, key=lambda path: [int(number or 0) for number in NAME.fullmatch(path.name).groups()])


def unfinished(folder: Path) -> Path:
    """Where the next checkpoint is written."""
    return folder / "checkpoints" / UNFINISHED


def begin(folder: Path) -> None:
    """Make an empty folder for the files of the next checkpoint."""
    discard(folder)
    remove(folder / "checkpoints" / DELETED)
    unfinished(folder).mkdir(parents=True)


def discard(folder: Path) -> None:
    """Delete what a checkpoint that could not be finished has left, as far as it can be."""
    try:
        remove(unfinished(folder))
    except OSError as error:
        warn(f"{unfinished(folder)} cannot be deleted ({error.strerror})")


def complete(folder: Path, target: str) -> None:
    """Write down the checksums, force all to the disk, and give the new checkpoint its name."""
    made = unfinished(folder)
    files = sorted(made.iterdir())
    sums = {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in files}
    for path in files:
        flush(path)
    write_text(made / MANIFEST, json.dumps({"files": sums}, indent=2) + "\n")
    flush(made)
    if (there := made.with_name(target)).exists() or there.is_symlink():
        set_aside(there)
    made.rename(there)
    flush(made.parent)


def prune(folder: Path, best: int | None) -> None:
    """Delete all but the newest checkpoints and that of the best epoch; one that is being deleted has another name."""
    for old in found(folder)[:-KEPT]:
        if best is None or old.name != name(best, 0):
            remove(folder / "checkpoints" / DELETED)
            remove(old.rename(folder / "checkpoints" / DELETED))


def files(checkpoint: Path) -> dict[str, Path]:
    """The files of a checkpoint that its manifest names, by their names; what else lies there is never opened."""
    listed = read_json(checkpoint / MANIFEST)["files"]
    return {file: checkpoint / file for file in listed}


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, by its manifest."""
    try:
        listed = read_json(checkpoint / MANIFEST)["files"]
        if not listed:
            return f"{MANIFEST} is empty"
        for file, expected in listed.items():
            path, shown = checkpoint / file, printable(file)[:80]
            if path.name != file or path.is_symlink() or (path.exists() and not path.is_file()):
                return f"{shown} is not a file of its own"
            if path.stat().st_size != (size := expected["bytes"]):
                return f"{shown} has not its {size:,} bytes"
            if sha256(path) != expected["sha256"]:
                return f"{shown} does not have its checksum"
    except OSError as error:
        return f"{printable(Path(error.filename).name)[:80]} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is broken"
    return None


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint to go on from, or None where the run has not made one; broken ones are set aside with a warning.

    Raises UserError where none is left of those that the run has made.
    """
    faults = []
    for checkpoint in reversed(found(folder)):
        if not (wrong := fault(checkpoint)):
            for words in faults:
                warn(words)
            return checkpoint
        faults.append(f"{checkpoint} is broken ({wrong}); set aside as {set_aside(checkpoint).name}")
    aside = sorted((folder / "checkpoints").glob(f"{BROKEN}*"))
    metrics = folder / "metrics.jsonl"
    if aside or (metrics.exists() and metrics.stat().st_size):
        first = f" ({faults[0]})" if faults else ""
        what = f"every checkpoint of {folder} is broken{first}" if aside else f"the checkpoints of {folder} are gone"
        raise UserError(f"{what}, so it cannot go on; replace the run with --resume never --overwrite")
    return None


def set_aside(checkpoint: Path) -> Path:
    """Give a broken checkpoint, or what lies where one is to be, another name."""
    target, number = checkpoint.with_name(BROKEN + checkpoint.name), 1
    while target.exists() or target.is_symlink():
        number += 1
        target = checkpoint.with_name(f"{BROKEN}{checkpoint.name}-{number}")
    return checkpoint.rename(target)
