"""A student's repository of the Hub, copied into a folder; nothing of it is run."""

import os
import shutil
from pathlib import Path

from overhaul.hub import client, entries
from overhaul.hub.files import read_safetensors
from overhaul.hub.weights import build, config_on_hub, download_weights, from_hub
from overhaul.models.limits import LARGEST_BYTES
from overhaul.system.files import folder_beside
from overhaul.system.messages import UserError, warn

ACCOUNTS = ("README.md", "overhaul.json", "metrics.jsonl", "curves.png")  # that a student's repository may have


def pull(source: str, out: str | Path) -> dict:
    """Copy a student from the Hub, USER/REPO[@REVISION], into a new folder, which appears whole.

    Returns {"folder", "repo", "revision": the commit, "left_out": the accounts of the student that the cache lacks
    where the Hub does not answer}. A student whose network is a function of somebody's file is copied as it is, since
    its code is not there, and this is said. Raises UserError for a folder in use, and for what load would refuse.
    """
    out, (repo, revision) = Path(out).expanduser(), client.parts(source)
    if os.path.exists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is in use; name a folder that is not there yet")
    weights, commit = checked_weights(repo, revision)
    files = {name: weights.parent / name for name in ("config.json", weights.name)}
    left_out = []
    for name in ACCOUNTS:
        try:
            files[name] = client.download(repo, name, commit)
        except client.Missing:
            continue
        except client.Unreachable:
            left_out.append(name)
    try:
        with folder_beside(out) as made:
            whole = made / out.name
            whole.mkdir()
            for name, file in files.items():
                shutil.copyfile(file, whole / name)
            whole.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written to: {error.strerror}") from None
    return {"folder": str(out), "repo": repo, "revision": commit, "left_out": left_out}


def checked_weights(repo: str, revision: str | None) -> tuple[Path, str]:
    """The file of a repository's weights, which fit its network as far as that is known, and the commit."""
    config, commit = config_on_hub(repo, revision)
    if not entries.is_of_file(config):
        weights = from_hub(repo, commit)
        build(weights)
        return weights.file, commit
    file = download_weights(repo, commit, largest=LARGEST_BYTES)
    read_safetensors(file)
    warn(
        f"{repo} is a network of {entries.file_named(config)}, whose code is not there: loading it needs "
        f"--net FILE.py:FUNCTION"
    )
    return file, commit
