"""What a trained network says of image files."""

from pathlib import Path

import torch
from torch import Tensor

from overhaul import hub
from overhaul.data.classes import read_class_names
from overhaul.data.decoding import centre, decode
from overhaul.data.images import Broken
from overhaul.data.loaders import Normalize
from overhaul.hub.config import class_names, preprocessing_of
from overhaul.recipe import Net, Setup
from overhaul.system.messages import UserError, warn
from overhaul.training.evaluation import checked

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


@torch.inference_mode()
def predict(
    source: Net | str, images: list[str], top: int = 5, like: Setup | None = None, names_file: str | None = None
) -> list[dict]:
    """The most probable classes of image files, one {"image", "classes": [[name, probability], ...]} each.

    source: see hub.load; a Net says more of it; its own size, mean and std count, else those of the setup `like`.
    images: files, and folders whose image files are meant, but for those that cannot be read. names_file: a class name
    a line, for a source that has none; without it they go by their numbers. Raises UserError for a source or an image
    that cannot be read.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    found = [(file, Path(image).expanduser().is_dir()) for image in images for file in image_files(image)]
    weights = hub.fetch_named(source, like)
    show, names = preprocessing_of(weights.config, weights.source, like), names_of(weights, names_file)
    network, normalize = checked(weights, show), Normalize(show.mean, show.std, "cpu")
    answers = []
    for file, in_folder in found:
        try:
            pixels = centre(read_image(file), show.size, show.resize, show.interpolation)
        except UserError as error:
            if not in_folder:
                raise
            warn(f"{error}; left out")
            continue
        best = network(normalize(pixels[None])).softmax(1)[0].topk(min(top, len(names)))
        if not best.values.isfinite().all():
            raise UserError(
                f"{weights.source} gives no finite numbers for {file}: look at its BatchNorms, mean and std"
            )
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers.append({"image": file, "classes": [[names[number], share] for number, share in pairs]})
    return answers


def names_of(weights: hub.Weights, file: str | None) -> tuple[str, ...]:
    """What the classes are called: as the source says, as a file does, or by their numbers."""
    own, named, number = class_names(weights.config), read_class_names(file), weights.net.kwargs["num_classes"]
    if own and named and own != named:
        raise UserError(f"{weights.source} has class names of its own; leave out --class_names")
    names = own or named or tuple(map(str, range(number)))
    if len(names) != number:
        raise UserError(f"--class_names {file} has {len(names)} names, and {weights.source} knows {number} classes")
    return names


def image_files(path: str | Path) -> list[str]:
    """A file as it is; of a folder, the image files below it, by name."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [str(path)]
    found = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in IMAGE_FILES and file.is_file())
    if not found:
        raise UserError(f"{path} holds no image files ({', '.join(IMAGE_FILES)})")
    return found


def read_image(image: str | Path) -> Tensor:
    """uint8 [3, height, width]."""
    try:
        return decode(Path(image).expanduser().read_bytes())
    except OSError as error:
        raise UserError(f"{image} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(Broken.of(str(image), error)) from None
