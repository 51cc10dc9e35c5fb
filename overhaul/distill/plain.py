"""Distillation for a training loop of one's own: a plain student, a plain teacher, and one module around them."""

from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from overhaul.distill.margins import measured
from overhaul.distill.method import as_teacher
from overhaul.distill.overhaul import Overhaul
from overhaul.models import Backbone, Stages
from overhaul.models.hooked import Hooked
from overhaul.system.messages import UserError

BATCHES = 8  # from which margins are measured
ALONE = "Expected more than 1 value per channel"  # in PyTorch's error


class Distilled(Overhaul):
    """A student beside a teacher that is no part of it: model(images) -> (logits, distillation loss); see distill."""

    def __init__(self, student: Backbone, teacher: Backbone, plain: nn.Module) -> None:
        super().__init__(student, teacher)
        self.student, self.is_measured = plain, not self.measured
        vars(self).update(backbone=student, teacher=teacher)  # not as modules: their tensors are none of this one's

    def _apply(self, fn, recurse: bool = True) -> "Distilled":
        super()._apply(fn, recurse)
        self.teacher._apply(fn)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes], and the sum of the stage losses with the stages' weights, a scalar."""
        targets = self.teach(images).features
        if not self.is_measured:
            self.measure([targets])
        logits, features = self.backbone.forward_stages(images)
        return logits, self.distance(features, targets)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Stages:
        try:
            return self.teacher.forward_stages(images)
        except ValueError as error:
            if ALONE not in str(error):
                raise
            raise UserError(
                "a BatchNorm of the teacher gets one number a channel: give it more images at once, or the teacher "
                "teacher_norm='running'"
            ) from None

    @torch.no_grad()
    def measure(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Set the margins that only data tell from the teacher's features, unless a checkpoint has brought them."""
        if any(self.get_buffer(f"margin{number}").isnan().any() for number in self.measured):
            self.set_margins(measured([maps[j] for j in self.measured.values()] for maps in batches))
        self.is_measured = True


def distill(
    student: nn.Module,
    teacher: nn.Module,
    image_size: int = 224,
    *,
    student_positions: Sequence[str] | None = None,
    teacher_positions: Sequence[str] | None = None,
    teacher_norm: str = "batch",
    images: Iterable | None = None,
) -> Distilled:
    """A module with .student, .connectors and model(images) -> (logits, distill_loss), both with their graph.

    student, teacher: classifiers of images [batch, 3, height, width]; both stay what they are, but for the teacher's
    mode and requires_grad. The teacher is in none of the module's parameters, buffers and modules, follows it to its
    device and precision, and stays in teaching mode. image_size: side in pixels of the images for which the features
    are found; others may be given. The positions: modules to compare in place of those that are found, see recipe.Net.
    teacher_norm: see teaching. images: batches (or pairs of a batch and labels) of which up to 8 tell the margins that
    no BatchNorm tells; without them the first batch that the module gets does. distill_loss: the sum over the stages
    with their weights; a training weighs it again, as with --distill_weight. Raises UserError for networks in which no
    maps are found.
    """
    learner = backbone(student, image_size, student_positions)
    model = Distilled(learner, as_teacher(backbone(teacher, image_size, teacher_positions), teacher_norm), student)
    if images is not None and not model.is_measured:
        place = next(teacher.parameters())
        batches = islice([images] if isinstance(images, Tensor) else images, BATCHES)
        pixels = (each if isinstance(each, Tensor) else each[0] for each in batches)
        model.measure(model.teach(each.to(place)).features for each in pixels)
    first = next(student.parameters(), None)
    return model if first is None else model.to(first.device)


def backbone(network: nn.Module, image_size: int, positions: Sequence[str] | None) -> Backbone:
    """The network, which gives its features."""
    if not isinstance(network, nn.Module):
        raise UserError(f"a student and a teacher are nn.Modules, not a {type(network).__name__}")
    if not isinstance(image_size, int) or image_size < 1:
        raise UserError(f"image_size is a side in pixels, such as 224, not {image_size}")
    if isinstance(network, Backbone) and not positions:
        return network
    names = (positions,) if isinstance(positions, str) else positions and tuple(positions)
    return Hooked(network.bare if isinstance(network, Backbone) else network, image_size, names)
