"""Exported files give the original's logits in the programs that they are for, say what they are, or are not there."""

import copy
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.places import REPOSITORY
from torch import nn

from overhaul import hub, models
from overhaul.hub import config as student_config
from overhaul.hub import export as room
from overhaul.hub.export import export
from overhaul.models.wide_resnet import WideResNet
from overhaul.report.tables import exported
from overhaul.setups import SETUPS, Net

FORMS = tuple(room.LIMITS)
UMASK = os.umask(0o022)
os.umask(UMASK)
NETS = {
    "wide_resnet": {"depth": 10, "width": 1},
    "cifar_resnet": {"depth": 8},
    "pyramidnet": {"depth": 11, "alpha": 3, "bottleneck": True},
    "mobilenet": {},
    "resnet": {"depth": 18},
}


BY_ONNX = ("wide_resnet", "mobilenet")  # in the ordinary tests; an export takes up to ten seconds


def lively(net: Net) -> models.Backbone:
    """A network whose logits depend on all of it: norms unlike each other, with the statistics of random images."""
    torch.manual_seed(0)
    network = models.create(net)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 32, 32))
    return network.eval()


def small(family: str) -> Net:
    return Net(family=family, kwargs={**NETS[family], "num_classes": 7})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine the threads of layers as small as these wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def student(request, tmp_path_factory) -> Path:
    """The folder of a small student of 32-pixel images, of the family that is asked for."""
    return save(tmp_path_factory.mktemp("student"), request.param)


@pytest.fixture(scope="module")
def wrn(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("wrn"), "wide_resnet")


def save(folder: Path, family: str, **changes) -> Path:
    net = small(family)
    hub.save(folder, lively(net), replace(SETUPS["digits"], student=net, **changes), [f"{i} é" for i in range(7)])
    return folder


def open_safetensors(file: Path):
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config.json"])
    state = load_file(file)
    assert all(value.is_contiguous() for value in state.values())
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    network = models.create(student_config.net_of(config))
    network.load_state_dict(state, strict=True)
    return network.eval(), config


def open_pt2(file: Path):
    extra = {"config.json": ""}
    program = torch.export.load(file, extra_files=extra)
    assert all(value.is_contiguous() for value in program.state_dict.values())
    with ZipFile(file) as parts:
        assert not any(str(REPOSITORY).encode() in parts.read(name) for name in parts.namelist())
    return program.module(), json.loads(extra["config.json"])


def open_onnx(file: Path):
    onnx.checker.check_model(file, full_check=True)
    assert not any(value.external_data for value in onnx.load(file, load_external_data=False).graph.initializer)
    assert str(REPOSITORY).encode() not in file.read_bytes()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape[0], logits.name, logits.shape) == ("images", "batch", "logits", ["batch", 7])
    config = json.loads(session.get_modelmeta().custom_metadata_map["config.json"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), config


OPEN = {"safetensors": open_safetensors, "pt2": open_pt2, "onnx": open_onnx}


def same_logits(one, other, limit: float, size: int = 32) -> bool:
    """For batches of 1, 2 and 5 images; the limit is relative to the largest logit."""
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, size, size)
        with torch.no_grad():
            wanted, found = one(images), other(images)
        if found.shape != wanted.shape or (found - wanted).abs().max() > limit * wanted.abs().max():
            return False
    return True


def test_every_family_is_tried_here():
    assert set(NETS) == set(models.FAMILIES)


@pytest.mark.parametrize(
    ("student", "form"),
    [
        pytest.param(family, form, marks=[pytest.mark.slow] * (form == "onnx" and family not in BY_ONNX))
        for family in NETS
        for form in FORMS
    ],
    indirect=["student"],
)
def test_every_family_in_every_format(student, form, tmp_path, capfd):
    out = tmp_path / "new" / "folder" / f"student.{form}"
    answer = export(str(student), form, out)
    assert capfd.readouterr() == ("", "")
    line = exported(answer, {})
    assert line.startswith(f"{out}: {form}, ") and "[batch, 3, 32, 32] normalised with mean 0.5, 0.5, 0.5" in line
    assert answer["bytes"] == out.stat().st_size and answer["difference"] <= room.LIMITS[form]
    assert os.listdir(out.parent) == [out.name] and out.stat().st_mode & 0o777 == 0o666 & ~UMASK
    function, config = OPEN[form](out)
    assert config == json.loads((student / "config.json").read_text())
    assert same_logits(hub.load(str(student)), function, room.LIMITS[form])
    if form != "safetensors":
        with pytest.raises(Exception, match="32"):
            function(torch.randn(2, 3, 40, 40))


@pytest.mark.parametrize("form", FORMS)
def test_a_bare_file_of_half_precision_in_channels_last(form, tmp_path):
    network = lively(small("wide_resnet"))
    torch.save(network.half().to(memory_format=torch.channels_last).state_dict(), tmp_path / "weights.pt")
    line = exported(export(str(tmp_path / "weights.pt"), form, tmp_path / "out"), {})
    assert "images [batch, 3, 32, 32] normalised as in training" in line
    function, config = OPEN[form](tmp_path / "out")
    assert config == student_config.net_entries(small("wide_resnet"))
    assert same_logits(hub.load(str(tmp_path / "weights.pt")), function, room.LIMITS[form])


def test_the_release_teacher(shared, tmp_path):
    teacher, out = shared / "teachers" / "WRN28-4_cifar100.pt", tmp_path / "teacher.onnx"
    export(str(teacher), "onnx", out)
    session = onnxruntime.InferenceSession(out)
    network, images = hub.load(str(teacher)), torch.randn(7, 3, 32, 32)
    with torch.no_grad():
        wanted = network(images)
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())
    assert torch.equal(found.argmax(1), wanted.argmax(1))


def test_images_have_the_size_that_the_student_was_trained_on(tmp_path):
    save(tmp_path / "student", "cifar_resnet", image_size=48)
    assert export(str(tmp_path / "student"), "pt2", tmp_path / "out")["size"] == 48
    function, _ = OPEN["pt2"](tmp_path / "out")
    assert same_logits(hub.load(str(tmp_path / "student")), function, room.LIMITS["pt2"], size=48)


def test_a_bare_file_is_traced_with_the_size_of_its_familys_setup(tmp_path):
    torch.save(lively(small("mobilenet")).state_dict(), tmp_path / "weights.pt")
    assert export(str(tmp_path / "weights.pt"), "safetensors", tmp_path / "out")["size"] == 224


@pytest.mark.parametrize(("form", "old"), [("safetensors", None), *((form, b"old") for form in FORMS)])
def test_a_file_with_other_logits_does_not_appear(wrn, form, old, tmp_path, monkeypatch):
    """The file on disk truly holds other weights than the student."""
    right, out = room.write, tmp_path / "out"

    def wrong(form, network, *rest):
        network = copy.deepcopy(network)
        network.fc.bias.data += 0.01
        right(form, network, *rest)

    monkeypatch.setattr(room, "write", wrong)
    if old:
        out.write_bytes(old)
    with pytest.raises(ValueError, match=rf"the logits of the {form} file differ by 0\.0\d+ of the largest"):
        export(str(wrn), form, out)
    assert os.listdir(tmp_path) == (["out"] if old else []) and (not old or out.read_bytes() == old)


def test_logits_that_are_no_numbers_are_not_exported(tmp_path):
    state = lively(small("wide_resnet")).state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="differ by nan"):
        export(str(tmp_path / "weights.pt"), "safetensors", tmp_path / "out")


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_network_that_cannot_be_traced_is_one_line(wrn, form, tmp_path, monkeypatch):
    forward = WideResNet.forward
    monkeypatch.setattr(WideResNet, "forward", lambda self, x: forward(self, x if x.sum() > 0 else -x))
    with pytest.raises(ValueError, match=f"cannot be exported as {form}: ") as error:
        export(str(wrn), form, tmp_path / "out")
    assert "\n" not in str(error.value) and not os.listdir(tmp_path)


def test_formats_and_places_that_cannot_be(wrn, tmp_path):
    with pytest.raises(ValueError, match=r"--format: 'onx' is not known \(did you mean onnx\?\)"):
        export(str(wrn), "onx", tmp_path / "out")
    with pytest.raises(ValueError, match="is a folder; --out must name a file"):
        export(str(wrn), "pt2", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is no plain file"):
        export(str(wrn), "pt2", tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written: .*file"):
        export(str(wrn), "safetensors", tmp_path / "file" / "out")
    with pytest.raises(ValueError, match="cannot be written: "):
        export(str(wrn), "safetensors", tmp_path / ("long" * 100))
    with pytest.raises(ValueError, match="there is no such file or folder"):
        export("nowhere.pt", "safetensors", tmp_path / "new" / "out")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_packages(package, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(room, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ValueError, match="needs onnx, onnxscript and onnxruntime: pip install onnx onnx"):
        export("nowhere.pt", "onnx", tmp_path / "out")
