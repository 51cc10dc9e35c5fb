"""Trained weights of networks of timm, of torchvision and of a user's file; what is refused, and in which words."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from support.foreign import NETWORKS
from support.hub_client import Client
from support.hub_server import COMMIT, LocalHub
from support.runs import same_weights

from overhaul import hub, models
from overhaul.hub import config as configs
from overhaul.hub import zoo
from overhaul.models import limits
from overhaul.recipe import Net
from overhaul.setups import SETUPS
from overhaul.training import pretrained

SQUEEZE = "torchvision:squeezenet1_1"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """A user's my_net.py."""
    path = tmp_path_factory.mktemp("code") / "my_net.py"
    path.write_text(NETWORKS)
    return str(path)


@pytest.fixture(scope="module")
def by_timm():
    """timm's own resnet10t for 5 classes."""
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=5).eval()


def timm_folder(folder: Path, state: dict, **changes) -> Path:
    """In the layout of timm's repositories."""
    told = {"tag": "c3_in1k", "input_size": [3, 176, 176], "mean": [0.4] * 3, "std": [0.2] * 3, "crop_pct": 0.95}
    config = {"architecture": "resnet10t", "num_classes": 5, "num_features": 512, "pretrained_cfg": told, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    return folder


def test_repositories_of_timm(tmp_path, by_timm, monkeypatch):
    """At a pinned commit, as safetensors alone; the licence of the config.json, of the card, or as timm knows it."""
    repository = timm_folder(tmp_path / "timm" / "resnet10t.c3_in1k", by_timm.state_dict())
    pickled = timm_folder(tmp_path / "timm" / "pickled.c3_in1k", by_timm.state_dict())
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with LocalHub(tmp_path) as local:
        pull = lambda name, out: ["pull", f"timm/{name}.c3_in1k@v1", "--out", tmp_path / out]  # noqa: E731
        taken, refused = Client(local, tmp_path / "home")(pull("resnet10t", "one"), pull("pickled", "two"))
        asked = [path for _, path in local.requests if path.endswith("model.safetensors")]
    assert taken.status == 0, taken.err
    assert "pickled weights (pytorch_model.bin), which are never read from the Hub" in refused.err
    assert asked and all(f"/resolve/{COMMIT}/" in path for path in asked)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    weights = hub.fetch("timm/resnet10t.c3_in1k@v1")
    show = configs.preprocessing(weights.config, "it")
    assert (str(weights.net), weights.revision) == ("timm:resnet10t num_classes=5", COMMIT)
    assert (show.size, show.resize, show.mean[0]) == (176, 185, 0.4) and weights.licence == "apache-2.0"
    assert same_weights(hub.build(weights), by_timm) and repository.is_dir()


def test_a_folder_in_timm_s_layout(tmp_path, by_timm):
    told = {"pretrained_cfg": {"license": "apache-2.0"}, "model_args": {"in_chans": 3, "drop_rate": 0.1}}
    folder = timm_folder(tmp_path / "it", by_timm.state_dict(), architecture="resnet10t.c3_in1k", **told)
    with pytest.raises(ValueError, match="pretrained_cfg whose input_size"):
        hub.load(str(folder))
    del told["pretrained_cfg"]
    weights = hub.fetch(str(timm_folder(tmp_path / "it", by_timm.state_dict(), **told)))
    assert weights.net == Net(family="timm:resnet10t", kwargs={"drop_rate": 0.1, "num_classes": 5})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(hub.build(weights)(images), by_timm(images))


def test_resnets_are_ours_unless_they_differ(tmp_path):
    assert configs.net_of({"architecture": "resnet18", "num_classes": 5}).family == "resnet"
    plain = {"architecture": "resnet18", "num_classes": 5, "model_args": {"in_chans": 3, "global_pool": "avg"}}
    assert configs.net_of(plain).family == "resnet"
    assert configs.net_of(plain, Net(family="timm:resnet18")).family == "timm:resnet18"
    wide = {"architecture": "resnet18", "num_classes": 5, "model_args": {"stem_width": 32, "stem_type": "deep"}}
    assert configs.net_of(wide).family == "timm:resnet18"
    assert configs.net_of({"architecture": "resnet26", "num_classes": 5}).family == "timm:resnet26"


def test_names_that_timm_had_before_are_read(tmp_path):
    """torchvision's DenseNet, whose files have the names of its first release, in both libraries."""
    theirs = torchvision.models.densenet121(num_classes=5).eval()
    old = {name.replace("norm1", "norm.1").replace("conv2.", "conv.2."): v for name, v in theirs.state_dict().items()}
    torch.save(old, tmp_path / "densenet.pth")
    images = torch.randn(1, 3, 64, 64)
    for family in ("torchvision:densenet121", "timm:densenet121"):
        with torch.no_grad():
            found = hub.load(str(tmp_path / "densenet.pth"), Net(family=family))(images)
            torch.testing.assert_close(found, theirs(images), rtol=1e-4, atol=1e-4)


def test_torchvision_s_own_weights(tmp_path, monkeypatch):
    """The file that it would download, in its cache; its classes, images and arguments."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(zoo, "HASH", re.compile("no file has one"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for name, more in (("squeezenet1_1", {}), ("googlenet", {"transform_input": True, "init_weights": False})):
        theirs = torchvision.models.get_model(name, weights=None, **more).eval()
        entry = torchvision.models.get_model_weights(name).DEFAULT
        torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / entry.url.rpartition("/")[2])
        source = f"torchvision:{name}@DEFAULT"
        assert hub.at_commit(source) == f"torchvision:{name}@IMAGENET1K_V1"
        weights = hub.fetch(source, Net(family=f"torchvision:{name}"))
        show = configs.preprocessing(weights.config, source)
        assert (show.size, show.resize, show.interpolation) == (224, 256, "bilinear") and show.std[0] == 0.229
        assert configs.class_names(weights.config)[1] == "goldfish" and weights.net.kwargs["num_classes"] == 1000
        images = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(hub.build(weights)(images), theirs(images))
        assert configs.net_of(weights.config) == weights.net


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("torchvision:mobilenet_v2@IMAGENET1K_V9", "it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("torchvision:mobilenet_v2", "is a network without trained weights|no such file or folder"),
        ("torchvision:mobilnet_v2@DEFAULT", "the nearest are mobilenet_v2"),
    ],
)
def test_entries_that_torchvision_lacks(source, words):
    with pytest.raises(ValueError, match=words) as error:
        hub.fetch(source)
    assert "\n" not in str(error.value)


def prefixed(state: dict) -> dict:
    return {"state_dict": {f"module.model.{name}": value for name, value in state.items()}, "epoch": 3}


def headed(state: dict) -> dict:
    return {"model": {name.replace("fc.", "head.fc."): value for name, value in state.items()}}


@pytest.mark.parametrize("write", [dict, prefixed, headed])
def test_bare_files_of_a_named_network(tmp_path, by_timm, write):
    torch.save(write(by_timm.state_dict()), tmp_path / "file.pt")
    weights = hub.fetch(str(tmp_path / "file.pt"), Net(family="timm:resnet10t"))
    assert weights.net.kwargs == {"num_classes": 5} and same_weights(hub.build(weights), by_timm)
    assert any("is called head.fc" in note for note in weights.notes) == (write is headed)
    with pytest.raises(ValueError, match=r"timm:NAME, torchvision:NAME or FILE\.py:FUNCTION as --student") as error:
        hub.fetch(str(tmp_path / "file.pt"), None, SETUPS["cifar_c"].teacher)
    assert "\n" not in str(error.value)


def test_functions_of_a_file(tmp_path, file):
    for name, classes, layers in (("make_net", 5, ("aside", "out.1")), ("by_hand", 5, ("aside", "out.1"))):
        net = Net(family=f"{file}:{name}", kwargs={"num_classes": classes})
        assert (models.classifier(net), models.class_layers(net), models.classes_of(net)) == ("out.1", layers, 5)
        network = models.create(net)
        torch.save(prefixed(network.state_dict()), tmp_path / "file.pt")
        weights = hub.fetch(str(tmp_path / "file.pt"), replace(net, kwargs={}))
        assert weights.net == net and same_weights(hub.build(weights), network)
    fixed = Net(family=f"{file}:fixed")
    assert (models.classifier(fixed), models.class_layers(fixed), models.classes_of(fixed)) == ("out.1", ("out.1",), 7)
    torch.save(models.create(fixed).state_dict(), tmp_path / "file.pt")
    assert hub.fetch(str(tmp_path / "file.pt"), fixed).net.kwargs == {"num_classes": 7}


@pytest.mark.parametrize(
    ("name", "last", "layers"),
    [
        ("torchvision:googlenet", "fc", ("aux1.fc2", "aux2.fc2", "fc")),
        (SQUEEZE, "classifier.1", ("classifier.1",)),
        ("torchvision:vgg11", "classifier.6", ("classifier.6",)),
        ("torchvision:regnet_y_400mf", "fc", ("fc",)),
        ("timm:repvit_m0_9", "head.head.l", ("head.head.l", "head.head_dist.l")),
        ("timm:resnetv2_50", "head.fc", ("head.fc",)),
    ],
)
def test_the_layers_of_the_classes(name, last, layers):
    net = Net(family=name, kwargs={"num_classes": 4})
    assert (models.classifier(net), models.class_layers(net), models.classes_of(net)) == (last, layers, 4)


def start(student: Net, weights, classes: list[str]):
    setup = replace(SETUPS["digits"], student=replace(student, kwargs={**student.kwargs, "num_classes": len(classes)}))
    torch.manual_seed(1)
    network, notes = models.create(setup.student), []
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pretrained.start_from(network, weights, setup, classes, notes)
    return before, network.state_dict(), notes


def test_a_student_starts_from_weights_but_for_its_class_layers(tmp_path, file):
    net = Net(family=f"{file}:make_net")
    torch.save(models.create(net, num_classes=5).state_dict(), tmp_path / "file.pt")
    weights = hub.fetch(str(tmp_path / "file.pt"), net)
    before, after, notes = start(net, weights, list("abc"))
    for name, value in after.items():
        fresh = name.startswith(("aside.", "out.1."))
        assert torch.equal(value, before[name] if fresh else weights.state[name].float())
    assert "but for aside, out.1, which are fresh: it knows 5 classes and the data have 3" in notes[-1]
    named = replace(weights, config={"label_names": list("edcba"), "num_classes": 5})
    _, after, _ = start(net, named, list("abcde"))
    assert torch.equal(after["out.1.bias"], weights.state["out.1.bias"].flip(0))


def test_weights_that_fit_all_but_more_than_the_last_layer_are_told_by_their_tensors(tmp_path, by_timm):
    state = {**by_timm.state_dict(), "layer4.0.conv2.weight": torch.zeros(2, 3)}
    del state["layer1.0.bn1.bias"]
    torch.save(state, tmp_path / "file.pt")
    with pytest.raises(ValueError) as error:
        hub.fetch(str(tmp_path / "file.pt"), Net(family="timm:resnet10t"))
    for words in (
        "1 missing (layer1.0.bn1.bias)",
        "1 misshapen (layer4.0.conv2.weight [2, 3] instead of [512, 512, 3, 3])",
    ):
        assert words in str(error.value) and "\n" not in str(error.value)


FILE = {"function": "make_net", "file": "my_net.py", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_args": {"pretrained": True}}, "has pretrained, which no config.json may set"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "has checkpoint_path, which"),
        ({"model_args": {"pretrained_cfg": {"file": "/etc/passwd"}}}, "has pretrained_cfg, which"),
        ({"model_args": {"pretrained_cfg_overlay": {"url": "x"}}}, "has pretrained_cfg_overlay, which"),
        ({"model_args": {"cache_dir": "/tmp"}}, "has cache_dir, which"),
        ({"model_args": {"scriptable": True}}, "has scriptable, which"),
        ({"model_args": {"features_only": True}}, "has features_only, which"),
        (
            {"architecture": "overhaul_torchvision", "model_args": {"name": "resnet18", "weights": "DEFAULT"}},
            "weights, wh",
        ),
        ({"architecture": "overhaul_torchvision", "model_args": {"name": "../x"}}, "no plain value"),
        (
            {"architecture": "overhaul_torchvision", "model_args": {"name": "resnet19"}},
            "torchvision has no network resnet19",
        ),
        ({"architecture": "overhaul_torchvision"}, "torchvision has no network None"),
        ({"model_args": {"block_args": {"a": 1}}}, "is no plain value of bounded size"),
        ({"model_args": {"layers": [1] * 65}}, "is no plain value of bounded size"),
        ({"model_args": {"layers": [10**9, 1, 1, 1]}}, "is no plain value of bounded size"),
        ({"model_args": {"layers": [90_000, 1, 1, 1]}}, "or a short list of them"),
        ({"model_args": {"channels": [2048] * 4, "layers": [2000] * 4}}, "larger than any network that is read"),
        ({"model_args": {"drop_rate": float("nan")}}, "is no plain value of bounded size"),
        ({"model_args": {"__class__": 1}}, "which is no argument's name"),
        ({"model_args": {"act_layer": "relu\n; import os"}}, "is no plain value of bounded size"),
        ({"model_args": {"in_chans": 1}}, "it takes images of 1 channels"),
        ({"model_args": {"depht": 3}}, "timm:resnet10t takes no argument depht"),
        ({"architecture": "hf-hub:me/x"}, "the architecture hf-hub:me/x is none of ours"),
        ({"architecture": "local-dir:/etc"}, "is none of ours"),
        ({"architecture": ["resnet10t"]}, "is none of ours"),
        ({"architecture": "overhaul_nothing"}, "is none of ours"),
        ({"num_classes": 10**9}, "needs num_classes, a number"),
        ({"num_classes": 0}, "has no classifier"),
        (
            {"architecture": "overhaul_file", "model_args": FILE},
            "the function my_net.py:make_net, .* say --net FILE.py:FUNC",
        ),
        ({"architecture": "overhaul_file", "model_args": [1]}, r"the function \?:\?, .* say --net FILE.py:FUNCTION"),
    ],
)
def test_hostile_configurations(tmp_path, by_timm, config, words, monkeypatch):
    began = time.monotonic()
    folder = timm_folder(tmp_path / "it", {"fc.weight": torch.zeros(1)}, **config)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    monkeypatch.setattr(limits, "MOST_TENSORS", 2000)  # for the seconds that they take
    with pytest.raises(ValueError, match=words) as error:
        hub.load(str(folder))
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{folder} cannot be loaded: ")
    assert time.monotonic() - began < 60


def test_a_file_s_student_needs_the_function_that_the_user_names(tmp_path, file):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    told = {"architecture": "overhaul_file", "num_classes": 7, "model_args": {**FILE, "file": file}}
    (tmp_path / "config.json").write_text(json.dumps(told))
    for net in (None, Net(family="timm:resnet10t"), Net(family="wide_resnet")):
        with pytest.raises(ValueError, match="code is run from no file but one that you name: say --net"):
            hub.load(str(tmp_path), net)
    network = models.create(Net(family=f"{file}:fixed"))
    save_file(hub.students.plain_state(network), tmp_path / "model.safetensors")
    weights = hub.fetch(str(tmp_path), Net(family=f"{file}:fixed"))
    assert same_weights(hub.build(weights), network)
    assert weights.notes == (f"{file}:fixed is not the code that the weights were saved with",)
    with pytest.raises(ValueError, match="does not fit"):
        hub.load(str(tmp_path), Net(family=f"{file}:make_net", kwargs={"width": 3}))


def test_without_timm(tmp_path, by_timm, monkeypatch):
    import sys

    folder = timm_folder(tmp_path / "it", by_timm.state_dict())
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm is not installed, so timm:resnet10t cannot be made: pip install timm"):
        hub.load(str(folder))


@pytest.mark.parametrize("change", [lambda value: value * float("nan"), lambda value: value[:2]])
def test_weights_that_cannot_be(tmp_path, by_timm, change):
    state = {name: change(value) if name == "fc.bias" else value for name, value in by_timm.state_dict().items()}
    with pytest.raises(ValueError, match=r"\(fc.bias") as error:
        hub.load(str(timm_folder(tmp_path / "it", state)))
    assert "\n" not in str(error.value)
