"""What is done with trained networks, as functions of the API; imports without torch."""

from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overhaul.nets import Net, advice, named
from overhaul.options import MAX_PIXELS, DataOptions, Precision
from overhaul.setups import get
from overhaul.system.messages import UserError
from overhaul.system.signatures import takes

if TYPE_CHECKING:
    from overhaul.models import Backbone

UNTOLD = ("weights", "positions", "image_size")  # fields of a Net that are not said beside a source


def load(source: str, revision: str | None = None, net: str | Net | None = None) -> "Backbone":
    """A trained network in eval mode.

    Args:
        source: a run's or student's folder, a checkpoint file, USER/REPO on the Hub, or torchvision:NAME@DEFAULT
        revision: a branch, tag or commit of a repository on the Hub
        net: FILE.py:FUNCTION, timm:NAME, torchvision:NAME or one of our families (a Net says more): the network of
            weights that cannot say it
    """
    if not isinstance(net, (str, Net, type(None))):
        raise UserError(f"net is a word, as FILE.py:FUNCTION or timm:NAME, or a Net, not a {type(net).__name__}")
    words = vars(net) if isinstance(net, Net) else {"family": net}
    found = of_source(f"{source}@{revision}" if revision else source, None, words)
    from overhaul import hub

    return hub.load(found.weights, found.named, found.key)


def of_source(source: str | PathLike, net: str | None, words: dict, weightless: bool = False) -> Net:
    """A source as a Net. net: its network, which is its family by another word; words: other fields of it.

    weightless: whether a network without trained weights will do.
    """
    said = named(source)
    if said.weights is None and not weightless:
        raise UserError(f"{source} is a network without trained weights; {advice(said.family)}")
    families = {each for each in (net, words.get("family"), said.family) if each}
    if len(families) > 1:
        raise UserError(f"the network of {source} is named twice, {' and '.join(sorted(families))}; name one of them")
    return Net(**{**words, "family": next(iter(families), None), "weights": said.weights})


@takes(Net, DataOptions, hidden=UNTOLD)
def evaluate(
    source: str,
    *,
    data: str,
    net: str | None = None,
    mixed_precision: Precision | None = None,
    setup: str | None = None,
    show: bool = False,
    **options,
) -> dict:
    """Top-1 and top-5 accuracy in percent on the test split: {"top1", "top5", "images"}.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        data: cifar10, cifar100, imagenet, digits, a Hub id or a folder
        net: FILE.py:FUNCTION, the network of weights that cannot say it; family by another word
        mixed_precision: no, bf16 or fp16 (a GPU)
        setup: whose image size, mean and std to use where the source does not say them
        show: tell on stderr how far it is, as the command does
    """
    words = {field.name: options.pop(field.name) for field in fields(Net) if field.name in options}
    found, like = of_source(source, net, words), get(setup) if setup else None
    options = DataOptions(**options)
    from overhaul.training.evaluation import evaluate_source

    return evaluate_source(found, str(data), options, like, mixed_precision, show)


@takes(Net, hidden=UNTOLD)
def predict(
    source: str,
    images: list[str],
    *,
    net: str | None = None,
    top: int = 5,
    setup: str | None = None,
    class_names: str | None = None,
    max_pixels: int = MAX_PIXELS,
    **options,
) -> list[dict]:
    """The most probable classes of image files, an {"image", "classes": [[name, probability], ...]} each.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        images: image files, and folders of them
        net: FILE.py:FUNCTION, the network of weights that cannot say it; family by another word
        top: how many classes to show
        setup: whose image size, mean and std to use where the source does not say them
        class_names: a text file with one class name a line, for a source that does not name them
        max_pixels: of an image; a larger one is not decoded
    """
    found, like = of_source(source, net, options), get(setup) if setup else None
    from overhaul.training.prediction import predict

    return predict(found, [images] if isinstance(images, (str, Path)) else images, top, like, class_names, max_pixels)


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


@takes(Net, hidden=UNTOLD)
def export(
    source: str, *, format: Literal["safetensors", "pt2", "onnx"], out: str, net: str | None = None, **options
) -> dict:
    """Write a bare student as one file: {"file", "format", "bytes", "difference", "size", "mean", "std"}.

    difference: of the logits of random images from the original's, as a share of the largest. size: of the images.

    Args:
        source: a run's or student's folder, a checkpoint file, or USER/REPO[@REVISION] on the Hub
        format: safetensors, pt2 (torch.export) or onnx
        out: the file to write
        net: FILE.py:FUNCTION, the network of weights that cannot say it; family by another word
    """
    found = of_source(source, net, options)
    from overhaul.hub.export import export

    return export(found, format, out)
