"""From an encoded image to uint8 pixels: decoding, cropping, resizing.

EXIF orientation is ignored everywhere, as in the authors' release, whose loader never looked at it. (TIFF has a tag of
its own for it, which PIL follows.)
"""

import io
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from overhaul.system.messages import first_line

JPEG = b"\xff\xd8"  # its first bytes


def decode(encoded: bytes | memoryview) -> Tensor:
    """uint8 [3, height, width], RGB, of an image file's bytes: the same pixels whichever decoder is installed.

    Greyscale, CMYK and palettes become RGB, transparency is dropped, 16 bits become 8. Raises ValueError for bytes that
    are no image or a broken one.
    """
    if not len(encoded):
        raise ValueError("it is missing or empty")
    try:
        if encoded[:2] != JPEG:
            return decode_any(encoded)
        decoders = jpeg_decoders()
        usable = (name for name in decoders if name != "torchcodec" or not has_exif(encoded))  # which it would follow
        return decoders[next(usable)](encoded)
    except Exception as error:  # bytes that are no image may raise anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = re.sub(r".*\.cpp:\d+, ", "", first_line(error))  # without the place in a library that noticed it
        raise ValueError("no known image format" if unknown else reason) from None


@cache
def jpeg_decoders() -> dict[str, Callable[[bytes | memoryview], Tensor]]:
    """The decoders of JPEGs that are installed, by package, the first being the one to use."""
    warnings.filterwarnings("ignore", "The given buffer is not writable")
    warnings.filterwarnings("ignore", module=r"torchvision\.io")  # deprecated where torchcodec is to be had
    found = {}
    with suppress(ImportError, OSError, RuntimeError):  # it may be built for another torch
        from torchcodec.decoders import decode_jpeg as by_torchcodec

        found["torchcodec"] = lambda encoded: by_torchcodec(torch.frombuffer(encoded, dtype=torch.uint8))
    with suppress(ImportError):
        from torchvision.io import ImageReadMode
        from torchvision.io import decode_jpeg as by_torchvision

        found["torchvision"] = lambda encoded: by_torchvision(
            torch.frombuffer(encoded, dtype=torch.uint8), ImageReadMode.RGB
        )
    found["PIL"] = decode_any
    return found


def has_exif(jpeg: bytes | memoryview) -> bool:
    """Whether a segment before a JPEG's image, each a marker and its length, holds EXIF or is out of order."""
    start = 2
    while start + 4 <= len(jpeg) and jpeg[start] == 0xFF and 0xC0 <= jpeg[start + 1] < 0xFF:
        if jpeg[start + 1] == 0xDA:  # start of scan
            return False
        if jpeg[start + 1] == 0xE1 and jpeg[start + 4 : start + 8] == b"Exif":
            return True
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return True


def decode_any(encoded: bytes | memoryview) -> Tensor:
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def resized_crop(
    image: Tensor, top: int, left: int, height: int, width: int, size: int, mirrored: bool = False
) -> Tensor:
    """uint8 [3, size, size]: a rectangle of an image [3, height, width], resized bilinearly with antialiasing.

    The same pixels as torchvision's v2.functional.resized_crop gives. The memory stays as images are decoded, all of a
    pixel together, and four dimensions say so to PyTorch, whose kernels for it are several times faster.
    """
    rectangle = image.permute(1, 2, 0)[top : top + height, left : left + width]
    batch = rectangle[None].permute(0, 3, 1, 2)
    resized = F.interpolate(batch, size=(size, size), mode="bilinear", antialias=True)
    return (resized.flip(3) if mirrored else resized)[0]


def centre(image: Tensor, size: int, resize: int | None = None, interpolation: str = "bilinear") -> Tensor:
    """uint8 [3, size, size]: the centre of an image after its short side was resized to `resize` pixels.

    resize is `size` unless named; an image of size x size is then taken as it is. interpolation: bilinear or bicubic.
    """
    if image.shape[1:] == (size, size) and (resize or size) == size:
        return image
    return transforms.center_crop(shorten(image, resize or size, interpolation), [size, size])


def shorten(image: Tensor, short_side: int, interpolation: str = "bilinear") -> Tensor:
    """uint8 [3, height, width], the shorter of which has that many pixels; with antialiasing."""
    return transforms.resize(image, [short_side], transforms.InterpolationMode(interpolation), antialias=True)
