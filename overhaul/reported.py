"""Runs reported: found on the disk and on the Hub, grouped over their seeds, and written as tables."""

from pathlib import Path

from overhaul.report import written
from overhaul.report.groups import groups
from overhaul.report.runs import LARGEST, METRICS, RECORD, Told, find, read
from overhaul.system.files import write_folder
from overhaul.system.messages import UserError, is_hub_id, some, warn


def report(paths: list[str], out: str | None = None, show: bool = False) -> dict:
    """See api.report."""
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise UserError("report needs the folder of a run, of several, or a student on the Hub")
    runs, left_out = read_all(list(map(str, paths)))
    if not runs:
        if show and len(left_out) > 1:
            for line in left_out:
                warn(line)
        why = left_out[0] if len(left_out) == 1 else f"none of {some(list(map(str, paths)))} has a run"
        raise UserError(f"there is nothing to report: {why}")
    found = groups(runs, left_out)
    result = written.summary(found, left_out)
    folder = Path(out).expanduser() if out else beside(str(paths[0]))
    files = {
        "report.md": written.as_markdown(result),
        "report.csv": written.as_csv(result),
        "report.json": written.as_json(result),
    }
    write(folder, {name: text.encode() for name, text in files.items()})
    for line in result["warnings"] if show else ():
        warn(line)
    return {**result, "folder": str(folder), "files": sorted(files)}


def beside(path: str) -> Path:
    """Where a report is written that names no folder: `report` in the one that is reported, or here."""
    folder = Path(path).expanduser()
    return (folder if folder.is_dir() else Path()) / "report"


def write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        write_folder(folder, files)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error}); name another folder with --out") from None


def read_all(paths: list[str]) -> tuple[list[Told], list[str]]:
    """The runs that can be read, each once, and a line for all that cannot."""
    runs, left_out, seen = [], [], set()

    def attempt(make) -> object:
        try:
            return make()
        except UserError as error:
            left_out.append(str(error))
            return None

    for path in paths:
        folders = attempt(lambda path=path: located(path))
        if folders == []:
            left_out.append(f"{path} holds no run")
        for folder, name in folders or ():
            if (real := folder.resolve()) in seen:
                continue
            seen.add(real)
            told = attempt(lambda folder=folder, name=name: read(folder, name))
            runs += [told] if told else []
    return runs, left_out


def located(path: str) -> list[tuple[Path, str | None]]:
    """The folders of the runs that a path or a repository stands for, and the names of those that have another."""
    if is_hub_id(path) and not Path(path).is_dir():
        return [(fetched(path), path)]
    return [(folder, None) for folder in find(path)]


def fetched(source: str) -> Path:
    """The cached folder with a student's record and metrics, both of one commit."""
    from overhaul.hub import client

    repo, _, revision = source.partition("@")
    record = client.download(repo, RECORD, revision or None, LARGEST)
    client.download(repo, METRICS, record.parent.name, LARGEST)
    return record.parent
