"""An earlier run that --overwrite replaces: it lies aside until the new one has a checkpoint."""

from pathlib import Path

from overhaul.run import checkpoints
from overhaul.system.files import flush, remove

ASIDE = "replaced-run"  # a run's folder, in that of the run that replaces it
LAST = "config.yaml"  # what moves last: a folder that has it holds the whole earlier run


def waiting(folder: Path) -> Path | None:
    """Where an earlier run lies that a new one, without a checkpoint as yet, was to replace; None where none does."""
    aside = folder / ASIDE
    return aside if aside.is_dir() and not aside.is_symlink() and not checkpoints.found(folder) else None


def set_aside(folder: Path, names: tuple[str, ...]) -> None:
    """Move what is the run's, by those names, into a folder in its own; what was begun before is ended.

    The checkpoints move first. Where an earlier run lies there already, and the one that was to replace it has no
    checkpoint, that one is deleted, not the earlier.
    """
    aside = folder / ASIDE
    if not waiting(folder):
        remove(aside)
    if (aside / LAST).exists():
        for name in names:
            remove(folder / name)
        return
    present = [name for name in ("checkpoints", *names) if name != LAST]
    for name in [*dict.fromkeys(present), LAST]:
        if (folder / name).exists() or (folder / name).is_symlink():
            aside.mkdir(exist_ok=True)
            remove(aside / name)
            (folder / name).rename(aside / name)
    flush(folder)


def forget(folder: Path) -> None:
    """Delete the earlier run, once a checkpoint of the new one is there."""
    remove(folder / ASIDE)
