"""What a distilled student has gained over the run of the student alone that lies beside its own."""

from collections.abc import Iterator
from pathlib import Path

from overhaul.report.groups import identity, of_the_student
from overhaul.report.runs import RECORD, Told, read
from overhaul.report.statistics import gain as rounded
from overhaul.system.messages import UserError

MOST = 200  # folders beside a run's that are looked at


def gained(folder: Path, beside: str | None = None) -> str | None:
    """A line for the end of a distilled run; None where no run of the student alone can be found.

    It is that of `beside`, or the first folder beside the run's with a finished run of the same recipe, seed and data.
    """
    try:
        mine = read(folder)
        if mine.method == "original" or not mine.finished:
            return None
        found = [read(Path(beside).expanduser())] if beside else runs_beside(mine)
        theirs = next((told for told in found if told.finished and (beside or is_alone(told, mine))), None)
    except Exception:  # whatever lies there, the run that has ended is not lost for a line
        return None
    return theirs and words(mine, theirs)


def runs_beside(mine: Told) -> Iterator[Told]:
    """The runs in the folders beside its own, as far as they can be read."""
    folders = sorted(each for each in mine.folder.absolute().parent.iterdir() if (each / RECORD).is_file())
    folders.sort(key=lambda each: "original" not in each.name)
    for folder in folders[:MOST]:
        try:
            yield read(folder)
        except UserError:
            continue


def is_alone(told: Told, mine: Told) -> bool:
    same = told.method == "original" and told.seed == mine.seed
    return same and of_the_student(identity(told)) == of_the_student(identity(mine))


def words(mine: Told, theirs: Told) -> str:
    final, best = (
        getattr(mine, which)["test_top1"] - getattr(theirs, which)["test_top1"] for which in ("final", "best")
    )
    told = f"{points(final)} the student alone in {theirs.folder} (final; the best is {points(best)} its best)"
    return f"distillation: the top-1 error is {told}; one seed says little"


def points(gain: float) -> str:
    """Halves against the method: a gain's down, a loss's up."""
    if not gain:
        return "that of"
    return f"{rounded(gain).lstrip('+-')} points {'lower' if gain > 0 else 'higher'} than"
