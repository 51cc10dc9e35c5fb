"""The paper's settings, and others, as rows of data; imports without torch."""

from collections.abc import Sequence
from dataclasses import fields, replace

from overhaul import methods
from overhaul.idle import refuse_idle
from overhaul.options import Run
from overhaul.published import Published
from overhaul.recipe import OPEN, Net, Setup
from overhaul.row_nets import (
    ANY,
    MOBILENET,
    MOBILENET_V3,
    PYRAMID_110,
    PYRAMID_200,
    RESNET_50,
    RESNET_50_A1,
    RESNET_56,
    WRN_28_4,
    resnet,
    wide_resnet,
)
from overhaul.system.messages import UserError, check_source, choose, nearest
from overhaul.usual import HIDDEN, changed


def get(name: str) -> Setup:
    """The setup of that name; UserError with the nearest valid name."""
    return SETUPS[choose("--setup", name, tuple(SETUPS))]


def settings(setup: str | Setup, changes: dict) -> tuple[Setup, Run]:
    """A row with the changes that are its fields, and a Run of those that are not.

    A network may be named in a word; see nets.named.
    """
    setup = get(setup) if isinstance(setup, str) else setup
    recipes = [field.name for field in fields(Setup) if field.name not in HIDDEN]
    runs = [field.name for field in fields(Run)]
    if unknown := [name for name in changes if name not in (*recipes, *runs)]:
        hint = "; a method's own go into method_settings" if methods.having(unknown[0]) else ""
        raise UserError(f"train has no setting {unknown[0]}{hint or nearest(unknown[0], (*recipes, *runs))}")
    recipe = {name: changes[name] for name in recipes if name in changes}
    for role in ("teacher", "student"):
        if not isinstance(recipe.get(role), (Net, type(None))):
            recipe[role] = (getattr(setup, role) or ANY).said(recipe[role])
    run = Run(**{name: changes[name] for name in runs if name in changes})
    asked = changed(setup, SETUPS.get(setup.name, setup), recipe)
    check_named(SETUPS.get(setup.name, setup), asked)
    refuse_idle(setup, asked, run)
    for net in filter(None, (asked.student, asked.teacher)):
        if net.weights:
            check_source(net.weights)
    return asked, run


def check_named(row: Setup, setup: Setup) -> None:
    """UserError for a field that is left open and that the row does not leave open."""
    for name in OPEN:
        if getattr(setup, name) is None and getattr(row, name) is not None:
            raise UserError(f"--{name} takes a number: of the rows, own and own_teacher alone choose it by the images")


def check_whole(setup: Setup, run: Run) -> None:
    """UserError where a row for images of one's own has been given no student or no images."""
    if setup.student.is_any:
        raise UserError(
            f"--setup {setup.name} needs a student: --student timm:NAME, torchvision:NAME, FILE.py:FUNCTION, or where "
            f"trained weights are that it begins with"
        )
    if setup.data is None and run.data_path is None:
        raise UserError(f"--setup {setup.name} needs images: --data_path FOLDER, or --data USER/SET, a set on the Hub")


def teacher_setup(setup: Setup) -> Setup | None:
    """The row that trains a setup's teacher, or None."""
    rows = (row for row in SETUPS.values() if row.teacher is None and setup.teacher is not None)
    return next((row for row in rows if row.data in (setup.data, None) and same_net(row.student, setup.teacher)), None)


def resolve(
    setup: Setup,
    run: Run,
    classes: Sequence[str],
    teacher: Net | None = None,
    student: Net | None = None,
    named: bool = True,
) -> Setup:
    """The setup as it is trained: with the run's length, the data's classes and the nets that their weights are of.

    named: whether the images are the set that the setup names. The baseline has no teacher. Published errors stay
    beside the row's own data and networks alone.
    """

    def fitted(net: Net, found: Net | None) -> Net:
        return replace(net, family=found.family, kwargs=found.kwargs) if found else net

    number = {"num_classes": len(classes)}
    learner, guide = fitted(setup.student, student), setup.teacher if setup.method != "original" else None
    if guide:
        guide = fitted(replace(guide, kwargs={**guide.kwargs, **number}), teacher)
    learner = replace(learner, kwargs={**learner.kwargs, **number})
    resolved = replace(setup, epochs=run.new_epochs or setup.epochs, student=learner, teacher=guide)
    return resolved if named and is_row(resolved) else replace(resolved, published=None)


def is_row(setup: Setup) -> bool:
    """Whether data and networks are those of the row of that name, the student fresh; a baseline has no teacher."""
    row = SETUPS.get(setup.name)
    if row is None or setup.data != row.data or not same_net(setup.student, row.student) or setup.student.weights:
        return False
    return setup.teacher is None or (row.teacher is not None and same_net(setup.teacher, row.teacher))


def same_net(one: Net, other: Net) -> bool:
    return (one.family, one.kwargs) == (other.family, other.kwargs)


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
    like="imagenet",
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
IMAGENET_MODERN = replace(  # SGD, schedule and decay of torchvision's newer recipes, for a quarter of their batch
    IMAGENET_A,
    name="imagenet_modern",
    teacher=RESNET_50_A1,
    student=MOBILENET_V3,
    epochs=300,
    lr=0.125,
    lr_schedule="cosine",
    warmup_epochs=5.0,
    weight_decay=2e-5,
    no_decay_norms=True,
    label_smoothing=0.1,
    auto_augment="rand",  # this, and how much is erased, as timm and torchvision train this student
    random_erasing=0.2,
    interpolation="bicubic",
    published=None,
)
OWN = replace(  # for images and a student of one's own: fewer images than ImageNet's, shown with its student's size
    IMAGENET_A,
    name="own",
    data=None,
    teacher=ANY,
    student=ANY,
    epochs=None,
    batch_size=None,
    lr=None,
    lr_schedule="cosine",
    warmup_epochs=None,
    image_size=None,
    test_resize=None,
    crop_area=(0.25, 1.0),  # ImageNet's 0.08 often shows none of the object, and small sets average less out
    mean=None,
    std=None,
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
    IMAGENET_MODERN,
    teacher_row(CIFAR_A, "cifar_teacher_wrn", WRN_28_4),
    teacher_row(CIFAR_E, "cifar_teacher_pyramid", PYRAMID_200, mixup=1.0),
    DIGITS,
    teacher_row(DIGITS, "digits_teacher", DIGITS.teacher, epochs=12),
    OWN,
    teacher_row(OWN, "own_teacher", ANY),
)
SETUPS = {setup.name: setup for setup in ROWS}
