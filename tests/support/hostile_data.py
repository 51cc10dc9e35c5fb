"""Hostile data sets: paths that lead out of a set, files that never end, images and descriptions that explode."""

import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import yaml
from PIL import Image

from support.hostile import Case

PREPARE = ("prepare", "--data", "set", "--out", "out")
TWO = (*PREPARE, "--num_classes", "2")
TRAIN = ("train", "--setup", "imagenet_b", "--method", "original", "--batch_size", "8", "--workers", "0", "--dry_run")
STREAM = (*TRAIN, "--data_path", "set", "--streaming")
OUT_OF_IT, BROKEN = "its path leads out of the set", "is no image that can be read"


def png(shade: int = 0, width: int = 8) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, 8)).point(lambda value: (value + shade) % 256).save(file, "PNG")
    return file.getvalue()


def table(*odd: dict | None, labels: list | None = None) -> pyarrow.Table:
    """24 rows, of which the first are as they are said to be."""
    rows = [*odd, *({"bytes": png(8 * i), "path": None} for i in range(24 - len(odd)))]
    image = pyarrow.array(rows, pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}))
    return pyarrow.table({"image": image, "label": labels or [i % 2 for i in range(24)]})


def write_parquet(folder: Path, train: pyarrow.Table | None = None, plain: bool = False) -> Path:
    """A set of two classes; plain: without the names of the classes, and its tests are as its training images."""
    (folder / "set").mkdir(exist_ok=True)
    train = table() if train is None else train
    for name, rows in (("train", train), ("test", train if plain else table())):
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}}
        about = {} if plain else {"huggingface": json.dumps({"info": {"features": features}})}
        pyarrow.parquet.write_table(rows.replace_schema_metadata(about), folder / "set" / f"{name}.parquet")
    return folder / "set"


def write_plain(folder: Path) -> None:
    write_parquet(folder, plain=True)


def named(path: str) -> Callable[[Path], object]:
    """A set whose first row names a file; beside it and in it lie some."""

    def make(folder: Path) -> None:
        (folder / "secret.png").write_bytes(png())
        with zipfile.ZipFile(folder / "secret.zip", "w") as archive:
            archive.writestr("a.png", png())
        inside = write_parquet(folder, table({"bytes": None, "path": path.format(folder=folder)}))
        (inside / "link.png").symlink_to(folder / "secret.png")
        (inside / "loop.png").symlink_to("loop.png")
        os.mkfifo(inside / "pipe.png")
        with (inside / "sparse.png").open("wb") as file:
            file.truncate(2**40)

    return make


def listed(suffix: str) -> Callable[[Path], object]:
    """A set of CSV or JSON lines whose first row names a file out of it."""

    def make(folder: Path) -> None:
        (folder / "set").mkdir()
        (folder / "secret.png").write_bytes(png())
        for split in ("train", "test"):
            rows = [{"image": str(folder / "secret.png"), "label": i % 2} for i in range(24)]
            lines = [json.dumps(row) for row in rows]
            if suffix == "csv":
                lines = ["image,label", *(f"{row['image']},{row['label']}" for row in rows)]
            (folder / "set" / f"{split}.{suffix}").write_text("\n".join(lines))

    return make


def tree(content: bytes | None, name: str = "odd.png", files: int = 3) -> Callable[[Path], object]:
    """A folder of images by class, the first of which has that content, or is a pipe."""

    def make(folder: Path) -> None:
        for split in ("train", "test"):
            for number in range(2 * files):
                place = folder / "set" / split / "ab"[number % 2]
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number}.png").write_bytes(png(8 * number + (split == "test")))
        odd = folder / "set" / "train" / "a" / name
        os.mkfifo(odd) if content is None else odd.write_bytes(content)

    return make


def jpeg(width: int, height: int) -> bytes:
    """A small JPEG whose header says another size."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    encoded = file.getvalue()
    start = encoded.index(b"\xff\xc0") + 5
    return encoded[:start] + struct.pack(">HH", height, width) + encoded[start + 4 :]


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def webp(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP", lossless=True)
    encoded = file.getvalue()
    return encoded[:21] + struct.pack("<I", width - 1 | (height - 1) << 14) + encoded[25:]


def tiff(tile: int) -> bytes:
    """8 x 8 grey pixels in one tile of that side."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(70)


LARGE = {
    "JPEG": jpeg(20_000, 20_000),
    "PNG": png_header(2**31 - 1, 2**31 - 1),
    "GIF": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 99_999, 99_999, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(40),
    "WebP": webp(12_000, 12_000),
}
PROGRAMS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(x) (w) file\n",
    "PPM": b"P6 8 8 255\n" + bytes(192),
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
}


def labelled(*first) -> Callable[[Path], object]:
    """A set with these labels before the others."""
    labels = [*first, *([first[-1]] * (24 - len(first)))]
    return lambda folder: write_parquet(folder, table(labels=labels), plain=True)


def carded(head: object, more: str = "") -> Callable[[Path], object]:
    """A set with a README.md of that head."""

    def make(folder: Path) -> None:
        text = head if isinstance(head, str) else yaml.safe_dump(head)
        (write_parquet(folder) / "README.md").write_text(f"---\n{text}---\n{more}")

    return make


def files(pattern: str, name: str = "default") -> dict:
    return {"configs": [{"config_name": name, "data_files": [{"split": "train", "path": pattern}]}]}


def saved(state: object, splits: object = ("train",), file: Callable[[Path], object] | None = None):
    """What save_to_disk leaves, with that state."""

    def make(folder: Path) -> None:
        (folder / "set" / "train").mkdir(parents=True)
        (folder / "set" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        (folder / "set" / "train" / "dataset_info.json").write_text("{}")
        text = state if isinstance(state, str) else json.dumps(state)
        (folder / "set" / "train" / "state.json").write_text(text)
        if file:
            file(folder / "set" / "train" / "data.arrow")

    return make


def zipped(*members: tuple[str, bytes]) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / "set").mkdir()
        for split in ("train", "test"):
            with zipfile.ZipFile(folder / "set" / f"{split}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members:
                    archive.writestr(name, content)

    return make


def zip_bomb(folder: Path) -> None:
    """Its list says that its table has a terabyte."""
    zipped(("train.csv", bytes(2**20)))(folder)
    for archive in (folder / "set").iterdir():
        content = archive.read_bytes()
        central = content.rindex(b"PK\1\2") + 24
        archive.write_bytes(content[:central] + struct.pack("<I", 2**32 - 2) + content[central + 4 :])


def lying(folder: Path) -> None:
    """A parquet file that says that its description has two gigabytes."""
    file = write_parquet(folder) / "train.parquet"
    file.write_bytes(file.read_bytes()[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1")


def names(content: bytes | None, sparse: int = 0) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        write_parquet(folder)
        if content is None:
            os.mkfifo(folder / "names")
            return
        (folder / "names").write_bytes(content)
        if sparse:
            os.truncate(folder / "names", sparse)

    return make


def bound(folder: Path) -> None:
    """A socket in the file system, which outlives its process."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("set")


def piped(folder: Path) -> None:
    os.mkfifo(write_parquet(folder) / "train-1.parquet")


def nested(folder: Path) -> None:
    lists = pyarrow.array([[["a"], ["b"]]] * 24)
    write_parquet(folder, pyarrow.table({"image": lists, "label": [i % 2 for i in range(24)]}), plain=True)


def script(folder: Path) -> None:
    """A builder of datasets, as they were run once."""
    (folder / "set").mkdir()
    (folder / "set" / "set.py").write_text("open('ran', 'w')\nraise SystemExit(0)\n")


def twisted(folder: Path) -> None:
    tree(png())(folder)
    (folder / "set" / "train" / "a" / "again").symlink_to(folder / "set" / "train")


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
ONTO = ("prepare", "--out", "out", "--data")
MILLION = b"\n".join(b"%d" % i for i in range(10**6 + 1))
NAMED = (*PREPARE, "--class_names", "names")
ROWS = {
    "an absolute path": ("{folder}/secret.png", OUT_OF_IT),
    "a path upwards": ("../secret.png", OUT_OF_IT),
    "a path through the set upwards": ("{folder}/set/../secret.png", OUT_OF_IT),
    "a link out of the set": ("link.png", OUT_OF_IT),
    "a loop of links": ("loop.png", "missing or empty"),
    "a pipe": ("pipe.png", "is no regular file"),
    "a device": ("/dev/zero", OUT_OF_IT),
    "an endless file": ("sparse.png", "are the most"),
    "a file's URL": ("file://{folder}/set/train.parquet", OUT_OF_IT),
    "a web address": ("http://127.0.0.1:9/a.png", OUT_OF_IT),
    "an archive elsewhere": ("zip://a.png::{folder}/secret.zip", OUT_OF_IT),
    "an archive in an archive": ("zip://a.png::zip://b.zip::{folder}/secret.zip", OUT_OF_IT),
    "a path with NUL": ("a\0b.png", BROKEN),
    "a path of control characters": ("\x1b[2Ja.png", BROKEN),
}
PATHS = {
    "the root": ("/", "lies in the data set /"),
    "an unknown home": ("~nobody_there/set", "the home of no user"),
    "an over-long name": ("a" * 300, "no longer than a file's name"),
    "an over-long path": ("a/" * 3000, "no longer than a file's name"),
    "NUL": ("a\0b", "without NUL"),
    "odd bytes": ("a\udcff/b", ""),
}
CARDS = {
    "a bomb of references": (BOMB, "refers to a part of itself"),
    "a list in itself": ("configs: &a [*a]\n", "refers to a part of itself"),
    "lists without end": ("configs: " + "[" * 500 + "\n", "README.md cannot be read"),
    "an object of Python": ("configs: !!python/object/apply:os.system ['touch ran']\n", "README.md cannot be read"),
    "files upwards": (files("../*"), "which are not in its folder"),
    "files of the system": (files("/etc/**"), "which are not in its folder"),
    "files of a site": (files("http://127.0.0.1:9/x.parquet"), "which are not in its folder"),
    "configurations of control characters": (
        {"configs": [*files("train.parquet", "a\x1b[2J")["configs"], *files("test.parquet", "b\n")["configs"]]},
        "",
    ),
}
STATES = {
    "no JSON": ("{", "cannot be read"),
    "another kind of JSON": ([1], "cannot be read"),
    "deep JSON": ("[" * 100_000, "cannot be read"),
    "a table upwards": ({"_data_files": [{"filename": "../../a.arrow"}]}, "which is not in it"),
    "a device": ({"_data_files": [{"filename": "/dev/zero"}]}, "which is not in it"),
    "no table": ({"_data_files": [{"filename": "data.arrow"}], "_split": "train"}, "cannot be read"),
}
CASES = [
    *(Case(f"a row with {name}", PREPARE, says, named(path)) for name, (path, says) in ROWS.items()),
    *(Case(f"{suffix} of paths", TWO, OUT_OF_IT, listed(suffix)) for suffix in ("csv", "jsonl")),
    *(Case(f"{kind} of too many pixels", PREPARE, "--max_pixels allows", tree(LARGE[kind])) for kind in LARGE),
    *(Case(f"{kind} called PNG", PREPARE, "it is no JPEG", tree(PROGRAMS[kind])) for kind in PROGRAMS),
    Case("a TIFF of a huge tile", PREPARE, "its tiles have", tree(tiff(60_000))),
    Case("an image of one row", PREPARE, "times the other", tree(jpeg(60_000, 1))),
    Case("an image above a limit", (*PREPARE, "--max_pixels", "63"), "has 8 x 8 pixels", tree(png())),
    Case("no pixels", (*PREPARE, "--max_pixels", "0"), "--max_pixels must be at least 1"),
    Case("a pipe among images", PREPARE, "is no regular file", tree(None)),
    Case("a pipe called zip", PREPARE, "is no regular file", tree(None, "odd.zip")),
    Case("a pipe called parquet", PREPARE, "is no regular file", piped),
    *(Case(f"--data_path: {name}", (*PREPARE, "--data_path", path), says) for name, (path, says) in PATHS.items()),
    *(Case(f"--data: {name}", (*ONTO, path), says) for name, (path, says) in PATHS.items()),
    Case("--data_path: processes", (*PREPARE, "--data_path", "/proc"), "the data set /proc cannot be read"),
    Case("--data_path: a pipe", (*PREPARE, "--data_path", "set"), "no such folder", lambda _: os.mkfifo("set")),
    Case("--data_path: a socket", (*PREPARE, "--data_path", "set"), "no such folder", bound),
    Case("--data: a device", ("prepare", "--data", "/dev/null", "--out", "out"), "no such folder"),
    Case("--data: a loop of links", PREPARE, "", lambda folder: (folder / "set").symlink_to("set")),
    Case("folders that are one another", PREPARE, "leads back to a folder", twisted),
    Case("class names of bytes", NAMED, "cannot be read", names(bytes(range(256)))),
    Case("class names of control characters", NAMED, "one class name a line", names(b"a\x1b[2J\nb\0")),
    Case("class names without end", NAMED, "are the most", names(b"a", 2**30)),
    Case("class names from a pipe", NAMED, "is no regular file", names(None)),
    Case("class names of nobody", (*PREPARE, "--class_names", "~nobody_there/a"), "the home of no user", names(b"")),
    Case("a million class names", NAMED, "are too many", names(MILLION)),
    Case("a thousand million classes", (*PREPARE, "--num_classes", "1000000000"), "are too many", write_plain),
    Case("parquet that lies about its rows", PREPARE, "cannot be read", lying),
    Case("a zip bomb", PREPARE, "would be unpacked to", zip_bomb),
    Case("a zip of absolute names", PREPARE, "would be unpacked elsewhere", zipped(("/etc/a.csv", b"a"))),
    Case("a zip of names upwards", PREPARE, "would be unpacked elsewhere", zipped(("a/../../a.png", png()))),
    *(Case(f"save_to_disk: {name}", PREPARE, says, saved(state)) for name, (state, says) in STATES.items()),
    Case("save_to_disk: splits upwards", PREPARE, "which is not in it", saved({}, ["../train"])),
    Case("save_to_disk: a pipe", PREPARE, "is no regular file", saved(STATES["no table"][0], file=os.mkfifo)),
    Case("a program beside the data", PREPARE, "cannot be read", script),
    *(Case(f"README.md: {name}", PREPARE, says, carded(head)) for name, (head, says) in CARDS.items()),
    Case("README.md: sixteen megabytes", PREPARE, "too many", carded({"license": "mit"}, " " * 2**24)),
    Case("labels of floats", PREPARE, "holds no labels", labelled(0.5, 1.5)),
    Case("labels of lists", PREPARE, "holds no labels", labelled([0], [1])),
    Case("labels of huge numbers", TWO, "outside its 2 classes", labelled(2**63 - 1, 0)),
    Case("labels below nought", TWO, "outside its 2 classes", labelled(-(2**63), 0)),
    Case("images of lists in lists", TWO, "holds no images", nested),
    Case("a stream of lists in lists", STREAM, "holds no images", nested),
    Case("prepared into itself", (*PREPARE[:-1], "set/out"), "lies in the data set", write_parquet),
    Case("prepared into a file", (*PREPARE[:-1], "set/train.parquet"), "it is no folder", write_parquet),
    Case("prepared into what cannot be written", (*PREPARE[:-1], "/proc/out"), "cannot be written to", write_parquet),
    Case("a short side of nothing", (*PREPARE, "--short_side", "0"), "--short_side is a number"),
    Case("a short side without end", (*PREPARE, "--short_side", "1" + "0" * 12), "--short_side is a number"),
    Case("a quality above all", (*PREPARE, "--quality", "101"), "--quality one of 1 to 100"),
]  # fmt: skip
