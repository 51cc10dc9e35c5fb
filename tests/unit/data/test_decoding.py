"""From an encoded image to pixels: the same whichever decoder is installed, and those that torchvision would make."""

import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import hostile_data
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.v2 import functional as theirs

from overhaul.data.decoding import (
    Unscaled,
    centre,
    decode,
    decode_with_pil,
    resized_crop,
    shorten,
    torchcodec_decoder,
    without_exif,
)

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def torchcodec() -> Callable:
    decoder = torchcodec_decoder()
    if decoder is None:
        pytest.skip("torchcodec is absent or built for another torch")
    return decoder


def photo(height: int, width: int, noise: float = 20) -> Image.Image:
    """Smooth colours with some grain, as a photograph has them."""
    draw = np.random.default_rng(0)
    smooth = Image.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray((smooth + draw.normal(0, noise, (height, width, 3))).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


JPEGS = {
    "colour": {},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "4:2:2": {"subsampling": 1},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"progressive": True},
    "not subsampled RGB": {"keep_rgb": True},
    "grey": {"mode": "L"},
    "progressive grey": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "CMYK without Adobe's marker": {"mode": "CMYK", "adobe": None},
    "YCCK": {"mode": "CMYK", "adobe": 2},
    "coarse": {"quality": 5},
    "restart markers": {"restart_marker_rows": 1},
}


def jpeg_of_kind(kind: str, height: int, width: int) -> bytes:
    """adobe: the transform that Adobe's marker is to name, which tells CMYK from YCCK; None for no marker."""
    options = dict(JPEGS[kind])
    adobe = options.pop("adobe", 0)
    encoded = encode(photo(height, width).convert(options.pop("mode", "RGB")), **options)
    name = encoded.find(b"Adobe")  # after the marker and its length, four bytes; the transform stands at 11
    if adobe is None:
        return encoded[: name - 4] + encoded[name + 12 :]
    return encoded[: name + 11] + bytes([adobe]) + encoded[name + 12 :] if adobe else encoded


@pytest.mark.parametrize("kind", JPEGS)
def test_both_decoders_give_the_same_pixels(kind, torchcodec):
    for size in (123, 171), (1, 1), (8, 300):
        encoded = jpeg_of_kind(kind, *size)
        with Image.open(io.BytesIO(encoded)) as image:
            expected = pixels_of(image)
        for decoder in torchcodec, decode_with_pil, decode:
            pixels = decoder(encoded)
            assert pixels.dtype == torch.uint8 and torch.equal(pixels, expected), (decoder, size)
            assert torch.equal(decoder(memoryview(encoded)), expected), (decoder, size)


def test_both_decoders_give_the_same_pixels_of_real_images(shared, torchcodec):
    """Greyscale, small and turned ones among them; PIL's own way is the release's."""
    splits = datasets.load_dataset(str(shared / "data" / "imagenet_sample"))
    splits = splits.cast_column("image", datasets.Image(decode=False))
    images = [image["bytes"] for split in splits.values() for image in split["image"]]

    def check(encoded: bytes) -> bool:
        with Image.open(io.BytesIO(encoded)) as image:
            expected = pixels_of(image)
        assert torch.equal(torchcodec(without_exif(encoded)), expected)
        assert torch.equal(decode(encoded), expected)
        return without_exif(encoded) is not encoded

    with ThreadPoolExecutor(2) as pool:
        with_exif = sum(pool.map(check, images))
    assert len(images) == 224 and 0 < with_exif < 224


class Broken(ModuleType):
    """A package that lacks a library or was built for another torch, and says so when something is taken from it."""

    def __getattr__(self, name: str):
        raise self.error


def broken(error: Exception) -> ModuleType:
    module = Broken("torchcodec.decoders")
    module.error = error
    return module


NO_TORCHCODEC = {
    "absent": None,
    "too old": ModuleType("torchcodec.decoders"),
    "without its library": broken(OSError("libtorchcodec.so: undefined symbol")),
    "for another torch": broken(RuntimeError("Could not load libtorchcodec")),
}


@pytest.mark.parametrize("state", NO_TORCHCODEC)
def test_without_torchcodec_pil_decodes(state, monkeypatch):
    encoded = encode(photo(50, 70))
    expected = decode(encoded)
    try:
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", NO_TORCHCODEC[state])
        torchcodec_decoder.cache_clear()
        assert torchcodec_decoder() is None
        assert torch.equal(decode(encoded), expected)
        with pytest.raises(ValueError):
            decode(encoded[:1000])
    finally:
        monkeypatch.undo()
        torchcodec_decoder.cache_clear()


def test_training_is_imported_without_torchvision():
    """Which takes a second and is needed for its weights alone."""
    script = "import sys, overhaul.training.trainer; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def segment(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + (len(content) + 2).to_bytes(2, "big") + content


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with more segments after its first, JFIF's."""
    assert jpeg[2:4] == b"\xff\xe0"
    end = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:end] + b"".join(segments) + jpeg[end:]


PLACES = ["at once", "after ICC", "after a comment", "after fill bytes", "PNG", "WebP"]


@pytest.mark.parametrize(
    ("orientation", "place"),
    [*((6, place) for place in PLACES), *((each, PLACES[0]) for each in (1, 2, 3, 4, 5, 7, 8))],
)
def test_exif_orientation_is_ignored(orientation, place):
    """Whether there is EXIF depends on the place, and what it says would on the orientation."""
    image, exif = photo(40, 60), turned(orientation)
    if place == "PNG":
        encoded, plain = encode(image, "PNG", exif=exif), encode(image, "PNG")
    elif place == "WebP":
        encoded, plain = encode(image, "WEBP", lossless=True, exif=exif), encode(image, "PNG")
    else:
        before = {
            "at once": b"",
            "after ICC": segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(65_000)) + segment(0xE2, b"ICC_PROFILE\0\2\2"),
            "after a comment": segment(0xFE, b"Exif\0\0") + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
            "after fill bytes": b"\xff\xff",
        }[place]
        plain = encode(image)
        encoded = with_segments(plain, before + segment(0xE1, exif.tobytes()))
    with Image.open(io.BytesIO(encoded)) as found:
        assert found.getexif()[ORIENTATION] == orientation
    assert torch.equal(decode(encoded), decode(plain))


def test_the_tag_of_tiff_is_no_exif_and_is_followed():
    """A canary: where PIL does so no longer, decoding.py need not say it."""
    image = photo(40, 60)
    assert torch.equal(decode(encode(image, "TIFF", exif=turned(3))), pixels_of(image.rotate(180)))


def test_torchcodec_follows_exif_so_that_it_must_not_see_it(torchcodec):
    """A canary: where it does no longer, without_exif can go."""
    encoded = with_segments(encode(photo(40, 60)), segment(0xE1, turned(6).tobytes()))
    assert torchcodec(encoded).shape == (3, 60, 40)
    assert decode(encoded).shape == (3, 40, 60)


PLAIN, EXIF = encode(photo(40, 60)), segment(0xE1, turned(6).tobytes())
XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0Exif")


@pytest.mark.parametrize(
    ("jpeg", "plain"),
    [
        (PLAIN, PLAIN),
        (with_segments(PLAIN, XMP), with_segments(PLAIN, XMP)),
        (with_segments(PLAIN, EXIF), PLAIN),
        (with_segments(PLAIN, EXIF, XMP, EXIF), with_segments(PLAIN, XMP)),
        (with_segments(PLAIN, b"\xff\xff", EXIF), None),
        (with_segments(PLAIN, EXIF)[:40], None),
        (b"\xff\xd8", None),
    ],
)
def test_exif_alone_is_cut_out_so_that_the_fastest_decoder_can_be_used(jpeg, plain):
    for encoded in jpeg, memoryview(jpeg):
        assert without_exif(encoded) == plain and (without_exif(encoded) is not encoded) == (jpeg != plain)


PALETTE = photo(40, 60, noise=0).quantize(16)
GREY_AND_ALPHA = Image.merge("LA", [photo(40, 60).convert("L"), Image.linear_gradient("L").resize((60, 40))])
COLOUR_AND_ALPHA = Image.merge("RGBA", [*photo(40, 60).split(), Image.linear_gradient("L").resize((60, 40))])
FILES = {
    "PNG": (photo(40, 60), "PNG", {}),
    "RGBA": (COLOUR_AND_ALPHA, "PNG", {}),
    "palette": (PALETTE, "PNG", {}),
    "palette with a transparent colour": (PALETTE, "PNG", {"transparency": 3}),
    "palette with transparencies": (PALETTE, "PNG", {"transparency": bytes(range(16))}),
    "1 bit": (photo(40, 60).convert("1"), "PNG", {}),
    "grey": (photo(40, 60).convert("L"), "PNG", {}),
    "grey and alpha": (GREY_AND_ALPHA, "PNG", {}),
    "BMP": (photo(40, 60), "BMP", {}),
    "palette BMP": (PALETTE, "BMP", {}),
    "GIF": (PALETTE, "GIF", {}),
    "animated GIF": (PALETTE, "GIF", {"save_all": True, "append_images": [PALETTE.rotate(180)]}),
    "TIFF": (photo(40, 60), "TIFF", {}),
    "CMYK TIFF": (photo(40, 60).convert("CMYK"), "TIFF", {}),
    "LZW TIFF": (photo(40, 60), "TIFF", {"compression": "tiff_lzw"}),
    "WebP": (photo(40, 60), "WEBP", {"lossless": True}),
    "RGBA WebP": (COLOUR_AND_ALPHA, "WEBP", {"lossless": True, "exact": True}),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_image_becomes_rgb_and_transparency_is_dropped(kind):
    image, format, options = FILES[kind]
    pixels = decode(encode(image, format, **options))
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, pixels_of(image))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_a_colour_stays_what_it_is(mode):
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    encoded = encode(red.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert (decode(encoded).int() - pixels_of(red).int()).abs().max() <= 1


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_become_8(format):
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    pixels = decode(encode(Image.fromarray(levels), format))
    assert torch.equal(pixels, torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1))


def test_one_format_does_not_pass_for_another():
    """What a file is named or said to be does not count: its first bytes do."""
    image = photo(40, 60)
    for format in ("PNG", "BMP", "TIFF"):
        assert torch.equal(decode(memoryview(encode(image, format))), pixels_of(image))


BROKEN = {
    "nothing": b"",
    "text": b"hello, I am no image",
    "two bytes of a JPEG": encode(photo(40, 60))[:2],
    "three bytes of a JPEG": encode(photo(40, 60))[:3],
    "a JPEG cut in its header": encode(photo(40, 60))[:100],
    "a JPEG cut within EXIF": encode(photo(40, 60), exif=turned(6))[:40],
    "half a JPEG": encode(photo(40, 60))[: len(encode(photo(40, 60))) // 2],
    "a JPEG without its last bytes": encode(photo(40, 60))[:-9],
    "a JPEG of noughts": encode(photo(40, 60))[:400] + bytes(2000),
    "a beginning of a JPEG": b"\xff\xd8" + b"\xff" * 500,
    "half a PNG": encode(photo(40, 60), "PNG")[:2000],
    "a PNG's signature": encode(photo(40, 60), "PNG")[:8],
    "half a BMP": encode(photo(40, 60), "BMP")[:2000],
    "half a GIF": encode(PALETTE, "GIF")[:700],
    "half a TIFF": encode(photo(40, 60), "TIFF")[:2000],
    "half a WebP": encode(photo(40, 60), "WEBP", lossless=True)[:2000],
    "an HTML page": b"<html><body>404 Not Found</body></html>" * 20,
}


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_scale_are_refused_with_what_to_do(kind):
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=kind).reshape(16, 16)).save(file, "TIFF")
    with pytest.raises(Unscaled, match=r"mode (I|F)\), .*: store the images with 8 or 16 bits a channel"):
        decode(file.getvalue())


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_said_to_be_so_in_one_short_line(kind):
    for encoded in (BROKEN[kind], memoryview(BROKEN[kind])):
        with pytest.raises(ValueError) as error:
            decode(encoded)
        line = str(error.value)
        assert 0 < len(line) < 80 and "\n" not in line and "/" not in line and "index" not in line, line
        assert error.value.__suppress_context__ or error.value.__context__ is None


BOXES = [(0, 0, 1.0, 1.0), (3, 5, 0.5, 0.3), (1, 2, 0.03, 0.9), (7, 4, 0.1, 0.1)]


def layouts(image: torch.Tensor) -> list[torch.Tensor]:
    """All of a pixel together, as images are decoded, and all of a channel together."""
    together = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return [together, image.contiguous()]


@pytest.mark.parametrize("size", [(375, 500), (500, 334), (60, 47), (224, 224), (20, 300)])
def test_a_resized_crop_is_torchvisions(size):
    for image in layouts(pixels_of(photo(*size))):
        for top, left, tall, wide in BOXES:
            place = top, left, max(1, int(tall * size[0]) - top), max(1, int(wide * size[1]) - left)
            expected = theirs.resized_crop(image, *place, [224, 224], antialias=True)
            assert torch.equal(resized_crop(image, *place, 224), expected)
            assert torch.equal(resized_crop(image, *place, 224, mirrored=True), theirs.horizontal_flip(expected))


@pytest.mark.parametrize("size", [(375, 500), (500, 334), (60, 47), (256, 256), (224, 224), (20, 300)])
def test_a_centre_is_all_but_that_of_the_release(size):
    found = centre(pixels_of(photo(*size)), 224, 256)
    release = pixels_of(Compose([Resize(256), CenterCrop(224)])(photo(*size)))
    difference = (found.int() - release.int()).abs().float()
    assert difference.max() <= 2 and difference.mean() < 0.05


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (500, 334), (60, 47), (256, 256), (224, 224), (20, 300), (7, 5), (1, 9)]
)
def test_a_centre_is_torchvisions(height, width, interpolation):
    """Whether the image is enlarged, cut, by an odd number of pixels too, or given a border."""
    mode = theirs.InterpolationMode(interpolation)
    for image in layouts(pixels_of(photo(height, width))):
        for size, resize in (224, 256), (224, 224), (33, 40), (32, 61), (64, 33), (65, 32):
            shortened = theirs.resize(image, [resize], mode, antialias=True)
            assert torch.equal(shorten(image, resize, interpolation), shortened), resize
            expected = theirs.center_crop(shortened, [size, size])
            assert torch.equal(centre(image, size, resize, interpolation), expected), (size, resize)


def test_the_centres_of_a_batch_are_those_of_its_images():
    batch = torch.stack([pixels_of(photo(20, 30)), pixels_of(photo(20, 30).rotate(180))])
    for channels in (1, 3):
        images = batch[:, :channels]
        assert torch.equal(centre(images, 16), torch.stack([centre(image, 16) for image in images]))


def test_resizing_before_the_crop_leaves_the_border_out():
    framed = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    framed[:, 8:-8, 8:-8] = 0
    assert centre(framed, 32).max() == 255
    assert centre(framed, 32, resize=48)[:, 2:-2, 2:-2].max() == 0


def test_larger_images_are_resized_and_cropped_at_the_centre():
    wide = torch.zeros(3, 64, 256, dtype=torch.uint8)
    wide[:, :, 96:160] = 200
    assert torch.all(centre(wide, 32)[:, :, 4:-4] == 200)
    assert centre(torch.zeros(3, 47, 20, dtype=torch.uint8), 32).shape == (3, 32, 32)


def test_an_image_of_the_right_size_is_taken_as_it_is():
    image = pixels_of(photo(32, 32))
    assert torch.equal(centre(image, 32), image) and torch.equal(centre(image, 32, 32), image)
    assert not torch.equal(centre(image, 32, 40), image)


def test_resizing_keeps_all_of_a_pixel_together():
    """A canary: PyTorch's kernels for channels_last bytes are several times as fast as the others."""
    image = pixels_of(photo(100, 150)).permute(1, 2, 0)[None, 5:75, 6:86]
    resized = F.interpolate(image.permute(0, 3, 1, 2), size=(64, 64), mode="bilinear", antialias=True)
    assert resized.dtype == torch.uint8 and resized.is_contiguous(memory_format=torch.channels_last)
    decoded = decode(encode(photo(100, 150)))
    for mirrored in (False, True):
        assert resized_crop(decoded, 5, 6, 70, 80, 64, mirrored).permute(1, 2, 0).is_contiguous()
    for shortened in (shorten(decoded, 64), shorten(decoded, 64, "bicubic")):
        assert shortened.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_most_pixels_of_an_image_are_a_setting_and_read_off_its_header(format):
    """With either decoder, and before it is noticed that the end is missing."""
    encoded, words = encode(photo(40, 60), format), "it has 60 x 40 pixels, and --max_pixels allows 2399"
    assert decode(encoded, 2400).shape == decode_with_pil(encoded, 2400).shape == (3, 40, 60)
    for cut in (encoded, encoded if format == "WEBP" else encoded[:-9]):
        for decoder in (decode, decode_with_pil):
            with pytest.raises(ValueError, match=words):
                decoder(cut, 2399)


@pytest.mark.parametrize("kind", hostile_data.LARGE)
def test_a_small_file_of_a_huge_image_takes_no_memory(kind):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for decoder in (decode, decode_with_pil):
        with pytest.raises(ValueError, match="--max_pixels allows"):
            decoder(hostile_data.LARGE[kind])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "KiB"


def test_an_image_that_resizing_would_make_huge_is_refused():
    assert decode(encode(photo(1, 500), "PNG")).shape == (3, 1, 500)
    with pytest.raises(ValueError, match="it has 501 x 1 pixels, and no side may be 500 times the other"):
        decode(encode(photo(1, 501), "PNG"))


@pytest.mark.parametrize("kind", hostile_data.PROGRAMS)
def test_no_program_is_started_for_an_image(kind, tmp_path, monkeypatch):
    """PIL would start Ghostscript for what says that it is PostScript."""
    for name in ("gs", "gswin32c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ValueError, match="it is no JPEG, PNG, WebP, BMP, GIF or TIFF image"):
        decode(hostile_data.PROGRAMS[kind])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF"])
def test_of_several_images_in_a_file_the_first_is_taken(format):
    first, second = photo(40, 60).quantize(16).convert("RGB"), Image.new("RGB", (60, 40))
    options = {"lossless": True} if format == "WEBP" else {}
    several = encode(first, format, save_all=True, append_images=[second], **options)
    assert torch.equal(decode(several), decode(encode(first, format, **options)))
