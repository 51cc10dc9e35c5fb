"""Runs reported: found on the disk and on the Hub, grouped over their seeds, and written as tables and a page."""

from pathlib import Path

from overhaul.options import DataOptions
from overhaul.report import charts, written
from overhaul.report.groups import Group, groups
from overhaul.report.page import page
from overhaul.report.runs import LARGEST, METRICS, RECORD, Told, find, read
from overhaul.report.watch import watch as watched
from overhaul.system.files import write_folder
from overhaul.system.messages import UserError, is_hub_id, some, warn
from overhaul.system.signatures import takes

FILES = ("curves.png", "report.md", "report.csv", "report.json", "report.html")


@takes(DataOptions)
def report(
    paths: list[str],
    *,
    out: str | None = None,
    watch: bool = False,
    with_data: str | None = None,
    show: bool = False,
    **options,
) -> dict:
    """Group runs over their seeds and write what came out: report.html, report.md, .csv and .json, and curves.png.

    Returns {"groups": for each n, final and best error, the gain over original, the published error, what it cost and
    its runs; "rules": what these mean; "warnings": a line for each run that is left out, "folder", "files"}; with data
    "sides" too: see training.sides.side_by_side.

    Args:
        paths: folders of runs, of several of them or of a study, and students on the Hub, USER/REPO[@REVISION]
        out: the folder to write to; `report` in the first of the folders unless named
        watch: go on until all runs have finished, or Ctrl-C: draw the curves in the terminal, and let a browser read
            the page again
        with_data: a data set, as for evaluate, over whose test images teacher and students are laid side by side
        show: tell on stderr what is left out, as the command does
    """
    paths = [str(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    options = DataOptions(**options)
    check(paths, watch, with_data, options)
    folder = Path(out).expanduser() if out else beside(paths[0])
    if watch:
        watched(lambda refresh=None: look(paths, folder, show, refresh)[0], show=show)
    found, result = look(paths, folder, show)
    if with_data:
        from overhaul.training.sides import sides

        _, result = look(paths, folder, show, sides=sides(found, with_data, options, show))
    for line in result["warnings"] if show else ():
        warn(line)
    return {**result, "folder": str(folder), "files": list(FILES)}


def check(paths: list[str], watch: bool, with_data: str | None, options: DataOptions) -> None:
    """UserError for what does not go together."""
    if not paths:
        raise UserError("report needs the folder of a run, of several, or a student on the Hub")
    if options != DataOptions() and not with_data:
        raise UserError("--data_path and what else is said of data go with --with_data DATA, which is not named")
    if watch and any(map(on_hub, paths)):
        raise UserError("--watch looks at folders on this machine; leave out what is on the Hub")


def look(
    paths: list[str], folder: Path, show: bool, refresh: int | None = None, sides: list[dict] = ()
) -> tuple[list[Group], dict]:
    """The groups of the runs as they are now, and what was written of them; refresh, sides: see report.page."""
    found, left_out = grouped(paths, show)
    result = written.summary(found, left_out) | ({"sides": sides} if sides else {})
    write(folder, files_of(result, found, sides, refresh, folder))
    return found, result


def grouped(paths: list[str], show: bool) -> tuple[list[Group], list[str]]:
    """The groups of all runs that can be read, and a line for all that cannot; UserError where none can."""
    runs, left_out = read_all(paths)
    if not runs:
        if show and len(left_out) > 1:
            for line in left_out:
                warn(line)
        why = left_out[0] if len(left_out) == 1 else f"none of {some(paths)} has a run"
        raise UserError(f"there is nothing to report: {why}")
    return groups(runs, left_out), left_out


def files_of(
    result: dict, found: list[Group], sides: list[dict], refresh: int | None, folder: Path
) -> dict[str, bytes]:
    texts = written.as_markdown(result), written.as_csv(result), written.as_json(result)
    whole = page(result, found, sides, refresh, folder)
    return dict(zip(FILES, (charts.curves(found), *(text.encode() for text in (*texts, whole))), strict=True))


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


def on_hub(path: str) -> bool:
    return is_hub_id(path) and not Path(path).is_dir()


def located(path: str) -> list[tuple[Path, str | None]]:
    """The folders of the runs that a path or a repository stands for, and the names of those that have another."""
    if on_hub(path):
        return [(fetched(path), path)]
    return [(folder, None) for folder in find(path)]


def fetched(source: str) -> Path:
    """The cached folder with a student's record and metrics, both of one commit."""
    from overhaul.hub import client

    repo, _, revision = source.partition("@")
    record = client.download(repo, RECORD, revision or None, LARGEST)
    client.download(repo, METRICS, record.parent.name, LARGEST)
    return record.parent
