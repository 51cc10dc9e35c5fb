"""What a setup is made of: networks, how images are shown, the recipe; imports without torch."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from overhaul import catalogue, methods, schedule
from overhaul.nets import (
    FUNCTION,
    LIBRARY,
    Net,
    check_names,
    check_normalisation,
    is_foreign,
    is_mean,
    is_std,
    named,
)
from overhaul.published import Published
from overhaul.system.messages import UserError, choose
from overhaul.system.numbers import check_numbers

__all__ = [
    "FUNCTION",
    "LIBRARY",
    "Net",
    "Preprocessing",
    "Setup",
    "check_normalisation",
    "is_foreign",
    "is_mean",
    "is_std",
    "named",
]


Norm = Literal["batch", "running"]  # what a teacher's BatchNorms normalise by
MOST = {
    **dict.fromkeys(("epochs", "batch_size", "num_classes", "ramp_epochs"), 1_000_000),
    **dict.fromkeys(("image_size", "test_resize", "pad"), 10_000),
}
Schedule = Literal["step", "cosine", "linear"]
Optimizer = Literal["sgd", "adamw", "lamb"]
AutoAugment = Literal["rand", "trivial"]
Interpolation = Literal["bilinear", "bicubic"]
WORDS = {  # fields that are one of a few words
    "teacher_norm": Norm,
    "lr_schedule": Schedule,
    "optimizer": Optimizer,
    "auto_augment": AutoAugment,
    "interpolation": Interpolation,
}
AMOUNTS = (  # fields that are numbers of 0 or more
    *("lr", "lr_min", "warmup_epochs", "momentum", "weight_decay", "head_lr_scale", "label_smoothing"),
    *("label_weight", "distill_weight", "ramp_epochs", "mixup", "cutmix", "random_erasing", "pad"),
)
OPEN = ("batch_size", "epochs", "lr", "warmup_epochs")  # what a row may leave to chosen.chosen
BY_METHOD = ("distill_weight", "ramp_epochs", "teacher_norm")  # what each method of a sum may have of its own


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


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is trained: everything that moves a number.

    A row for images of one's own leaves open data, student and teacher, and the student's size, mean and std of images;
    batch_size, epochs, lr and warmup_epochs are then chosen by the images, see chosen.chosen.

    Args:
        name: the row's name in SETUPS
        method: how the student is taught, see `overhaul methods`: overhaul, original (the student alone), another, or
            several summed up, as in overhaul+kd
        method_settings: of its settings those that are not the usual ones, as in {"temperature": 2}; of a sum by method
        data: cifar10, cifar100, digits, imagenet, a Hub id or a folder
        student: the network that learns: timm:NAME, torchvision:NAME or FILE.py:FUNCTION, with fresh weights, or where
            the trained weights are that it begins with (a run's folder, a file, a Hub id)
        teacher: the network it learns from: where its trained weights are (a run's folder, a file, a Hub id,
            torchvision:NAME@DEFAULT), or timm:NAME, torchvision:NAME or FILE.py:FUNCTION with --teacher.weights
        num_classes: for data that do not say; otherwise the data decide
        epochs: length of the run, which the schedule of the learning rate scales with; own chooses it
        batch_size: images a step, all processes together; own chooses it
        optimizer: sgd, adamw, or lamb (timm's)
        lr: the highest learning rate; own chooses it
        lr_schedule: step (lr_drops), cosine or linear (from lr to lr_min, step by step)
        lr_drops: fractions of the epochs after which the learning rate is divided by 10, under step
        lr_min: where cosine and linear end
        warmup_epochs: epochs, or a fraction of one, in which the learning rate rises to lr; own chooses it
        restart_momentum: whether momentum restarts from zero at each drop
        momentum: of SGD
        nesterov: whether the momentum is Nesterov's
        weight_decay: on every parameter of student and connectors
        no_decay_norms: no weight decay on parameters of one dimension, those of normalisation layers and biases
        head_lr_scale: factor of the learning rate of the student's last layer, for a fresh one on a pretrained body
        clip_grad: the largest norm of the gradient of all parameters together, which is scaled down to it
        label_smoothing: share of the labels that is spread over all classes
        label_weight: weight of the cross-entropy; the method's own, the least of a sum's, unless named
        distill_weight: weight of the distillation loss, of overhaul of the summed stage losses; the method's own unless
            named; of a sum by method
        ramp_epochs: epochs in which the distillation weight grows to its full height, 0 being none; by method in a sum
        teacher_norm: statistics of the teacher's BatchNorms: batch (of each batch, as overhaul has it) or running (as
            the others do); of a sum also by method
        mixup: alpha of the Beta distribution that mixes pairs of training images; 0 is off
        cutmix: alpha of that which cuts a box from another training image; 0 is off
        auto_augment: rand (RandAugment) or trivial (TrivialAugment) changes of the training images
        random_erasing: share of the training images of which a rectangle becomes the mean colour
        image_size: side of the training and test images in pixels; the student's own where the setup leaves it open
        test_resize: pixels of the short side before a test image is cropped at its centre; image_size unless named
        pad: pixels of reflected border a random crop is taken from
        crop_area: range of a random resized crop's share of the image, 1 being all of it; without it the crop is of pad
        flip: whether training images are mirrored at random
        interpolation: bilinear or bicubic, where images are resized
        mean: of the pixels, a channel each, in 0..1
        std: of the pixels, a channel each, in 0..1
        published: the paper's errors
        like: cifar or imagenet, whose values of the methods are the setup's
    """

    name: str
    method: str = "overhaul"
    method_settings: dict[str, Any] = field(default_factory=dict)
    data: str | None
    student: Net
    teacher: Net | None = None
    num_classes: int | None = None
    epochs: int | None
    batch_size: int | None
    optimizer: Optimizer = "sgd"
    lr: float | None = 0.1
    lr_schedule: Schedule = "step"
    lr_drops: tuple[float, ...]
    lr_min: float = 0.0
    warmup_epochs: float | None = 0.0
    restart_momentum: bool
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float
    no_decay_norms: bool = False
    head_lr_scale: float = 1.0
    clip_grad: float | None = None
    label_smoothing: float = 0.0
    label_weight: float = 1.0
    distill_weight: float | dict[str, float]
    ramp_epochs: int | dict[str, int] = 0
    teacher_norm: Norm | dict[str, Norm] = "batch"
    mixup: float = 0.0
    cutmix: float = 0.0
    auto_augment: AutoAugment | None = None
    random_erasing: float = 0.0
    interpolation: Interpolation = "bilinear"
    image_size: int | None
    test_resize: int | None = None
    pad: int = 0
    crop_area: tuple[float, float] | None = None
    flip: bool = True
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    published: Published | None = None
    like: Literal["cifar", "imagenet"] = "cifar"

    def __post_init__(self) -> None:
        methods.check(self.method)
        object.__setattr__(self, "method_settings", methods.settings(self.method, self.method_settings))
        for name in BY_METHOD:
            object.__setattr__(self, name, methods.alone_or_by(f"--{name}", self.method, getattr(self, name)))
        check_numbers(self, MOST)
        self.check_words()
        self.check_amounts()
        schedule.check(self)
        check_normalisation(self.mean, self.std)
        self.check_networks()

    def check_words(self) -> None:
        """UserError for a word that is none of those that there are, or that goes with no class numbers."""
        for name, kind in WORDS.items():
            for value in filter(None, self.of_methods(name)):
                choose(f"--{name}", value, get_args(kind))
        hard = [name for name in self.methods if catalogue.method(name).hard_labels]
        if hard and (self.mixup or self.cutmix):
            flag = "--mixup" if self.mixup else "--cutmix"
            raise UserError(f"--method {hard[0]} needs class numbers, and {flag} makes probabilities of them")

    def check_amounts(self) -> None:
        """UserError for a number that means nothing."""
        for name in ("epochs", "batch_size", "image_size", "test_resize", "num_classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} must be at least 1, not {value}")
        for name, value in ((each, value) for each in AMOUNTS for value in self.of_methods(each)):
            whole = " a whole number," if name in ("ramp_epochs", "pad") else ""
            if value is None and name in OPEN:
                continue
            if not methods.is_number(value) or not 0 <= value < 1e30 or (whole and value % 1):
                raise UserError(f"--{name} must be{whole} 0 or more and finite, not {value!r}")
        if self.momentum > 1:
            raise UserError(f"--momentum must be at most 1, not {self.momentum!r}")
        if self.nesterov and not self.momentum:
            raise UserError("--momentum 0 has no Nesterov form; add --nesterov false")
        if None not in (self.test_resize, self.image_size) and self.test_resize < self.image_size:
            raise UserError(f"--test_resize must be at least --image_size {self.image_size}, not {self.test_resize}")
        if self.crop_area and not (len(self.crop_area) == 2 and 0 < self.crop_area[0] <= self.crop_area[1] <= 1):
            raise UserError(f"--crop_area is a range of shares above 0 and up to 1, not {list(self.crop_area)}")

    def check_networks(self) -> None:
        """UserError for networks that cannot be, or are told what counts for nothing."""
        for role, net in (("student", self.student), ("teacher", self.teacher)):
            if net and net.family:
                check_names(f"--{role}", net)
            if net:
                net.check(f"--{role}.")
        if self.student.mean:
            raise UserError("--student.mean and --student.std count for nothing: the student sees --mean and --std")
        if self.student.image_size:
            raise UserError("--student.image_size counts for nothing: the student sees images of --image_size")

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are summed up, or the one that there is."""
        return methods.parts(self.method)

    def of_methods(self, field: str) -> list:
        """A value that each method may have of its own, in their order."""
        value = getattr(self, field)
        return [value[name] if isinstance(value, dict) else value for name in self.methods]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its test images are shown; None where that is left to the student."""
        if None in (self.image_size, self.mean, self.std):
            return None
        resize = self.test_resize or self.image_size
        return Preprocessing(self.image_size, resize, self.mean, self.std, self.interpolation)
