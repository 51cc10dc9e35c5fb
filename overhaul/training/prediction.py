"""What a trained network says of image files."""

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from overhaul import hub
from overhaul.data.bounds import BYTES_OF_PIXEL, read_regular
from overhaul.data.classes import read_class_names
from overhaul.data.decoding import centre, decode
from overhaul.data.images import Broken
from overhaul.data.known import user_path
from overhaul.data.listing import MOST_OTHERS
from overhaul.data.loaders import Normalize
from overhaul.hub.config import class_names, preprocessing_of
from overhaul.options import MAX_PIXELS
from overhaul.recipe import Net, Setup
from overhaul.system.messages import UserError, warn
from overhaul.training.evaluation import checked

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@torch.inference_mode()
def predict(
    source: Net | str,
    images: list[str],
    top: int = 5,
    like: Setup | None = None,
    names_file: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[dict]:
    """The most probable classes of image files, one {"image", "classes": [[name, probability], ...]} each.

    source: see hub.load; a Net says more of it; its own size, mean and std count, else those of the setup `like`.
    images: files, and folders whose image files are meant, but for those that cannot be read. names_file: a class name
    a line, for a source that has none; without it they go by their numbers. max_pixels: see decode. Raises
    UserError for a source or an image that cannot be read.
    """
    if top < 1:
        raise UserError(f"--top must be at least 1, not {top}")
    if max_pixels < 1:
        raise UserError(f"--max_pixels must be at least 1, not {max_pixels}")
    found = [(file, user_path("image", image).is_dir()) for image in images for file in image_files(image)]
    weights = hub.fetch_named(source, like)
    show, names = preprocessing_of(weights.config, weights.source, like), names_of(weights, names_file)
    network, normalize = checked(weights, show), Normalize(show.mean, show.std, "cpu")
    answers = []
    for file, in_folder in found:
        try:
            pixels = centre(read_image(file, max_pixels), show.size, show.resize, show.interpolation)
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
    folder = user_path("image", path)
    if not folder.is_dir():
        return [str(path)]
    there = list(islice(folder.rglob("*"), MOST_OTHERS + 1))
    if len(there) > MOST_OTHERS:
        raise UserError(f"{path} holds more than {MOST_OTHERS:,} files: name the folders of the images alone")
    found = sorted(str(file) for file in there if file.suffix.lower() in IMAGE_FILES and file.is_file())
    if not found:
        raise UserError(f"{path} holds no image files ({', '.join(IMAGE_FILES)})")
    return found


def read_image(image: str | Path, max_pixels: int = MAX_PIXELS) -> Tensor:
    """uint8 [3, height, width]."""
    try:
        return decode(read_regular(user_path("image", image), BYTES_OF_PIXEL * max_pixels), max_pixels)
    except OSError as error:
        raise UserError(f"{image} cannot be read: {error.strerror}") from None
    except UserError as error:
        raise UserError(Broken.of(str(image), error)) from None
