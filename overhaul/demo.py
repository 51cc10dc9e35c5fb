"""The demo: a teacher, a student alone and a distilled one, trained on handwritten digits."""

from overhaul.models import parameters
from overhaul.options import default_folder
from overhaul.setups import SETUPS, settings
from overhaul.training.trainer import train


def demo(output_dir: str, epochs: int | None, show: bool, quiet: bool) -> list[dict]:
    """See api.demo."""
    lines, teacher = [], None
    for name, setup, method in (
        ("teacher", "digits_teacher", "original"),
        ("student, original", "digits", "original"),
        ("student, overhaul", "digits", "overhaul"),
    ):
        row = SETUPS[setup]
        how = {
            "epochs": row.epochs if epochs is None else epochs,
            "output_dir": default_folder(setup, method, 0, under=output_dir),
        }
        how |= {"teacher": teacher} if method == "overhaul" else {}
        result = train(*settings(setup, {"method": method, "quiet": quiet, **how}), show)
        teacher = teacher or str(result.folder)
        line = {"network": name, "parameters": parameters(row.student), "test_top1": result.final["test_top1"]}
        seconds = sum(each["seconds"] for each in result.metrics)
        lines.append({**line, "seconds": seconds, "folder": str(result.folder)})
    return lines
