"""Runs whose folders somebody else has had a hand in, made of a small real one."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from support.places import TESTS

OLD = TESTS / "support" / "run_of_0.1.0"  # an epoch of the digits, as 0.1.0 wrote it
NET = ("--student.family", "pyramidnet", "--student.kwargs", '{"depth": 8, "alpha": 6, "bottleneck": false}')
TRAIN = ("train", "--setup", "digits_teacher", *NET, "--image_size", "16", "--batch_size", "128", "--epochs", "1")
TRAIN = (*TRAIN, "--output_dir", "run")


class Runs:
    """A pickle of it, opened by one that runs what pickles say, leaves a file where it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("it_ran"),)


def renew(checkpoint: Path) -> None:
    """A manifest of what lies there, as its writer would make it."""
    files = [path for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != "manifest.json"]
    sums = {}
    for path in files:
        content = path.read_bytes()
        sums[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps({"files": sums}))


def old(folder: Path) -> Path:
    """A run as 0.1.0 left it, in folder/run; its checkpoint."""
    shutil.copytree(OLD, folder / "run")
    return folder / "run" / "checkpoints" / "epoch-0001"


def new(folder: Path) -> Path:
    """The same as it is written now."""
    checkpoint = old(folder)
    state = torch.load(checkpoint / "custom_checkpoint_0.pkl", weights_only=True)
    (checkpoint / "custom_checkpoint_0.pkl").unlink()
    (checkpoint / "state.json").write_text(json.dumps(state))
    renew(checkpoint)
    return checkpoint


def changed(change: Callable[[Path], object], make: Callable[[Path], Path] = new) -> Callable[[Path], None]:
    """Lays a run whose checkpoint has been changed, with a manifest that fits."""

    def lay(folder: Path) -> None:
        checkpoint = make(folder)
        change(checkpoint)
        renew(checkpoint)

    return lay


def state(**values) -> Callable[[Path], None]:
    """Changes a checkpoint's state."""

    def change(checkpoint: Path) -> None:
        content = json.loads((checkpoint / "state.json").read_text())
        (checkpoint / "state.json").write_text(json.dumps({**content, **values}))

    return changed(change)


def holds(name: str, content: bytes | str) -> Callable[[Path], None]:
    """Replaces a file of a checkpoint, or adds one."""
    content = content.encode() if isinstance(content, str) else content
    return changed(lambda checkpoint: (checkpoint / name).write_bytes(content))


def runs(name: str, make: Callable[[Path], Path] = new) -> Callable[[Path], None]:
    """Replaces a file of a checkpoint by a pickle that would run code."""
    return changed(lambda checkpoint: torch.save({"state": Runs()}, checkpoint / name), make)


def edited(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Lays a run of which one entry is changed: change is given its path."""

    def lay(folder: Path) -> None:
        new(folder)
        change(folder / "run" / name)

    return lay


def written(name: str, text: str) -> Callable[[Path], None]:
    return edited(name, lambda path: (path.parent.mkdir(exist_ok=True), path.write_text(text)))


def link(path: Path) -> None:
    """Move an entry elsewhere, and put a link to it in its place."""
    elsewhere = path.parent.parent / f"elsewhere_{path.name}"
    if path.exists():
        path.rename(elsewhere)
    path.symlink_to(elsewhere)


def linked(name: str) -> Callable[[Path], None]:
    return edited(name, lambda path: (path.parent.mkdir(exist_ok=True), link(path)))
