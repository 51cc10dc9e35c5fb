"""Links and other odd entries in a run's folder, which nothing is to be written through."""

import os
from pathlib import Path

from overhaul.system.messages import UserError


def check_place(folder: Path) -> None:
    """UserError where no folder can be, or none that may be written to."""
    try:
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    except PermissionError:
        raise UserError(f"{folder} may not be looked into; name another folder with --output_dir") from None
    if not nearest.is_dir():
        raise UserError(f"{nearest} is a file; name another folder with --output_dir")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{nearest} may not be read and written to; name another folder with --output_dir")


def check(folder: Path, names: tuple[str, ...]) -> None:
    """UserError where what a run writes to is a link, is of the wrong kind, or may not be written to."""
    own = [folder / name for name in names]
    below = [Path(path, name) for path, folders, files in os.walk(folder / "logs") for name in (*folders, *files)]
    for entry in (*own, *below):
        if entry.is_symlink():
            raise UserError(f"{entry} is a link, which a run does not follow; remove it")
    for entry in own:
        if entry.exists() and (not entry.is_dir() if entry.suffix == "" else not entry.is_file()):
            raise UserError(f"{entry} is not the {'file' if entry.suffix else 'folder'} that a run leaves; remove it")
        if entry.is_dir() and not os.access(entry, os.R_OK | os.W_OK | os.X_OK):
            raise UserError(f"{entry} may not be read and written to; name another folder with --output_dir")
