"""What a trained network sees: exact accuracy over a test set for any number of processes, and classes of images."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from overhaul import hub
from overhaul.data import sources
from overhaul.data.decoding import centre, decode
from overhaul.data.images import Broken
from overhaul.data.loaders import EvalLoader, EvalStream, Normalize, loader_settings
from overhaul.data.workers import deaths_explained
from overhaul.hub.config import class_names, preprocessing_of
from overhaul.options import DataOptions
from overhaul.recipe import Setup
from overhaul.setups import SETUPS
from overhaul.system.accelerator import start
from overhaul.system.messages import UserError


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    loader: EvalLoader | EvalStream,
    normalize: Normalize,
    accelerator: Accelerator,
    in_step: Callable[[Iterable], Iterable] = iter,
) -> dict[str, float | int]:
    """Accuracies in percent and the number of images: {"top1", "top5", "images"}.

    net: unwrapped, put into eval mode and left there. loader: this process's share of the test images; one with the
    label -1 was broken and is left out. Each image counts once: the counts are summed over the processes and, with the
    broken ones, must make up the whole set, loader.expected (None where nobody knows). in_step: gives the loader's
    batches on, and may stop between two of them.
    """
    net.eval()
    counts = torch.zeros(4, dtype=torch.int64, device=accelerator.device)
    for images, labels in in_step(loader):
        with accelerator.autocast():
            logits = net(normalize(images))
        labels = labels.to(logits.device, non_blocking=True)
        best = logits.float().topk(min(5, logits.shape[1])).indices == labels[:, None]
        whole = labels >= 0
        counts += torch.stack([best[:, 0].sum(), best.sum(), whole.sum(), (~whole).sum()])
    top1, top5, images, broken = accelerator.reduce(counts, "sum").tolist()
    expected = loader.expected
    assert expected in (None, images + broken), f"{images + broken} of {expected} test images were counted"
    if not images:
        raise UserError(f"all {broken} test images are broken")
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "images": images}


@deaths_explained()
def evaluate_source(
    source: str, data: str, options: DataOptions, like: Setup | None = None, mixed_precision: str | None = None
) -> dict[str, float | int]:
    """Accuracy of a source (see hub.load) on the test split of a data set: {"top1", "top5", "images"}.

    Image size, mean and std are the source's own where it says them, else those of the setup `like`, else those of the
    first setup on these data.
    """
    weights = hub.fetch(source)
    row = like or next((row for row in SETUPS.values() if row.data == data), None)
    show, num_classes = preprocessing_of(weights.config, source, row), weights.net.kwargs["num_classes"]
    (images,) = sources.load(data, options, show, num_classes, splits=("test",), whole=True)
    if len(images.classes) != num_classes:
        raise UserError(f"{source} knows {num_classes} classes and the data have {len(images.classes)}")
    accelerator = start(mixed_precision)
    network = hub.build(weights).to(accelerator.device, memory_format=torch.channels_last)
    loader = EvalLoader(images, **loader_settings(images, options, accelerator))
    result = evaluate(network, loader, Normalize(show.mean, show.std, accelerator.device), accelerator)
    accelerator.end_training()
    return result


@torch.inference_mode()
def predict(source: str, images: list[str], top: int = 5, like: Setup | None = None) -> list[dict]:
    """The most probable classes of image files, one {"image", "classes": [[name, probability], ...]} each.

    source: see hub.load; its own size, mean and std count, else those of the setup `like`. Classes without names go by
    their numbers. Raises UserError for a source or an image that cannot be read.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    weights = hub.fetch(source)
    show = preprocessing_of(weights.config, source, like)
    network, normalize = hub.build(weights), Normalize(show.mean, show.std, "cpu")
    names = class_names(weights.config) or tuple(map(str, range(weights.net.kwargs["num_classes"])))
    answers = []
    for image in images:
        pixels = centre(read_image(image), show.size, show.resize, show.interpolation)
        best = network(normalize(pixels[None])).softmax(1)[0].topk(min(top, len(names)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers.append({"image": str(image), "classes": [[names[number], share] for number, share in pairs]})
    return answers


def read_image(image: str | Path) -> Tensor:
    """uint8 [3, height, width]."""
    try:
        return decode(Path(image).expanduser().read_bytes())
    except OSError as error:
        raise UserError(f"{image} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(Broken.of(str(image), error)) from None
