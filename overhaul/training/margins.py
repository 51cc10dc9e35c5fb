"""The margins that no BatchNorm tells, measured on training images before the first step."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from overhaul import distill
from overhaul.data.loaders import unaugmented
from overhaul.system.messages import UserError
from overhaul.system.processes import sync_buffers
from overhaul.training.build import Components
from overhaul.training.pretrained import shift
from overhaul.training.teaching import Shown, in_mode, make_teacher_forward


@torch.no_grad()
def measure_margins(of: Components, say: Callable[[str], None]) -> None:
    """Set them in the method, the same on all processes, from what the teacher makes of images as it sees them."""
    norms = zip(distill.parts(of.method), of.setup.of_methods("teacher_norm"), strict=True)
    part, norm = next(((part, norm) for part, norm in norms if getattr(part, "measured", {})), (None, None))
    if part is None:
        return
    shown = Shown(shift(of.teacher_weights, of.setup), of.setup.teacher.image_size)
    forward, seen = make_teacher_forward(in_mode(of.teacher, norm), of.accelerator, shown=shown), 0

    def maps() -> Iterator[list[Tensor]]:
        nonlocal seen
        for pixels in unaugmented(of.train_loader):
            features = forward(of.normalize(pixels)).features
            seen += len(pixels)
            yield [features[j] for j in part.measured.values()]

    found = distill.measured(maps())
    if not found:
        raise UserError("the first training images cannot be read, so the teacher's margins cannot be measured on them")
    part.set_margins(found)
    sync_buffers(of.model)
    say(f"  margins    of {len(found)} of the teacher's maps measured on {seen} training images")
