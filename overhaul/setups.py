"""The paper's settings as rows of data; imports without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from overhaul.options import Run
from overhaul.system.messages import UserError, choose


@dataclass(frozen=True, kw_only=True)
class Net:
    """A network: its family (a file of overhaul/models), the family's arguments, and where its trained weights are."""

    family: str
    kwargs: dict[str, int | bool] = field(default_factory=dict)
    weights: str | None = None

    def __str__(self) -> str:
        return f"{self.family} " + " ".join(f"{key}={value}" for key, value in self.kwargs.items())

    @property
    def title(self) -> str:
        """As papers write it, without its number of classes."""
        kept = {key: value for key, value in self.kwargs.items() if key not in ("num_classes", "bottleneck")}
        return " ".join([self.family, *(f"{key} {value}" for key, value in kept.items())])


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
        data: cifar10, cifar100, digits or imagenet
        student: the network that learns
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
        if min(self.std) <= 0:
            raise UserError(f"--std must be above 0, not {list(self.std)}")

    @property
    def preprocessing(self) -> Preprocessing:
        """How its test images are shown."""
        return Preprocessing(self.image_size, self.test_resize or self.image_size, self.mean, self.std)

    def drops_before(self, epoch: int) -> int:
        """How many learning rate drops lie behind a run that has finished `epoch` epochs."""
        return sum(epoch >= fraction * self.epochs - 1e-9 for fraction in self.lr_drops)


def get(name: str) -> Setup:
    """The setup of that name; UserError with the nearest valid name."""
    return SETUPS[choose("--setup", name, tuple(SETUPS))]


def teacher_setup(setup: Setup) -> Setup | None:
    """The row that trains a setup's teacher, or None."""
    rows = (row for row in SETUPS.values() if row.teacher is None and setup.teacher is not None)
    return next((row for row in rows if row.data == setup.data and same_net(row.student, setup.teacher)), None)


def resolve(setup: Setup, run: Run, classes: Sequence[str], teacher_net: Net | None = None) -> Setup:
    """The setup as it is trained: with the run's length, the data's classes and the teacher that was found.

    The baseline has no teacher. Published errors stay beside the row's own data and networks alone.
    """

    def fitted(net: Net) -> Net:
        return replace(net, kwargs={**net.kwargs, "num_classes": len(classes)})

    teacher = setup.teacher and setup.method != "original" and fitted(setup.teacher)
    if teacher and teacher_net:
        teacher = replace(teacher_net, weights=setup.teacher.weights)
    resolved = replace(
        setup, epochs=run.new_epochs or setup.epochs, student=fitted(setup.student), teacher=teacher or None
    )
    return resolved if is_row(resolved) else replace(resolved, published=None)


def is_row(setup: Setup) -> bool:
    """Whether data and networks are those of the row of that name; a baseline has no teacher to compare."""
    row = SETUPS.get(setup.name)
    if row is None or setup.data != row.data or not same_net(setup.student, row.student):
        return False
    return setup.teacher is None or (row.teacher is not None and same_net(setup.teacher, row.teacher))


def same_net(one: Net, other: Net) -> bool:
    return (one.family, one.kwargs) == (other.family, other.kwargs)


def wide_resnet(depth: int, width: int, num_classes: int = 100) -> Net:
    return Net(family="wide_resnet", kwargs={"depth": depth, "width": width, "num_classes": num_classes})


def pyramidnet(depth: int, alpha: int, bottleneck: bool) -> Net:
    kwargs = {"depth": depth, "alpha": alpha, "bottleneck": bottleneck, "num_classes": 100}
    return Net(family="pyramidnet", kwargs=kwargs)


def resnet(depth: int) -> Net:
    kwargs = {"depth": depth, "num_classes": 1000}
    return Net(family="resnet", kwargs=kwargs, weights=f"timm/resnet{depth}.tv_in1k")


WRN_28_4 = wide_resnet(28, 4)
PYRAMID_200 = pyramidnet(200, 240, bottleneck=True)
PYRAMID_110 = pyramidnet(110, 84, bottleneck=False)
RESNET_50 = replace(resnet(50), weights=None)
RESNET_56 = Net(family="cifar_resnet", kwargs={"depth": 56, "num_classes": 100})
MOBILENET = Net(family="mobilenet", kwargs={"num_classes": 1000})

CIFAR_A = Setup(
    name="cifar_a",
    data="cifar100",
    teacher=WRN_28_4,
    student=wide_resnet(16, 4),
    epochs=200,
    batch_size=128,
    lr_drops=(0.5, 0.75),
    restart_momentum=True,
    weight_decay=5e-4,
    distill_weight=1e-3,
    image_size=32,
    pad=4,
    mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
    std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    published=Published(21.09, 22.72, 20.89),
)
CIFAR_E = replace(
    CIFAR_A,
    name="cifar_e",
    teacher=PYRAMID_200,
    student=WRN_28_4,
    batch_size=64,
    published=Published(15.6, 21.09, 17.80),
)
IMAGENET_A = Setup(
    name="imagenet_a",
    data="imagenet",
    teacher=resnet(152),
    student=RESNET_50,
    epochs=100,
    batch_size=256,
    lr_drops=(0.29, 0.59, 0.89),
    restart_momentum=False,
    weight_decay=1e-4,
    distill_weight=1e-4,
    image_size=224,
    test_resize=256,
    crop_area=(0.08, 1.0),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    published=Published(21.69, 23.72, 21.65, "best", top5=(5.95, 6.97, 5.83)),
)
DIGITS = replace(
    CIFAR_A,
    name="digits",
    data="digits",
    teacher=wide_resnet(16, 2, num_classes=10),
    student=wide_resnet(10, 1, num_classes=10),
    epochs=6,
    batch_size=64,
    lr=0.05,
    pad=2,
    flip=False,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    published=None,
)


def teacher_row(base: Setup, name: str, net: Net, **changes) -> Setup:
    return replace(base, name=name, method="original", teacher=None, student=net, published=None, **changes)


ROWS = (
    CIFAR_A,
    replace(CIFAR_A, name="cifar_b", student=wide_resnet(28, 2), published=Published(21.09, 24.88, 21.98)),
    replace(CIFAR_A, name="cifar_c", student=wide_resnet(16, 2), published=Published(21.09, 27.32, 24.08)),
    replace(CIFAR_A, name="cifar_d", student=RESNET_56, published=Published(21.09, 27.68, 24.44)),
    CIFAR_E,
    replace(CIFAR_E, name="cifar_f", student=PYRAMID_110, published=Published(15.6, 22.58, 18.89)),
    IMAGENET_A,
    replace(
        IMAGENET_A,
        name="imagenet_b",
        teacher=resnet(50),
        student=MOBILENET,
        published=Published(23.84, 31.13, 28.75, "best", top5=(7.14, 11.24, 9.66)),
    ),
    teacher_row(CIFAR_A, "cifar_teacher_wrn", WRN_28_4),
    teacher_row(CIFAR_E, "cifar_teacher_pyramid", PYRAMID_200, mixup=1.0),
    DIGITS,
    teacher_row(DIGITS, "digits_teacher", DIGITS.teacher, epochs=12),
)
SETUPS = {setup.name: setup for setup in ROWS}
