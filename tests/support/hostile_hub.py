"""Hostile inputs by way of the Hub and files of weights."""

import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from overhaul import models
from overhaul.setups import wide_resnet
from support.hostile import Case

NET = wide_resnet(10, 1, 10)
OVERRIDE = "\u202e"  # from here on a terminal writes from right to left
CONFIG = {
    "architecture": "overhaul_wide_resnet",
    "num_classes": 10,
    "model_args": {"depth": 10, "width": 1},
    "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0},
}


def weights() -> dict[str, torch.Tensor]:
    return models.create(NET).state_dict()


def exported(source: str) -> tuple[str, ...]:
    return "export", source, "--format", "safetensors", "--out", "out.safetensors"


def tensors(change: Callable, name: str = "fc.weight", file: str = "w.safetensors") -> Callable[[Path], None]:
    """A file of weights of which one is changed."""

    def make(folder: Path) -> None:
        state = weights()
        state[name] = change(state[name])
        (save_file if file.endswith(".safetensors") else torch.save)(state, folder / file)

    return make


def of_header(header: object, data: bytes = b"", length: int | None = None) -> Callable[[Path], object]:
    """A safetensors file that says so of itself. length: in bytes, that it says its header has."""
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = (len(said) if length is None else length).to_bytes(8, "little") + said + data
    return lambda folder: (folder / "w.safetensors").write_bytes(whole)


def entry(kind: str = "F32", shape: tuple = (1,), offsets: tuple = (0, 4)) -> dict:
    return {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}


def torch_file(content: Callable[[], object]) -> Callable[[Path], None]:
    return lambda folder: torch.save(content(), folder / "w.pt")


def pickled(content: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> Callable[[Path], None]:
    """What torch.save writes, with that pickle in it."""

    def make(folder: Path) -> None:
        with zipfile.ZipFile(folder / "w.pt", "w", compression) as archive:
            archive.writestr("w/data.pkl", content)
            archive.writestr("w/version", "3\n")
            for name, record in records.items():
                archive.writestr(f"w/data/{name.strip('_')}", record)

    return make


def bomb(folder: Path) -> None:
    """A few kilobytes that are sixteen megabytes when they are unpacked."""
    torch.save({"fc.weight": torch.zeros(2)}, folder / "small.pt")
    with zipfile.ZipFile(folder / "small.pt") as small, zipfile.ZipFile(folder / "w.pt", "w") as large:
        for name in small.namelist():
            content = bytes(2**24) if name.endswith("data/0") else small.read(name)
            large.writestr(name, content, zipfile.ZIP_DEFLATED)


def deep(content: object = None) -> bytes:
    return pickle.PROTO + b"\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."


def wide() -> dict:
    """A few thousand entries that are a thousand million by way of one another."""
    inner = {f"a{number}": torch.zeros(1) for number in range(1000)}
    for _ in range(2):
        inner = {f"b{number}": inner for number in range(1000)}
    return inner


def student(files: Callable[[Path], object] | None = None, text: str | bytes | None = None, **config) -> Callable:
    """A student's folder, with other entries in its config.json, or another text."""

    def make(folder: Path) -> None:
        made = folder / "student"
        made.mkdir()
        save_file(weights(), made / "model.safetensors")
        said = text if text is not None else json.dumps({**CONFIG, **config})
        (made / "config.json").write_bytes(said if isinstance(said, bytes) else said.encode())
        if files:
            files(made)

    return make


def images(**changes) -> dict:
    return {"pretrained_cfg": {**CONFIG["pretrained_cfg"], **changes}}


def nested() -> dict:
    args: dict = {"depth": 10, "width": 1}
    inner: object = 1
    for _ in range(200):
        inner = [inner]
    return {**args, "deep": inner}


def as_folder(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return make


def beside(name: str) -> Callable[[Path], object]:
    """An empty file of that name."""
    return lambda folder: (folder / name).touch()


def file(name: str, make: Callable[[Path], object], says: str) -> Case:
    return Case(f"weights: {name}", exported("w.safetensors"), says, make)


def pt(name: str, make: Callable[[Path], object], says: str) -> Case:
    return Case(f"torch file: {name}", exported("w.pt"), says, make)


def of_student(name: str, says: str, files: Callable | None = None, text=None, **config) -> Case:
    return Case(f"student: {name}", exported("student"), says, student(files, text, **config))


def quantised() -> dict:
    state = weights()
    with warnings.catch_warnings():  # PyTorch will drop them
        warnings.simplefilter("ignore")
        return {**state, "fc.weight": torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)}


BROKEN = "is not a safetensors file, or a broken one"
KINDS = "not of fp16, bf16, fp32 or fp64"

CASES = [
    file("of float8", tensors(lambda value: value.to(torch.float8_e4m3fn)), KINDS),
    file("of complex numbers", tensors(lambda value: value.to(torch.complex64)), KINDS),
    file("of int8", tensors(lambda value: value.to(torch.int8)), KINDS),
    file("of booleans", tensors(lambda value: value > 0), KINDS),
    file("of four bits, packed", tensors(lambda value: torch.zeros(320, 1, dtype=torch.uint8)), "fc.weight uint8"),
    file("of four bits", of_header({"fc.weight": entry("F4", (8,))}, bytes(4)), ""),
    file("without dimensions", tensors(lambda value: value.sum()), "no weights that fit"),
    file("with NaN", tensors(lambda value: value * float("nan")), "not finite numbers"),
    file("with an infinity in a BatchNorm", tensors(lambda value: value / 0, "bn1.running_var"), "not finite numbers"),
    file("offsets beyond the file", of_header({"a": entry(offsets=(0, 4000), shape=(1000,))}, bytes(4)), BROKEN),
    file("offsets that overlap", of_header({"a": entry(), "b": entry()}, bytes(4)), BROKEN),
    file("offsets that leave a hole", of_header({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)), BROKEN),
    file("offsets backwards", of_header({"a": entry(offsets=(4, 0))}, bytes(4)), BROKEN),
    file("a header of 2 GiB", of_header({}, length=2**31), BROKEN),
    file("a header of 16 EiB", of_header({}, length=2**64 - 1), BROKEN),
    file("a header that is longer than the file", of_header({}, length=5000), BROKEN),
    file("no header", lambda folder: (folder / "w.safetensors").write_bytes(b"\2"), BROKEN),
    file("a name twice", of_header(b'{"a":%s,"a":%s}' % (2 * (json.dumps(entry()).encode(),)), bytes(4)), ""),
    file("an unknown kind of number", of_header({"a": entry("F31")}, bytes(4)), BROKEN),
    file("a negative size", of_header({"a": entry(shape=(-1,))}, bytes(4)), BROKEN),
    file("a size beyond 64 bits", of_header({"a": entry(shape=(2**40, 2**40), offsets=(0, 4))}, bytes(4)), BROKEN),
    file("a shape of more than its bytes", of_header({"a": entry(shape=(10**9,))}, bytes(4)), BROKEN),
    file("a header of lists in lists", of_header(b"[" * 100_000), BROKEN),
    file("a header that is not UTF-8", of_header(b'{"\xff":1}'), BROKEN),
    file("a name that moves a cursor", of_header({"\x1b[2J" + OVERRIDE: entry()}, bytes(4)), "no weights that fit"),
    file("a name of 100,000 letters", of_header({"a" * 100_000: entry()}, bytes(4)), "no weights that fit"),
    pt("of float8", tensors(lambda value: value.to(torch.float8_e5m2), file="w.pt"), KINDS),
    pt("of complex numbers", tensors(lambda value: value.to(torch.complex64), file="w.pt"), KINDS),
    pt("on no device", tensors(lambda value: value.to("meta"), file="w.pt"), "fc.weight (an empty tensor [10, 64])"),
    pt("sparse", tensors(lambda value: value.to_sparse(), file="w.pt"), "fc.weight (a sparse tensor [10, 64])"),
    pt("quantised", torch_file(quantised), "fc.weight (a quantised tensor [10, 64])"),
    pt("a tensor larger than its storage", torch_file(lambda: {"fc.weight": torch.zeros(1).expand(2**40)}), ""),
    pt("NumPy's numbers of 128 bits", torch_file(lambda: {"fc.weight": np.zeros(3, np.longdouble)}), ""),
    pt("NumPy's numbers the other way round", torch_file(lambda: {"fc.weight": np.zeros((3, 3), ">f4")}), ""),
    pt("larger when it is unpacked", bomb, "is compressed"),
    pt("lists 50,000 deep", pickled(deep()), "holds no weights"),
    pt("entries by way of one another", torch_file(wide), "no weights that fit"),
    pt("a pickle cut short", pickled(b"\x80\x02]q"), "is not a checkpoint, or a broken one"),
    pt("code", pickled(pickle.dumps(partial(print, "was here"), 2)), "is never run"),
    of_student("not finite mean", "pretrained_cfg whose", **images(mean=[float("nan")] * 3)),
    of_student("no deviation", "pretrained_cfg whose", **images(std=[0.0] * 3)),
    of_student("images of a gigapixel", "pretrained_cfg whose", **images(input_size=[3, 10**9, 10**9])),
    of_student("images of no size", "pretrained_cfg whose", **images(input_size=[])),
    of_student("a crop of nothing", "pretrained_cfg whose", **images(crop_pct=0)),
    of_student("an infinite crop", "pretrained_cfg whose", **images(crop_pct=float("inf"))),
    of_student("an unknown interpolation", "is not known", **images(interpolation=f"\x1b[2J{OVERRIDE}")),
    of_student("an interpolation that is a list", "", **images(interpolation=["bilinear"])),
    of_student("1,000,000,000 classes", "needs num_classes", num_classes=10**9),
    of_student("classes that are no number", "needs num_classes", num_classes=True),
    of_student("another number of classes", "misshapen", num_classes=11),
    Case(
        "student: the name of a class is no text",
        ("predict", "student", "image.png"),
        "must be a list of names",
        student(label_names=[None] * 10),
    ),
    of_student("lists in lists as an argument", "no plain value of bounded size", model_args=nested()),
    of_student("a thousand arguments", "are the most", model_args={f"a{number}": 1 for number in range(1000)}),
    of_student("an argument that is code", "no argument's name", model_args={"__class__": 1}),
    of_student("a depth that no network has", "", model_args={"depth": 99_999, "width": 1}),
    of_student("a width that no machine holds", "", model_args={"depth": 10, "width": 100_000}),
    of_student("an architecture that moves a cursor", "is none of ours", architecture=f"\x1b[2J{OVERRIDE}"),
    of_student("lists 100,000 deep", "is not JSON", text="[" * 100_000),
    of_student("text that is not UTF-8", "is not JSON", text=b"\xff\xfe\x00"),
    of_student("a list", "is not a model's configuration", text="[]"),
    of_student("a number of 5,000 digits", "is not JSON", text='{"num_classes": ' + "9" * 5000 + "}"),
    of_student("a config.json that is a folder", "", as_folder("config.json")),
    of_student("weights that are a folder", "", as_folder("model.safetensors")),
    Case("name: of 5,000 letters", exported("a" * 5000), "aaaa"),
    Case("name: of a file, 5,000 letters", exported("a" * 5000 + ".pt"), "aaaa"),
    Case("name: with NUL", exported("a\0b.pt"), "without NUL"),
    Case("name: that moves a cursor", exported(f"me/\x1b[2J{OVERRIDE}"), "there is no such file or folder"),
    Case("name: a repository of 5,000 letters", exported("me/" + "a" * 5000), "aaaa"),
    Case("name: a repository above its user", exported("me/.."), ""),
    Case("name: a revision above its repository", exported("me/x@../../x"), "a revision is a branch"),
    Case("name: a revision of 5,000 letters", exported("me/x@" + "a" * 5000), "aaaa"),
    Case("name: a revision that is a path", exported("me/x@/etc"), "a revision is a branch"),
    Case("name: pull with a line break", ("pull", "me/x\ny", "--out", "out"), "is named USER/REPO"),
    Case("name: pull of a revision that moves a cursor", ("pull", "me/x@\x1b[2J", "--out", "o"), "a revision is"),
    Case("name: push of a file", ("push", "run", "me/x"), "is not the folder of a run", beside("run")),
    Case("name: push of 5,000 letters", ("push", "a" * 5000, "me/x"), "no longer than"),
    Case("name: push of what is not there", ("push", "nowhere\0", "me/x"), "without NUL"),
    Case("name: push to a repository of 5,000 letters", ("push", "run", "me/" + "x" * 5000), "no longer than"),
    Case("name: --push_to_hub above its user", ("train", "--setup", "digits", "--push_to_hub", "../x"), "USER/REPO"),
    Case("name: --push_to_hub with NUL", ("train", "--setup", "digits", "--push_to_hub", "me/x\0"), "without NUL"),
    *(
        Case(f"environment: {name}={value!a}", exported("w.pt"), f"{name} is", environment={name: value})
        for name, value in (
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "file:///etc"),
            ("HF_ENDPOINT", "http://["),
            ("HF_ENDPOINT", "http://127.0.0.1:99999"),
            ("HF_ENDPOINT", "http://a\x1b[2J\u202e"),
            ("HF_HUB_ETAG_TIMEOUT", "soon"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
        )
    ),
    Case("environment: HF_HOME is a file", exported("w.pt"), "is a file", beside("home"), {"HF_HOME": "home"}),
    Case("environment: HF_TOKEN of two lines", exported("w.pt"), "no such file", environment={"HF_TOKEN": "hf_a\nb"}),
    Case("name: a pipe", exported("w.pt"), "there is no such file", lambda folder: os.mkfifo(folder / "w.pt")),
]
