"""What a trained network sees in images."""

from pathlib import Path

import torch

from overhaul.data.decoding import centre, decode
from overhaul.data.loaders import Normalize
from overhaul.hub import config as model_config
from overhaul.hub import weights as hub
from overhaul.setups import Setup


@torch.inference_mode()
def predict(source: str, images: list[str], top: int = 5, like: Setup | None = None) -> list[dict]:
    """The most probable classes of image files, one {"image", "classes": [[name, probability], ...]} each.

    source: see hub.load; its own size, mean and std count, else those of the setup `like`. Classes without names go by
    their numbers. Raises ValueError for a source or an image that cannot be read.
    """
    if top < 1:
        raise ValueError(f"--top must be at least 1, not {top}")
    weights = hub.fetch(source)
    show = model_config.shown(weights.config, source, like)
    network, normalize = hub.build(weights), Normalize(show.mean, show.std, "cpu")
    names = model_config.labels(weights.config) or tuple(map(str, range(weights.net.kwargs["num_classes"])))
    answers = []
    for image in images:
        pixels = centre(read(image), show.size, show.resize, show.interpolation)
        best = network(normalize(pixels[None])).softmax(1)[0].topk(min(top, len(names)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers.append({"image": image, "classes": [[names[number], share] for number, share in pairs]})
    return answers


def read(image: str) -> torch.Tensor:
    """uint8 [3, height, width]."""
    try:
        return decode(Path(image).expanduser().read_bytes())
    except OSError as error:
        raise ValueError(f"{image} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{image} is no image that can be read ({error})") from None
