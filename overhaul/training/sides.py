"""Teacher, student alone and distilled student over the test images of a data set."""

from collections.abc import Callable

import numpy as np
import torch

from overhaul.data.workers import deaths_explained
from overhaul.options import DataOptions
from overhaul.recipe import Net
from overhaul.report.runs import Told
from overhaul.report.sides import Answers, compare
from overhaul.run.folder import is_student
from overhaul.system.accelerator import of_main
from overhaul.system.messages import UserError, printable, warn
from overhaul.system.signs import Signs
from overhaul.training.evaluation import counted, open_source

FAR = 0.5  # percent between a student's accuracy here and its metrics', which other batches and precisions do not bring


@deaths_explained()
@torch.inference_mode()
def answers_of(source: Net | str, data: str, options: DataOptions, show: bool = False) -> Answers:
    """What a trained network says of a test split's images, those apart that are broken; see evaluate_source."""
    found = open_source(source, data, options)
    signs = of_main(found.accelerator, lambda: Signs("test", len(found.loader.rows), "batch", warn, quiet=not show))
    found.network.eval()
    labels, named, confidence = [], [], []
    for images, truth in counted(found.loader, signs):
        with found.accelerator.autocast():
            logits = found.network(found.normalize(images))
        if not logits.isfinite().all():
            raise UserError(f"{found.source} gives no finite numbers for some of the test images")
        most = logits.float().softmax(1).max(1)
        whole = (truth >= 0).cpu()
        labels.append(truth.cpu()[whole])
        named.append(most.indices.cpu()[whole])
        confidence.append(most.values.cpu()[whole])
    found.accelerator.end_training()
    arrays = (torch.cat(each).numpy() for each in (labels, named, confidence))
    return Answers(tuple(map(str, found.loader.images.classes)), *arrays)


def sides(groups: list, data: str, options: DataOptions, show: bool = False) -> list[dict]:
    """A side_by_side for each group of a distilled student, of its finished run of the lowest seed that is whole.

    Beside it the baseline's run of the same seed stands, else of its lowest. A group without a final student is told
    of on stderr. Raises UserError where the data cannot be read.
    """
    known, found = {}, []

    def answers(source: Net | str) -> Answers:
        key = repr(source)
        if key not in known:
            known[key] = answers_of(source, data, options, show)
        return known[key]

    for group in groups:
        whole = [told for told in group.finished if is_student(told.folder / "final")]
        if group.method != "original" and not whole:
            warn(f"{group.label} is left out beside its teacher: no finished run with a final/ is here")
        elif group.method != "original":
            alone = group.baseline.finished if group.baseline else []
            same = [told for told in alone if told.seed == whole[0].seed] or alone
            found.append(side_by_side(whole[0], next(iter(same), None), answers))
    return found


def side_by_side(distilled: Told, alone: Told | None, answers: Callable[[Net | str], Answers]) -> dict:
    """Of a distilled run, its teacher and a run of the student alone, or None: see report.sides.compare.

    Besides that {"run", "alone": names, "method", "notes": what is missing, and why}. answers: of a network, see
    answers_of. The final students count. Raises UserError where the distilled one or the data cannot be read.
    """
    notes, found = [], {}
    mine = answers(final(distilled))
    teacher = distilled.config.get("teacher") or {}
    wanted = {"teacher": lambda: teacher_of(teacher), "student alone": lambda: final(alone)}
    for role, source in wanted.items():
        try:
            theirs = answers(source()).numbered_as(mine.classes)
            if not np.array_equal(theirs.labels, mine.labels):
                raise UserError("it was not tested on the same images")
            found[role] = theirs
        except UserError as error:
            notes.append(f"{role} left out: {printable(str(error))}")
    found["distilled"] = mine
    for run, role in ((distilled, "distilled"), (alone, "student alone")):
        if role in found and abs((said := run.final["test_top1"]) - found[role].top1) > FAR:
            notes.append(
                f"{role}: {found[role].top1:.2f} % here, {said:.2f} % in its metrics: are these its test images?"
            )
    names = {"run": distilled.name, "alone": alone.name if alone else None, "method": distilled.method}
    return {**names, **compare(found), "notes": notes}


def final(run: Told | None) -> str:
    if run is None:
        raise UserError("there is no run of --method original with the same recipe")
    folder = run.folder / "final"
    if not is_student(folder):
        raise UserError(f"{run.name} has no final student")
    return str(folder)


def teacher_of(words: dict) -> Net:
    """The teacher that a run's config.yaml names."""
    if not words.get("weights"):
        raise UserError("its config.yaml names no teacher's weights")
    names = {key: tuple(value) if isinstance(value, list) else value for key, value in words.items()}
    try:
        return Net(**names)
    except TypeError:
        raise UserError("its config.yaml names a teacher of another version") from None
