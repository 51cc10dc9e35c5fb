"""What the package does, as functions of a notebook; the commands are these functions. Imports without torch.

They return values and print nothing. What the user can mend is raised as a UserError, which is a ValueError.
"""

from typing import TYPE_CHECKING

from overhaul import listing
from overhaul.methods import check, needs, parts, usual
from overhaul.nets import Net, named
from overhaul.options import Compile, DataOptions, Precision, Run
from overhaul.recipe import Setup
from overhaul.reported import report
from overhaul.setups import HIDDEN, check_whole, get, settings
from overhaul.study.grid import TAKEN
from overhaul.system.messages import UserError
from overhaul.system.signatures import takes
from overhaul.trained import evaluate, export, load, of_source, predict, pull, push

if TYPE_CHECKING:
    from overhaul.training.record import Result

__all__ = [
    "bench",
    "bench_data",
    "demo",
    "evaluate",
    "export",
    "inspect",
    "load",
    "methods",
    "models",
    "predict",
    "prepare",
    "pull",
    "push",
    "report",
    "setups",
    "study",
    "train",
]


@takes(Setup, Run, hidden=HIDDEN, of_row=Setup)
def train(setup: str | Setup = "own", *, show: bool = False, **changes) -> "Result":
    """Train a setup: distil a student, train it alone, or train a teacher; a run in its folder is gone on with.

    Returns the Result: its folder, the lines of its metrics.jsonl (.metrics, .final, .best), and the teacher's top-1
    accuracy in percent. An interrupted run goes on with the same call. Raises UserError for what the user can mend.

    Args:
        setup: a row of SETUPS, by its name or changed; own, for images and a student of one's own, unless named
        show: tell of it on stdout, with a bar on a terminal or in a notebook, elsewhere a line a minute
    """
    setup, run = settings(setup, changes)
    check_whole(setup, run)
    from overhaul.training.trainer import train

    return train(setup, run, show)


@takes(Setup, Run, hidden=(*HIDDEN, *TAKEN), of_row=Setup)
def study(*, setup: str | list[str] = "own", out: str, jobs: int = 1, show: bool = False, **changes) -> list[dict]:
    """Train every combination of the settings that are given as lists; runs of the folder are gone on with.

    Each run is a process of its own. Returns a {"run", "setup", "method", "seed", "state": "finished", "interrupted",
    "failed" or "not begun", "epochs": finished ones, "epochs_asked", "test_top1": percent, "seconds": of training,
    "seconds_left": with dry_run, "why": the last line of one that failed, "folder"} of each, in the order of setup,
    method, other settings, seed. Settings of one method (method_settings={"kd": {"temperature": [2, 4]}}) multiply its
    runs alone, those of distillation none of original. Raises UserError before any run begins where one cannot be.

    Args:
        setup: rows of SETUPS, by their names
        out: the folder of the study
        jobs: runs side by side, each on a GPU of its own, or on its share of the cores
        show: tell of the runs on stdout
    """
    how = {name: changes.pop(name) for name in ("dry_run", "quiet") if name in changes}
    from overhaul.study.called import axes_of, requests
    from overhaul.study.study import study

    axes = axes_of({"setup": setup, **changes})
    return study(axes, requests(axes), out, jobs, show=show, **how)


@takes(DataOptions)
def prepare(
    *,
    data: str,
    out: str,
    num_classes: int | None = None,
    short_side: int | None = None,
    quality: int = 90,
    quiet: bool = False,
    show: bool = False,
    **options,
) -> dict:
    """Write a data set as sharded parquet: {"folder", "train", "validation": images, "left_out": broken ones}.

    Args:
        data: imagenet, cifar10, cifar100, a Hub id or a folder
        out: the folder to write to; training takes it as data_path
        num_classes: where the labels are plain numbers
        short_side: make larger images smaller: JPEGs of this short side in pixels
        quality: of those JPEGs, 1 to 100
        quiet: no bar and no line a minute
        show: on stderr, how far it has come
    """
    options = DataOptions(**options)
    from overhaul.data.prepare import Preparation

    return Preparation(str(data), options, out, num_classes, short_side, quality).write(show and not quiet)


def bench(
    *,
    setup: str = "cifar_c",
    method: str | None = None,
    mixed_precision: Precision = "no",
    compile: Compile = "no",
    batch_size: int | None = None,
    steps: int = 10,
) -> dict:
    """Where a training step goes, and how near it comes to the machine's best; see bench.bench.

    Args:
        setup: whose networks and batch size
        method: in place of the setup's own, with its usual settings there
        mixed_precision: no, bf16 or fp16 (a GPU)
        compile: no, default, max or graph
        batch_size: in place of the setup's own
        steps: how many steps are timed
    """
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}")
    row, run = get(setup), Run(mixed_precision=mixed_precision, compile=compile)
    if method is not None:
        check(method)
        usuals = {name: usual(name, row.like, row.name, {}) for name in parts(method)}
        unknown = [name for name in usuals if usuals[name].get("distill_weight", 0) is None]
        row = settings(row, {"method": method, "distill_weight": dict.fromkeys(unknown, 1.0)})[0]  # any is as fast
    if row.student.is_any or (needs(row.method) and row.teacher is None):
        raise UserError(f"--setup {setup} does not name the networks that are to be timed: name another setup")
    from overhaul.bench import bench

    return bench(row, run, batch_size, steps)


def bench_data(*, imagenet: str | None = None, cifar100: str | None = None, seconds: float = 20) -> list[dict]:
    """Images a second of one core; see overhaul.data.bench.bench_data.

    Args:
        imagenet: a local copy of ImageNet or a part of it; synthetic JPEGs without one
        cifar100: a local copy of CIFAR-100; synthetic images without one
        seconds: how long each is measured in all
    """
    if not 0 < seconds < 1e6:
        raise UserError(f"--seconds must be above 0, not {seconds}")
    from overhaul.data.bench import bench_data

    return bench_data(imagenet, cifar100, seconds)


def setups(name: str | None = None) -> list[dict] | dict:
    """The rows of SETUPS, each with its names, sizes ("parameters": of teacher and student) and published errors.

    Of one row everything: every field, its networks, and "commands": those that train it, its teacher's first.

    Args:
        name: a row, to see it whole
    """
    return listing.setups() if name is None else listing.setup(name)


def models() -> list[dict]:
    """The network families: {"family", "arguments": their types by name, "about", "example": arguments, or None}.

    The number of classes is an argument of each, which is left to the data.
    """
    return listing.models()


def methods(*, setup: str = "cifar_c") -> list[dict]:
    """The methods, as their classes tell them, and their usual values in a setup.

    Each: {"method", "about", "paper": its fields or None, "compares", "needs": "features", "logits", "embedding" or
    None, "labels": "any" or "class numbers", "label_weight", "distill_weight": None where none is known, "ramp_epochs",
    "teacher_norm", "settings", "switched": what a setting that is true has in place of them, "learned_parameters"
    beside the student, thrown away afterwards, "without": why a method cannot be had for the setup's networks}.

    Args:
        setup: whose networks and usual values
    """
    row = get(setup)
    from overhaul.inspection import methods

    return methods(row)


@takes(Net, hidden=("weights", "mean", "std", "image_size"))
def inspect(
    source: str | None = None,
    *,
    teacher: Net | None = None,
    student: Net | None = None,
    setup: str | None = None,
    image_size: int | None = None,
    net: str | None = None,
    **options,
) -> dict:
    """What teacher and student would be compared by, or what one network has to compare; without data or training.

    Of a pair {"networks", "pairs", "unpaired", "notes"}, of one network {"networks", "maps", "notes"}.

    Args:
        source: one network: timm:NAME, torchvision:NAME, FILE.py:FUNCTION, or trained weights
        teacher: the network that teaches, in a word like SOURCE; its weights do not matter
        student: the network that learns, in a word like SOURCE
        setup: a row whose networks and image size count where no others are named
        image_size: side of the student's images in pixels, or of those of SOURCE
        net: the network of weights that cannot say it
    """
    nets = [each if isinstance(each, Net) or each is None else named(each) for each in (student, teacher)]
    if source is None and (unused := [*(["net"] if net else []), *options]):
        raise UserError(f"--{unused[0]} goes with SOURCE, which is not named; see --student and --teacher")
    found = None if source is None else of_source(source, net, options, weightless=True)
    from overhaul.inspection import inspect

    return inspect(found, *nets, get(setup) if setup else None, image_size)


def demo(*, output_dir: str = "runs", epochs: int | None = None, quiet: bool = False, show: bool = False) -> list[dict]:
    """Train a teacher, a student alone and a distilled one on handwritten digits, or go on with what is there.

    Returns a {"network", "parameters", "test_top1", "seconds", "folder"} for each of the three.

    Args:
        output_dir: the folder of the three runs
        epochs: of each run, in place of its own
        quiet: no bar and no line a minute
        show: tell of them on stdout
    """
    from overhaul.demo import demo

    return demo(output_dir, epochs, show, quiet)
