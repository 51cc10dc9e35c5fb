"""Weights from every source, and what is said of those that do not fit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.hub_server import COMMIT, LocalHub
from support.runs import OF_OURS, same_weights
from support.runs import SMALL_NET as NET

import overhaul as package
from overhaul import hub, models
from overhaul.hub import config as student_config
from overhaul.hub import zoo
from overhaul.setups import SETUPS, Net


@pytest.mark.parametrize("name", OF_OURS)
def test_students_are_saved_and_loaded_for_every_setup(tmp_path, name):
    setup = SETUPS[name]
    network = models.create(setup.student).to(memory_format=torch.channels_last)
    classes = [f"class {i}" for i in range(setup.student.kwargs["num_classes"])]
    hub.save(tmp_path, network, setup, classes)
    assert same_weights(hub.load(str(tmp_path)), network)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == classes and config["num_classes"] == len(classes)
    assert config["pretrained_cfg"]["mean"] == list(setup.mean)
    assert config["architecture"] == ("resnet50" if name == "imagenet_a" else f"overhaul_{setup.student.family}")
    assert all(value.is_contiguous() for value in load_file(tmp_path / "model.safetensors").values())


def test_the_release_teacher(shared):
    network = package.load(str(shared / "teachers" / "WRN28-4_cifar100.pt"))
    assert sum(p.numel() for p in network.parameters()) == 5_872_180 and not network.training


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("num_classes", "10", "needs num_classes, a number"),
        ("num_classes", None, "needs num_classes, a number"),
        ("model_args", [10], "model_args, an object"),
        ("model_args", None, "takes depth, width, num_classes"),
        ("architecture", "vit_base", "timm has no network vit_base"),
        ("pretrained_cfg", {"mean": [0.5]}, "pretrained_cfg whose input_size"),
        ("pretrained_cfg", "cifar", "pretrained_cfg whose input_size"),
    ],
)
def test_odd_configurations(tmp_path, overhaul, entry, value, words):
    hub.save(tmp_path, models.create(NET), SETUPS["digits"], list("0123456789"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, entry: value}))
    result = overhaul("evaluate", tmp_path, "--data", "digits")
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err


def test_test_images_are_resized_and_cropped_as_the_folder_says(tmp_path):
    hub.save(tmp_path, models.create(SETUPS["imagenet_b"].student), SETUPS["imagenet_b"], ["x"] * 1000)
    found = student_config.preprocessing(hub.fetch(str(tmp_path)).config, "it")
    assert (found.size, found.resize, found.interpolation) == (224, 256, "bilinear")
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875


def test_a_checkpoint_that_does_not_fit_names_the_first_of_each_fault(tmp_path):
    state = models.create("wide_resnet", depth=16, width=2, num_classes=100).state_dict()
    torch.save(state, tmp_path / "teacher.pt")
    with pytest.raises(ValueError) as error:
        hub.load(
            str(tmp_path / "teacher.pt"), Net(family="wide_resnet", kwargs={"depth": 10, "width": 2, "num_classes": 10})
        )
    message = str(error.value)
    assert "unexpected (block1.layer.1.bn1.weight, " in message
    assert "misshapen (fc.weight [100, 128] instead of [10, 128], " in message
    assert "it looks like wide_resnet depth=16 width=2 num_classes=100" in message
    with pytest.raises(ValueError, match=r"missing \(model.0.0.weight, "):
        hub.load(str(tmp_path / "teacher.pt"), Net(family="mobilenet", kwargs={"num_classes": 100}))


@pytest.mark.parametrize("source", ["nowhere.pt", "./nowhere", "/nowhere/at/all", "not a name", "a/b/c"])
def test_a_source_that_does_not_exist(source):
    with pytest.raises(ValueError, match="there is no such file or folder"):
        hub.load(source)


def test_a_folder_without_a_student(tmp_path):
    with pytest.raises(ValueError, match="neither a student nor a run"):
        hub.load(str(tmp_path))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match="has not finished yet"):
        hub.load(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "not a model's configuration"),
        ('{"architecture": "vit_base", "num_classes": 10}', "timm has no network vit_base"),
        ('{"architecture": "overhaul_wide_resnet", "num_classes": 10}', "wide_resnet takes"),
        ('{"architecture": "resnet51", "num_classes": 10}', "timm has no network resnet51"),
        ('{"architecture": "resnet50"}', "num_classes"),
        (
            '{"architecture": "overhaul_wide_resnet", "num_classes": 10, "model_args": {"depth": "10", "width": 1}}',
            "depth",
        ),
    ],
)
def test_a_configuration_that_is_not_ours(tmp_path, network, config, words):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
        hub.load(str(tmp_path))


def test_torchvision_is_for_imagenet_resnets():
    with pytest.raises(ValueError, match="ImageNet ResNets only"):
        hub.load("torchvision", NET)


def test_torchvision_weights_from_its_own_cache(tmp_path, monkeypatch):
    """The file that torchvision would download, already in its cache, under its name."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(zoo, "HASH", re.compile("no file has one"))
    theirs = torchvision.models.resnet50().eval()
    name = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    ours = hub.load("torchvision", SETUPS["imagenet_b"].teacher)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_torchvision_weights_that_are_others_than_their_name_says_are_refused(tmp_path, monkeypatch, overhaul):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth"
    file.parent.mkdir(parents=True)
    torch.save({"classifier.1.weight": torch.zeros(1000, 1280)}, file)
    result = overhaul("export", "torchvision:mobilenet_v2@IMAGENET1K_V1", "--format", "pt2", "--out", tmp_path / "x")
    assert result.status == 2 and "are others than it names" in result.err and f"{file}" in result.err


SCRIPT = """
import json, sys
from overhaul import hub
answers = {}
for source in sys.argv[1:]:
    try:
        weights = hub.fetch(source)
        hub.build(weights)
        answers[source] = [str(weights.net), weights.revision]
    except ValueError as error:
        answers[source] = str(error)
print(json.dumps(answers))
"""


def ask(endpoint: str, cache: Path, *sources: str, offline: str = "0") -> dict:
    """hub.fetch and build of each source, in a process of its own whose Hub is at the endpoint."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sources], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def test_the_hub(tmp_path, network):
    """Ours and timm's layout, by branch and by revision; every refusal; and the cache when offline."""
    hub.save(tmp_path / "me" / "digits", network, SETUPS["digits"], list("0123456789"))
    timm = tmp_path / "timm" / "resnet18.tv_in1k"
    timm.mkdir(parents=True)
    resnet = models.create("resnet", depth=18, num_classes=1000)
    save_file(resnet.state_dict(), timm / "model.safetensors")
    (timm / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "num_classes": 1000, "num_features": 512})
    )
    (tmp_path / "me" / "gated").mkdir()
    (tmp_path / "me" / "empty").mkdir()
    with LocalHub(tmp_path) as local:
        answers = ask(
            local.endpoint, tmp_path / "cache", "me/digits", "me/digits@v1", "timm/resnet18.tv_in1k", "me/digits@v9",
            "me/gated", "me/empty", "me/missing",
        )  # fmt: skip
        weights_requests = [path for _, path in local.requests if path.endswith("model.safetensors")]
    assert answers["me/digits"] == answers["me/digits@v1"] == ["wide_resnet depth=10 width=1 num_classes=10", COMMIT]
    assert answers["timm/resnet18.tv_in1k"] == ["resnet depth=18 num_classes=1000", COMMIT]
    assert answers["me/digits@v9"].endswith("it has no revision v9")
    assert "gated" in answers["me/gated"] and "lacks config.json" in answers["me/empty"]
    assert "there is no such repository, or it is private" in answers["me/missing"]
    assert all(f"/resolve/{COMMIT}/" in path for path in weights_requests), "weights must come from the config's commit"
    offline = ask(local.endpoint, tmp_path / "cache", "me/digits", "me/other", offline="1")
    assert offline["me/digits"] == answers["me/digits"]
    assert "it is not in the cache, and HF_HUB_OFFLINE" in offline["me/other"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value * float("nan"), "1 not finite numbers (fc.weight)"),
        (lambda value: value.int(), "1 not of fp16, bf16, fp32 or fp64 (fc.weight int32)"),
    ],
)
def test_weights_that_are_no_finite_numbers(tmp_path, network, change, words):
    state = {name: change(value) if name == "fc.weight" else value for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=re.escape(words)):
        hub.load(str(tmp_path / "model.safetensors"))
