"""From an encoded image to uint8 pixels: decoding, cropping, resizing.

EXIF orientation is ignored everywhere, as in the authors' release, whose loader never looked at it. (TIFF has a tag of
its own for it, which PIL follows.)
"""

import io
import re
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from overhaul.system.messages import UserError, first_line

JPEG = b"\xff\xd8"  # its first bytes
SIXTEEN_BITS = ("PNG", "PPM")  # formats of which PIL may open 16 bits a channel as its mode I, of 32


class Unscaled(UserError):
    """An image whose file does not say which of its values is white."""


def decode(encoded: bytes | memoryview) -> Tensor:
    """uint8 [3, height, width], RGB, of an image file's bytes: the same pixels whichever decoder is installed.

    Greyscale, CMYK and palettes become RGB, transparency is dropped, 16 bits become 8. Raises UserError for bytes that
    are no image or a broken one, and Unscaled for 32 bits a channel, be they integers or floating-point numbers.
    """
    if not len(encoded):
        raise UserError("it is missing or empty")
    try:
        decoder = torchcodec_decoder() if encoded[:2] == JPEG else None
        plain = without_exif(encoded) if decoder else None  # torchcodec would follow it
        return decode_with_pil(encoded) if plain is None else decoder(plain)
    except Unscaled:
        raise
    except Exception as error:  # bytes that are no image may raise anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = re.sub(r".*\.cpp:\d+, ", "", first_line(error))  # without the place in a library that noticed it
        raise UserError("no known image format" if unknown else reason) from None


@cache
def torchcodec_decoder() -> Callable[[bytes | memoryview], Tensor] | None:
    """torchcodec's decoder of JPEGs, faster than PIL's; None where it is absent, too old or built for another torch."""
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):
        return None
    warnings.filterwarnings("ignore", "The given buffer is not writable")
    return lambda encoded: decode_jpeg(torch.frombuffer(encoded, dtype=torch.uint8))


def without_exif(jpeg: bytes | memoryview) -> bytes | memoryview | None:
    """A JPEG without EXIF before its image; None where the segments, each a marker and its length, are out of order."""
    start = 2
    while start + 4 <= len(jpeg) and jpeg[start] == 0xFF and 0xC0 <= jpeg[start + 1] < 0xFF:
        end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        if jpeg[start + 1] == 0xDA:  # start of scan
            return jpeg
        if jpeg[start + 1] == 0xE1 and jpeg[start + 4 : start + 8] == b"Exif":
            jpeg = bytes(jpeg[:start]) + bytes(jpeg[end:])
        else:
            start = end
    return None


def decode_with_pil(encoded: bytes | memoryview) -> Tensor:
    """See decode: any format that PIL knows, JPEGs too."""
    with Image.open(io.BytesIO(encoded)) as image:
        if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS):
            numbers = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
            raise Unscaled(
                f"it holds {numbers} (PIL's mode {image.mode}), of which nobody can tell which is white: store the "
                f"images with 8 or 16 bits a channel, such as (255 * x).astype('uint8') of an x from 0 to 1"
            )
        if image.mode.startswith("I"):
            image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def resized_crop(
    image: Tensor,
    top: int,
    left: int,
    height: int,
    width: int,
    size: int,
    mirrored: bool = False,
    interpolation: str = "bilinear",
) -> Tensor:
    """uint8 [3, size, size]: a rectangle of an image [3, height, width], resized with antialiasing.

    The same pixels as torchvision's v2.functional.resized_crop gives.
    """
    batch = as_batch(image[:, top : top + height, left : left + width])
    resized = F.interpolate(batch, size=(size, size), mode=interpolation, antialias=True)
    return (resized.flip(3) if mirrored else resized)[0]


def as_batch(image: Tensor) -> Tensor:
    """An image [3, height, width] as a batch of one; a batch as it is.

    The memory stays as images are decoded, all of a pixel together, and the strides say so to PyTorch, whose kernels
    for it are several times faster.
    """
    return image if image.ndim == 4 else image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)


def centre(image: Tensor, size: int, resize: int | None = None, interpolation: str = "bilinear") -> Tensor:
    """uint8 [3, size, size]: the centre of an image after its short side was resized to `resize` pixels.

    resize is `size` unless named; an image of size x size is then taken as it is. interpolation: bilinear or bicubic.
    What is smaller than size gets a black border. Batches [n, channels, height, width] will do. The same pixels as
    torchvision's v2.functional.resize and center_crop give.
    """
    image = shorten(image, resize or size, interpolation)
    right, down = (max(0, size - side) for side in (image.shape[-1], image.shape[-2]))
    if right or down:
        image = F.pad(image, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2))
    top, left = (round((side - size) / 2) for side in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


def shorten(image: Tensor, short_side: int, interpolation: str = "bilinear") -> Tensor:
    """uint8 [3, height, width], the shorter of which has that many pixels; with antialiasing, and as in `centre`."""
    sides = image.shape[-2:]
    if min(sides) == short_side:
        return image
    height, width = (int(short_side * side / min(sides)) for side in sides)
    resized = F.interpolate(as_batch(image), size=(height, width), mode=interpolation, antialias=True)
    return resized.view(*image.shape[:-2], height, width)
