"""How good a trained network is: exact accuracy over a test set, for any number of processes."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from overhaul import hub
from overhaul.data import sources
from overhaul.data.loaders import EvalLoader, EvalStream, Normalize, loader_settings
from overhaul.data.transfer import to_device
from overhaul.data.workers import deaths_explained
from overhaul.distill import mode_kept
from overhaul.hub.config import class_names, preprocessing_of
from overhaul.models import Backbone
from overhaul.options import DataOptions
from overhaul.recipe import Net, Preprocessing, Setup, is_foreign
from overhaul.setups import SETUPS
from overhaul.system.accelerator import of_main, start, warn_all
from overhaul.system.messages import UserError, first_line, warn
from overhaul.system.processes import reduced
from overhaul.system.signs import Signs


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    loader: EvalLoader | EvalStream,
    normalize: Normalize,
    accelerator: Accelerator,
    in_step: Callable[[Iterable], Iterable] = iter,
    order: Sequence[int] | None = None,
    in_training: bool = False,
) -> dict[str, float | int]:
    """Accuracies in percent and the number of images: {"top1", "top5", "images"}.

    net: unwrapped, put into eval mode and left there. loader: this process's share of the test images; one with the
    label -1 was broken and is left out. Each image counts once: the counts are summed over the processes and, with the
    broken ones, must make up the whole set, loader.expected (None where nobody knows). in_step: gives the loader's
    batches on, and may stop between two of them. order: for each class of the data, its number in the net's logits,
    where the net numbers them otherwise. Raises UserError for logits that are no finite numbers; in_training they are
    told of, and their images count as wrong.
    """
    net.eval()
    counts = torch.zeros(5, dtype=torch.int64, device=accelerator.device)
    for images, labels in in_step(loader):
        with accelerator.autocast():
            logits = net(normalize(images))
        logits = logits.float() if order is None else logits.float()[:, list(order)]
        labels = to_device(labels, logits.device)
        whole, odd = labels >= 0, ~logits.isfinite().all(1)
        best = (logits.topk(min(5, logits.shape[1])).indices == labels[:, None]) & ~odd[:, None]
        counts += torch.stack([best[:, 0].sum(), best.sum(), whole.sum(), (~whole).sum(), odd.sum()])
    top1, top5, images, broken, odd = reduced(accelerator, counts, "sum").tolist()
    expected = loader.expected
    assert expected in (None, images + broken), f"{images + broken} of {expected} test images were counted"
    if odd:
        tell_of_odd(accelerator, f"{odd} of {images + broken} test images", in_training)
    if not images:
        raise UserError(f"all {broken} test images are broken")
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "images": images}


def check_channels(network: nn.Module, family: str) -> None:
    """UserError for a network that failed on colour images and begins with a convolution of other ones."""
    first = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    if first is not None and first.in_channels != 3:
        raise UserError(
            f"{family} takes images of {first.in_channels} channels, and all are shown in 3, with a mean and a std "
            f"each: let its first convolution take 3"
        ) from None


@torch.no_grad()
def check_logits(network: Backbone, family: str, size: int, classes: int, flag: str) -> None:
    """UserError for a network of others that takes no images of this size, which a flag names, or has other logits."""
    if not is_foreign(family):
        return
    with mode_kept(network):
        try:
            logits = network.eval()(torch.zeros(2, 3, size, size))
        except Exception as error:  # code of others may raise anything
            check_channels(network, family)
            raise UserError(
                f"{family} takes no images of {size} pixels ({first_line(error)}); name another {flag}"
            ) from None
    if logits.shape != (2, classes):
        raise UserError(
            f"{family} gives logits {list(logits.shape[1:])} of an image, and {classes} classes are to be told: its "
            f"function must take num_classes, or give so many"
        )


def tell_of_odd(accelerator: Accelerator, which: str, in_training: bool) -> None:
    """Of images for which a network gives no finite numbers; UserError for one that is not in training."""
    words = f"the network gives no finite numbers for {which}"
    if not in_training:
        raise UserError(
            f"{words}: look at its BatchNorms (a negative running_var?), its mean and std, and the precision"
        )
    # the running statistics of MNASNet take thousands of steps
    warn_all(accelerator, [f"{words}, which count as wrong: have its BatchNorms seen enough steps to settle?"])


@dataclass(frozen=True)
class TeacherTest:
    """How a teacher's accuracy is measured: with its own mean, std and size; order: see evaluate."""

    source: str
    normalize: Normalize
    order: list[int]

    def measure(self, teacher: nn.Module, loader, accelerator: Accelerator, in_step: Callable, say: Callable) -> float:
        """Top-1 in percent over a loader's images, which is told, with a warning where it is that of chance.

        The teacher is left in the mode that it was in.
        """
        with mode_kept(teacher):
            found = evaluate(teacher, loader, self.normalize, accelerator, in_step, self.order)
        part = f" of {found['images']:,} test images" if loader.expected is None else ""
        say(self.line(found["top1"]) + part)
        if (chance := by_chance(found, loader)) is not None:
            words = (
                f"the teacher's test top-1 of {found['top1']:.2f} % is no better than chance ({chance:.2f} %): are its "
                f"classes the data's, in their order? does it want another mean and std (--teacher.mean and .std) "
                f"or image size? was it trained?"
            )
            warn_all(accelerator, [words])
        return found["top1"]

    def line(self, top1: float) -> str:
        return f"teacher {self.source}: test top-1 {top1:.2f} %"


def by_chance(result: dict, loader: EvalLoader | EvalStream) -> float | None:
    """The top-1 accuracy in percent of whoever always names the most frequent class, where the result's is no better.

    No better by less than two standard deviations of the images' number; None where it is.
    """
    classes, labels = len(loader.images.classes), getattr(loader.images, "labels", None)
    share = 1 / classes if labels is None else max(torch.bincount(torch.as_tensor(labels)).tolist()) / len(labels)
    beyond = result["top1"] / 100 - share
    return None if beyond > 2 * math.sqrt(share * (1 - share) / result["images"]) else 100 * share


@dataclass(frozen=True)
class Opened:
    """A trained network before a test set, whose labels are numbered as the network's logits are."""

    source: str
    network: Backbone
    loader: EvalLoader
    normalize: Normalize
    accelerator: Accelerator


def open_source(
    source: Net | str,
    data: str,
    options: DataOptions,
    like: Setup | None = None,
    mixed_precision: str | None = None,
) -> Opened:
    """A trained network and the test split of a data set; see evaluate_source. UserError where they do not fit."""
    row = like or next((row for row in SETUPS.values() if row.data == data), None)
    weights = hub.fetch_named(source, row)
    shown, names = preprocessing_of(weights.config, weights.source, row), class_names(weights.config)
    num_classes = weights.net.kwargs["num_classes"]
    (images,) = sources.load(data, options, shown, num_classes, splits=("test",), whole=True, classes=names)
    if len(images.classes) != num_classes:
        raise UserError(f"{weights.source} knows {num_classes} classes and the data have {len(images.classes)}")
    accelerator = start(mixed_precision)
    network = checked(weights, shown).to(accelerator.device, memory_format=torch.channels_last)
    loader = EvalLoader(images, **loader_settings(images, options, accelerator))
    return Opened(weights.source, network, loader, Normalize(shown.mean, shown.std, accelerator.device), accelerator)


@deaths_explained()
def evaluate_source(
    source: Net | str,
    data: str,
    options: DataOptions,
    like: Setup | None = None,
    mixed_precision: str | None = None,
    show: bool = False,
) -> dict[str, float | int]:
    """Accuracy of a trained network on the test split of a data set: {"top1", "top5", "images"}.

    source: see hub.load; a Net says more of it. Image size, mean and std are the source's own where it says
    them, else those of the setup `like`, else those of the first setup on these data. Classes that both sides name are
    told by name. show: tell on stderr how far it is.
    """
    found = open_source(source, data, options, like, mixed_precision)
    signs = of_main(found.accelerator, lambda: Signs("test", len(found.loader.rows), "batch", warn, quiet=not show))
    how = found.normalize, found.accelerator, lambda batches: counted(batches, signs)
    result = evaluate(found.network, found.loader, *how)
    found.accelerator.end_training()
    return result


def checked(weights: hub.Weights, show: Preprocessing) -> Backbone:
    """The network, which takes images as they are shown."""
    network, classes = hub.build(weights, show.size), weights.net.kwargs["num_classes"]
    check_logits(network, weights.net.family, show.size, classes, "size (--setup)")
    return network


def counted(batches: Iterable, signs: Signs) -> Iterator:
    """The batches, each of which is counted."""
    for batch in batches:
        yield batch
        signs.count()
    signs.close()
