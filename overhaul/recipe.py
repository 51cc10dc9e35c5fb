"""What a setup is made of: networks, how images are shown, published errors, the recipe; imports without torch."""

import re
from dataclasses import dataclass, field

from overhaul import catalogue
from overhaul.system.messages import UserError, choose, nearest

LEAST_STD, LARGEST = 1e-6, 1e6  # a smaller std, or a larger number, would leave no finite numbers of an image
LIBRARY = re.compile(r"(timm|torchvision):([^@]*)(@.*)?")  # a network of a library, and which of its trained weights
FUNCTION = re.compile(r"(.+\.py):(\w+)")  # a function in a file of the user's


def is_foreign(family: str | None) -> bool:
    """Whether it names a network of a library or of a user's file: timm:NAME, torchvision:NAME, FILE.py:FUNCTION."""
    return bool(family and (LIBRARY.fullmatch(family) or FUNCTION.fullmatch(family)))


def is_mean(values: tuple[float, ...]) -> bool:
    return all(abs(each) < LARGEST for each in values)


def is_std(values: tuple[float, ...]) -> bool:
    return all(LEAST_STD < each < LARGEST for each in values)


def check_normalisation(mean: tuple[float, ...] | None, std: tuple[float, ...] | None, flags: str = "--") -> None:
    """UserError for what no images have, or would leave no numbers of them."""
    if mean is not None and not is_mean(mean):
        raise UserError(f"{flags}mean is three numbers in 0..1, not {list(mean)}")
    if std is not None and not is_std(std):
        raise UserError(f"{flags}std must be above 0, not {list(std)}")


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network and its trained weights.

    Args:
        family: a name that `overhaul models` lists, timm:NAME, torchvision:NAME or FILE.py:FUNCTION; told by the weights
            where it is not named
        kwargs: the family's arguments
        weights: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        key: which entry of a checkpoint file holds the weights, or their prefix in it, where several fit
        mean: of the pixels that it was trained on, a channel each, where the weights do not say
        std: of the pixels that it was trained on, a channel each, where the weights do not say
        positions: the modules whose maps are compared, in place of those that are found: what each gives before the
            activation that it ends in (NAME#2: its third call; NAME:in, NAME:out: that very tensor)
        image_size: side in pixels of the images that a teacher sees, in place of the student's
    """

    family: str | None = None
    kwargs: dict[str, int | bool | float | str] = field(default_factory=dict)
    weights: str | None = None
    key: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    positions: tuple[str, ...] | None = None
    image_size: int | None = None

    def check(self, flags: str = "--") -> None:
        """UserError for what cannot be; flags: what those of its fields begin with."""
        check_normalisation(self.mean, self.std, flags)
        if self.key is not None and self.weights is None:
            raise UserError(f"{flags}key {self.key} goes with the weights of a checkpoint file, and none are named")
        if (self.mean is None) != (self.std is None):
            raise UserError(f"{flags}mean and {flags}std go together; name both")

    @property
    def named(self) -> "Net | None":
        """The net, where its family is named."""
        return self if self.family else None

    def __str__(self) -> str:
        return " ".join([str(self.family), *(f"{key}={value}" for key, value in self.kwargs.items())])

    @property
    def title(self) -> str:
        """As papers write it, without its number of classes."""
        kept = {key: value for key, value in self.kwargs.items() if key not in ("num_classes", "bottleneck")}
        return " ".join([self.family, *(f"{key} {value}" for key, value in kept.items())])


def check_names(flag: str, net: Net) -> None:
    """UserError for a family that there is not, and for arguments that it does not take or lacks, without torch.

    Where there are weights they may say the arguments.
    """
    if is_foreign(net.family):
        return
    taken = catalogue.arguments(choose(f"{flag}.family", net.family, catalogue.families()))
    if unknown := [name for name in net.kwargs if taken and name not in taken]:
        known = ", ".join(name for name in taken if name != "num_classes") or "no arguments"
        raise UserError(f"{flag}.kwargs: {net.family} takes {known}, not {unknown[0]}{nearest(unknown[0], taken)}")
    missing = [name for name in catalogue.required(net.family) if name not in (*net.kwargs, "num_classes")]
    if missing and net.weights is None:
        names = " and ".join(f"{flag}.kwargs.{name}" for name in missing)
        raise UserError(f"{flag}.family {net.family} needs {names}; `overhaul models` says which values there are")


@dataclass(frozen=True)
class Preprocessing:
    """How a test image is shown to a network.

    resize: of the short side in pixels, before the centre of size x size is cropped. mean, std: a channel each, of
    pixels in 0..1. interpolation: bilinear or bicubic.
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"


@dataclass(frozen=True)
class Published:
    """The paper's top-1 test errors in percent, ImageNet's top-5 errors beside them, and which model they are of.

    rule: "final" (CIFAR: the median of 5 final models) or "best" (ImageNet: the best epoch).
    """

    teacher: float
    student: float
    distilled: float
    rule: str = "final"
    top5: tuple[float, float, float] | None = None

    def rows(self) -> list[tuple[str, float, float | None]]:
        """Name, top-1 and top-5 error (or None) of the distilled student, the student alone and the teacher."""
        teacher5, student5, distilled5 = self.top5 or (None, None, None)
        return [
            ("distilled", self.distilled, distilled5),
            ("student alone", self.student, student5),
            ("teacher", self.teacher, teacher5),
        ]

    @property
    def models(self) -> str:
        """Which models the errors are of."""
        return "median of 5 final models" if self.rule == "final" else "best epoch"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is trained: everything that moves a number.

    Args:
        name: the row's name in SETUPS
        method: overhaul (distillation) or original (the student alone)
        data: cifar10, cifar100, digits, imagenet, a Hub id or a folder
        student: the network that learns; --student SOURCE gives the weights that it begins with, in place of fresh ones
        teacher: the network it learns from; --teacher SOURCE gives its weights (a run's folder, a file, a Hub id)
        num_classes: for data that do not say; otherwise the data decide
        epochs: length of the run; the learning rate's drops scale with it
        batch_size: images a step, all processes together
        lr: learning rate of the first epochs
        lr_drops: fractions of the epochs after which the learning rate is divided by 10
        restart_momentum: whether momentum restarts from zero at each drop
        momentum: of SGD
        nesterov: whether the momentum is Nesterov's
        weight_decay: on every parameter of student and connectors
        distill_weight: weight of the summed stage losses beside the cross-entropy
        teacher_norm: what the teacher's BatchNorms normalise by: batch (the paper's) or running (their own statistics)
        mixup: alpha of the Beta distribution that mixes pairs of training images; 0 is off
        image_size: side of the training and test images in pixels
        test_resize: pixels of the short side before a test image is cropped at its centre; image_size unless named
        pad: pixels of reflected border a random crop is taken from
        crop_area: range of a random resized crop's share of the image, 1 being all of it; without it the crop is of pad
        flip: whether training images are mirrored at random
        mean: of the pixels, a channel each, in 0..1
        std: of the pixels, a channel each, in 0..1
        published: the paper's errors
    """

    name: str
    method: str = "overhaul"
    data: str
    student: Net
    teacher: Net | None = None
    num_classes: int | None = None
    epochs: int
    batch_size: int
    lr: float = 0.1
    lr_drops: tuple[float, ...]
    restart_momentum: bool
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float
    distill_weight: float
    teacher_norm: str = "batch"
    mixup: float = 0.0
    image_size: int
    test_resize: int | None = None
    pad: int = 0
    crop_area: tuple[float, float] | None = None
    flip: bool = True
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    published: Published | None = None

    def __post_init__(self) -> None:
        choose("--method", self.method, catalogue.methods())
        for role, net in (("student", self.student), ("teacher", self.teacher)):
            if net and net.family:
                check_names(f"--{role}", net)
        for name in ("epochs", "batch_size", "image_size", "num_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, not {value}")
        for name in ("lr", "momentum", "weight_decay", "distill_weight", "mixup", "pad"):
            if not 0 <= getattr(self, name) < 1e30:
                raise UserError(f"--{name} must be 0 or more and finite, not {getattr(self, name)}")
        if not all(0 < fraction < 1 for fraction in self.lr_drops):
            raise UserError(f"--lr_drops are fractions of the run between 0 and 1, not {list(self.lr_drops)}")
        if self.nesterov and not self.momentum:
            raise UserError("--momentum 0 has no Nesterov form; add --nesterov false")
        if self.test_resize is not None and self.test_resize < self.image_size:
            raise UserError(f"--test_resize must be at least --image_size {self.image_size}, not {self.test_resize}")
        if self.crop_area and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise UserError(f"--crop_area is a range of shares above 0 and up to 1, not {list(self.crop_area)}")
        check_normalisation(self.mean, self.std)
        if self.teacher:
            self.teacher.check("--teacher.")
        self.student.check("--student.")
        if self.student.mean:
            raise UserError("--student.mean and --student.std count for nothing: the student sees --mean and --std")

    @property
    def preprocessing(self) -> Preprocessing:
        """How its test images are shown."""
        return Preprocessing(self.image_size, self.test_resize or self.image_size, self.mean, self.std)

    def drops_before(self, epoch: int) -> int:
        """How many learning rate drops lie behind a run that has finished `epoch` epochs."""
        return sum(epoch >= fraction * self.epochs - 1e-9 for fraction in self.lr_drops)
