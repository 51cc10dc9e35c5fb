"""From an encoded image to uint8 pixels: decoding, cropping, resizing.

EXIF orientation is ignored everywhere, as in the authors' release, whose loader never looked at it. (TIFF has a tag of
its own for it, which PIL follows.)
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from overhaul.options import MAX_PIXELS
from overhaul.system.messages import UserError, first_line

JPEG = b"\xff\xd8"  # its first bytes
READERS = {  # PIL's, by a file's first bytes; through Image.open it would start programs for other formats
    JPEG: JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"RIFF....WEBP": WebPImageFile,
    b"BM": BmpImageFile,
    b"GIF8[79]a": GifImageFile,
    b"II[*+]\0|MM\0[*+]": TiffImageFile,
}
WEBP = re.compile(rb"RIFF.{4}WEBP(VP8.)....(.{10})", re.DOTALL)
MOST_SEGMENTS = 10_000  # of a JPEG
SLIMMEST = 500  # times as long as wide; resizing its short side would make it larger than any other


class Unscaled(UserError):
    """An image whose file does not say which of its values is white."""


def decode(encoded: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Tensor:
    """uint8 [3, height, width], RGB, of an image file's bytes: the same pixels whichever decoder is installed.

    JPEG, PNG, WebP, BMP, GIF and TIFF, of several images the first. Greyscale, CMYK and palettes become RGB,
    transparency is dropped, 16 bits become 8. Raises UserError for bytes that are no such image, a broken one or one of
    more than max_pixels, as its header says, and Unscaled for 32 bits a channel, be they integers or floating-point
    numbers.
    """
    if not len(encoded):
        raise UserError("it is missing or empty")
    try:
        decoder = torchcodec_decoder() if encoded[:2] == JPEG else None
        plain = without_exif(encoded) if decoder else None  # torchcodec would follow it
        if plain is None:
            return decode_with_pil(encoded, max_pixels)
        check_size(*jpeg_size(plain), max_pixels)
        return decoder(plain)
    except UserError:
        raise
    except Exception as error:  # bytes that are no image may raise anything
        reason = re.sub(r".*\.cpp:\d+, ", "", first_line(error))  # without the place in a library that noticed it
        raise UserError(reason) from None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """UserError for an image that would take too much memory, as it is or after its short side is resized."""
    if width * height > max_pixels:
        raise UserError(f"it has {width} x {height} pixels, and --max_pixels allows {max_pixels}")
    if max(width, height) > SLIMMEST * min(width, height):
        raise UserError(f"it has {width} x {height} pixels, and no side may be {SLIMMEST} times the other")


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
    """A JPEG without EXIF before its image; None where the segments are out of order."""
    found = list(islice(segments(jpeg), MOST_SEGMENTS))
    if not found or found[-1][0] != 0xDA:  # start of scan
        return None
    for marker, start, end in reversed(found):
        if marker == 0xE1 and jpeg[start + 4 : start + 8] == b"Exif":
            jpeg = bytes(jpeg[:start]) + bytes(jpeg[end:])
    return jpeg


def jpeg_size(jpeg: bytes | memoryview) -> tuple[int, int]:
    """Width and height that stand in the frame header of a JPEG whose segments are in order; noughts without one."""
    for marker, start, _ in segments(jpeg):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # tables and extensions
            return tuple(int.from_bytes(jpeg[start + i : start + i + 2], "big") for i in (7, 5))
    return 0, 0


def webp_size(kind: bytes, header: bytes) -> tuple[int, int]:
    """Width and height that the first chunk of a WebP file says, for which PIL would take the memory of the pixels."""
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(header[at : at + 3], "little") for at in (4, 7))
    if kind == b"VP8L":
        sides = int.from_bytes(header[1:5], "little")
        return 1 + sides % 2**14, 1 + (sides >> 14) % 2**14
    return tuple(int.from_bytes(header[at : at + 2], "little") % 2**14 for at in (6, 8))


def segments(jpeg: bytes | memoryview) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of a JPEG's segments, each a marker and its length, up to its scan or what is none."""
    marker, start = None, 2
    while marker != 0xDA and start + 4 <= len(jpeg) and jpeg[start] == 0xFF and 0xC0 <= jpeg[start + 1] < 0xFF:
        marker, end = jpeg[start + 1], start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
        yield marker, start, end
        start = end


def decode_with_pil(encoded: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Tensor:
    """See decode: any of the formats, JPEGs too."""
    if webp := WEBP.match(encoded):
        check_size(*webp_size(*webp.groups()), max_pixels)
    with open_with_pil(encoded) as image:
        check_size(*image.size, max_pixels)
        if image.format == "TIFF":  # whose tiles may be larger than itself
            width, height = (image.tag_v2.get(side, 1) for side in (TILEWIDTH, TILELENGTH))
            if width * height > max_pixels:
                raise UserError(f"its tiles have {width} x {height} pixels, and --max_pixels allows {max_pixels}")
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # whose 16 bits may be PIL's mode I
            numbers = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
            raise Unscaled(
                f"it holds {numbers} (PIL's mode {image.mode}), of which nobody can tell which is white: store the "
                f"images with 8 or 16 bits a channel, such as (255 * x).astype('uint8') of an x from 0 to 1"
            )
        pixels = image
        if image.mode.startswith("I"):
            pixels = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        return torch.from_numpy(np.array(pixels.convert("RGB"))).permute(2, 0, 1)


def open_with_pil(encoded: bytes | memoryview) -> ImageFile:
    """An image of which the header alone is read; of several the first."""
    head = bytes(encoded[:12])
    for begins, reader in READERS.items():
        if re.match(begins, head, re.DOTALL):
            try:
                return reader(io.BytesIO(encoded))
            except Image.DecompressionBombError as error:  # PIL's own limit, of WebP alone
                raise UserError(first_line(error)) from None
            except Exception:  # a broken header may raise anything
                raise UserError("its header is broken") from None
    raise UserError("it is no JPEG, PNG, WebP, BMP, GIF or TIFF image")


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
