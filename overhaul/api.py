"""What the package does, as functions of a notebook; the commands are these functions. Imports without torch.

They return values and print nothing. What the user can mend is raised as a UserError, which is a ValueError.
"""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overhaul import listing
from overhaul.options import Compile, DataOptions, Precision, Run
from overhaul.recipe import Net, Setup
from overhaul.setups import HIDDEN, get, settings
from overhaul.system.messages import UserError
from overhaul.system.signatures import takes

if TYPE_CHECKING:
    from overhaul.models import Backbone
    from overhaul.training.record import Result


def load(source: str, revision: str | None = None) -> "Backbone":
    """A trained network in eval mode.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO on the Hub
        revision: a branch, tag or commit of a repository on the Hub
    """
    from overhaul import hub

    return hub.load(f"{source}@{revision}" if revision else source)


@takes(Setup, Run, hidden=HIDDEN, of_row=Setup)
def train(setup: str | Setup, *, show: bool = False, **changes) -> "Result":
    """Train a setup: distil a student, train it alone, or train a teacher; a run in its folder is gone on with.

    Returns the Result: its folder, the lines of its metrics.jsonl (.metrics, .final, .best), and the teacher's top-1
    accuracy in percent. An interrupted run goes on with the same call. Raises UserError for what the user can mend.

    Args:
        setup: a row of SETUPS, by its name or changed
        show: tell of it on stdout, with a bar on a terminal or in a notebook, elsewhere a line a minute
    """
    setup, run = settings(setup, changes)
    from overhaul.training.trainer import train

    return train(setup, run, show)


@takes(Net, DataOptions, hidden=("weights",))
def evaluate(
    source: str,
    *,
    data: str,
    mixed_precision: Precision | None = None,
    setup: str | None = None,
    show: bool = False,
    **options,
) -> dict:
    """Top-1 and top-5 accuracy in percent on the test split: {"top1", "top5", "images"}.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        data: cifar10, cifar100, imagenet, digits, a Hub id or a folder
        mixed_precision: no, bf16 or fp16 (a GPU)
        setup: whose image size, mean and std to use where the source does not say them
        show: tell on stderr how far it is, as the command does
    """
    words = {field.name: options.pop(field.name) for field in fields(Net) if field.name in options}
    net, like = Net(weights=str(source), **words), get(setup) if setup else None
    options = DataOptions(**options)
    from overhaul.training.evaluation import evaluate_source

    return evaluate_source(net, str(data), options, like, mixed_precision, show)


@takes(Net, hidden=("weights",))
def predict(
    source: str,
    images: list[str],
    *,
    top: int = 5,
    setup: str | None = None,
    class_names: str | None = None,
    **options,
) -> list[dict]:
    """The most probable classes of image files, an {"image", "classes": [[name, probability], ...]} each.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        images: image files, and folders of them
        top: how many classes to show
        setup: whose image size, mean and std to use where the source does not say them
        class_names: a text file with one class name a line, for a source that does not name them
    """
    net, like = Net(weights=str(source), **options), get(setup) if setup else None
    from overhaul.training.evaluation import predict

    return predict(net, [images] if isinstance(images, (str, Path)) else images, top, like, class_names)


def pull(source: str, *, out: str) -> dict:
    """Copy a student from the Hub into a new folder: {"folder", "repo", "revision": the commit, "left_out": files}.

    Args:
        source: USER/REPO[@REVISION] on the Hub
        out: the folder to make
    """
    from overhaul.hub.pull import pull

    return pull(source, out)


def push(run: str, repo: str, *, private: bool = False, best: bool = False) -> str:
    """Send a run's student to the Hub, with its model card, and return the commit's address.

    Args:
        run: the folder of a run
        repo: USER/REPO on the Hub; made if it is not there
        private: make the repository private, if it is not there yet
        best: the student of the best epoch in place of the final one
    """
    from overhaul.hub import publish

    return publish.push(run, repo, private, best)


@takes(Net, hidden=("weights",))
def export(source: str, *, format: Literal["safetensors", "pt2", "onnx"], out: str, **options) -> dict:
    """Write a bare student as one file: {"file", "format", "bytes", "difference", "size", "mean", "std"}.

    difference: of the logits of random images from the original's, as a share of the largest. size: of the images.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        format: safetensors, pt2 (torch.export) or onnx
        out: the file to write
    """
    from overhaul.hub.export import export

    return export(Net(weights=str(source), **options), format, out)


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
    mixed_precision: Precision = "no",
    compile: Compile = "no",
    batch_size: int | None = None,
    steps: int = 10,
) -> dict:
    """Where a training step goes, and how near it comes to the machine's best; see bench.bench.

    Args:
        setup: whose networks and batch size
        mixed_precision: no, bf16 or fp16 (a GPU)
        compile: no, default or max
        batch_size: in place of the setup's own
        steps: how many steps are timed
    """
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}")
    row, run = get(setup), Run(mixed_precision=mixed_precision, compile=compile)
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
