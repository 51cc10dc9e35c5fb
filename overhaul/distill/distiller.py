"""What every method stands on: one pass of the student, a comparison in fp32, and what a method says of itself."""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from overhaul.distill.pairing import pairs
from overhaul.models import Embedded, Stages, embedding
from overhaul.system.messages import UserError


class Paper(NamedTuple):
    """Where a method was published. key, authors ("Heo, Byeongho and Kim, Jeesoo"), venue: as BibTeX has them."""

    title: str
    authors: str
    venue: str
    year: int
    key: str


class Exact:
    """What a network gave, in fp32 where it is read (in fp64 where it is that)."""

    def __init__(self, stages: Stages | Embedded) -> None:
        self.stages = stages

    def __len__(self) -> int:
        """How many maps there are."""
        return len(self.stages.features)

    @property
    def logits(self) -> Tensor:
        """[batch, classes]."""
        return exact(self.stages.logits)

    def map(self, number: int) -> Tensor:
        """[batch, channels, height, width], before the ReLU that ends its stage."""
        return exact(self.stages.features[number])

    def active(self, number: int) -> Tensor:
        """The same after it."""
        return self.map(number).relu()

    @property
    def embedding(self) -> Tensor:
        """What the classifier gets, [batch, channels]."""
        return exact(embedding(self.stages))


def exact(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class Distiller(nn.Module):
    """A student with what a method adds to it: model(images, teacher_stages, labels) -> (logits, distillation loss).

    A method is a subclass in a file of this folder that ends in `Method = THE_CLASS`. Its docstring says in two
    sentences what it does, and it writes `compare`. Its settings are the keyword-only arguments of its __init__, each a
    float, int or bool with a default, which is CIFAR's. What else it says are literals of the class, so that they are
    read without importing it:

    paper: where it was published. compares: in a few words. needs: of the networks, "features", "logits" (the teacher
    must know the data's classes), "embedding" (what the classifier gets) or None. embedded: whether it reads that.
    teacher_norm: what the teacher's BatchNorms normalise by, see method.teaching. hard_labels: whether labels must be
    class numbers. least_images: of a process, for one step. defaults: what a kind of setup ("cifar", "imagenet"), one
    setup by its name, or a setting of its own that is true has in place of the usual values, of the recipe
    (label_weight, distill_weight, ramp_epochs) and of its settings; the later in that order count.
    """

    paper: ClassVar[Paper | None] = None
    compares: ClassVar[str] = ""
    needs: ClassVar[str | None] = "features"
    embedded: ClassVar[bool] = False
    teacher_norm: ClassVar[str] = "running"
    hard_labels: ClassVar[bool] = False
    least_images: ClassVar[int] = 1
    defaults: ClassVar[dict] = {}

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.connectors = nn.ModuleDict()  # all that is learned beside the student, and thrown away afterwards
        self.pairs = pairs(student, teacher) if self.needs == "features" else []
        if self.embedded:
            # UserError where there is no such layer, and a dry run that no compiled pass may begin with
            self.embedding_widths = student.embedding_width, teacher.embedding_width

    def forward(self, images: Tensor, teacher_stages, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [batch, classes] and the distillation loss, a scalar, without its weight.

        teacher_stages: what the teacher gives of the same images. labels: [batch] class numbers, or [batch, classes]
        probabilities unless hard_labels. Raises UserError for a batch or labels that the method cannot do with.
        """
        student = needed(self.student, [self])(images)
        return student.logits, self.loss(student, teacher_stages, labels)

    def loss(self, student: Stages | Embedded, teacher: Stages | Embedded, labels: Tensor | None = None) -> Tensor:
        """The distillation loss of what both networks gave, a scalar in fp32 (fp64); none reaches the teacher."""
        self.check(student.logits, labels)
        teacher = detached(teacher)
        student = self.connect(student, teacher)
        with torch.autocast(student.logits.device.type, enabled=False):
            return self.compare(Exact(student), Exact(teacher), labels)

    def connect(self, student: Stages | Embedded, teacher: Stages | Embedded) -> Stages | Embedded:
        """What the learned parts make of what the student gave, in the precision of the networks."""
        return student

    def compare(self, student: Exact, teacher: Exact, labels: Tensor | None) -> Tensor:
        """The distance of the two, a scalar, averaged over the batch, as its paper has it and without its weight."""
        raise NotImplementedError

    def check(self, logits: Tensor, labels: Tensor | None) -> None:
        name = type(self).__name__
        if len(logits) < self.least_images:
            raise UserError(
                f"{name} needs {self.least_images} images at once and got {len(logits)}: give a process more in a batch"
            )
        if self.hard_labels and (labels is None or labels.ndim != 1):
            raise UserError(f"{name} needs labels that are class numbers, [batch], not probabilities")

    @property
    def pair_weights(self) -> list[float]:
        """What each of the pairs weighs."""
        return [1.0] * len(self.pairs)

    def scale(self, images: int) -> float:
        """What the distillation weight is multiplied by where a process compares so many images at once."""
        return 1.0


def needed(network: nn.Module, asking: Sequence[Distiller]) -> Callable[[Tensor], Stages | Embedded]:
    """The pass of a network that gives what the methods ask for; without them logits and features."""
    if any(each.embedded for each in asking):
        return network.forward_embedded
    if not asking or any(each.needs == "features" for each in asking):
        return network.forward_stages
    return lambda images: Stages(network(images), [])


def detached(stages: Stages | Embedded) -> Stages | Embedded:
    features = [each.detach() for each in stages.features]
    return type(stages)(stages.logits.detach(), features, *(each.detach() for each in stages[2:]))
