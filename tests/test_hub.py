"""Weights from every source, and what is said of those that do not fit."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import COMMIT, LocalHub
from safetensors.torch import load_file, save_file

import overhaul as package
from overhaul import hub, models
from overhaul.setups import SETUPS, Net

NET = Net(family="wide_resnet", kwargs={"depth": 10, "width": 1, "num_classes": 10})


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.create(NET).eval()


def same(one, other) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


FORMATS = {
    "model.pt": lambda state: {"model": state, "epoch": 3},
    "module.tar": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "bare.pth": lambda state: state,
    "module-under-model.pt": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "with-a-score.tar": lambda state: {"state_dict": state, "best_err1": np.float64(15.6), "best_err5": np.float32(3)},
    "ancient.pth": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("given", [NET, None], ids=["net given", "net recognised"])
def test_checkpoint_files_in_the_release_formats(tmp_path, network, name, given):
    torch.save(FORMATS[name](network.state_dict()), tmp_path / name)
    assert same(hub.load(str(tmp_path / name), given), network)


def test_a_legacy_torch_file(tmp_path, network):
    torch.save({"model": network.state_dict()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(hub.load(str(tmp_path / "old.pt")), network)


def test_safetensors(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert same(hub.load(str(tmp_path / "model.safetensors")), network)


@pytest.mark.parametrize("name", SETUPS)
def test_students_are_saved_and_loaded_for_every_setup(tmp_path, name):
    setup = SETUPS[name]
    network = models.create(setup.student).to(memory_format=torch.channels_last)
    classes = [f"class {i}" for i in range(setup.student.kwargs["num_classes"])]
    hub.save(tmp_path, network, setup, classes)
    assert same(hub.load(str(tmp_path)), network)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == classes and config["num_classes"] == len(classes)
    assert config["pretrained_cfg"]["mean"] == list(setup.mean)
    assert config["architecture"] == ("resnet50" if name == "imagenet_a" else f"overhaul_{setup.student.family}")
    assert all(value.is_contiguous() for value in load_file(tmp_path / "model.safetensors").values())


def test_the_release_teacher(shared):
    network = package.load(str(shared / "teachers" / "WRN28-4_cifar100.pt"))
    assert sum(p.numel() for p in network.parameters()) == 5_872_180 and not network.training


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/overhaul-was-here",)


def broken(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    state = models.create(NET).state_dict()
    if name == "code.pt":
        torch.save({"model": state, "extra": Payload()}, path)
    elif name == "code.pkl.pt":
        path.write_bytes(pickle.dumps(Payload()))
    elif name == "text.pt":
        path.write_text("not a checkpoint")
    elif name == "empty.pt":
        path.write_bytes(b"")
    elif name == "half.pt":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "list.pt":
        torch.save([1, 2, 3], path)
    elif name == "optimizer.pt":
        torch.save({"state_dict": {"lr": 0.1}}, path)
    elif name == "text.safetensors":
        path.write_text("not a checkpoint")
    elif name == "other.pt":
        torch.save({"conv.weight": torch.zeros(3, 3)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("code.pt", "holds pickled code"),
        ("code.pkl.pt", "holds pickled code"),
        ("text.pt", "is not a checkpoint"),
        ("empty.pt", "is not a checkpoint"),
        ("half.pt", "is not a checkpoint, or a broken one"),
        ("list.pt", "holds no weights"),
        ("optimizer.pt", "holds no weights"),
        ("text.safetensors", "is not a safetensors file"),
        ("other.pt", "fit none of our families"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, words):
    with pytest.raises(ValueError, match=words) as error:
        hub.load(str(broken(tmp_path, name)))
    assert "\n" not in str(error.value)
    assert not Path("/tmp/overhaul-was-here").exists()


def test_a_checkpoint_that_does_not_fit_names_the_first_of_each_fault(tmp_path):
    state = models.create("wide_resnet", depth=16, width=2, num_classes=100).state_dict()
    torch.save(state, tmp_path / "teacher.pt")
    with pytest.raises(ValueError) as error:
        hub.load(
            str(tmp_path / "teacher.pt"), Net(family="wide_resnet", kwargs={"depth": 10, "width": 2, "num_classes": 10})
        )
    message = str(error.value)
    assert "unexpected (block1.layer.1.bn1.weight)" in message
    assert "misshapen (fc.weight [100, 128] instead of [10, 128])" in message
    assert "it looks like wide_resnet depth=16 width=2 num_classes=100" in message
    with pytest.raises(ValueError, match=r"missing \(conv1.weight\)|missing \(model.0.0.weight\)"):
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
        ('{"architecture": "vit_base", "num_classes": 10}', "none of ours"),
        ('{"architecture": "overhaul_wide_resnet", "num_classes": 10}', "wide_resnet takes"),
        ('{"architecture": "resnet51", "num_classes": 10}', "depth must be one of"),
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
    theirs = torchvision.models.resnet50().eval()
    name = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(theirs.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    ours = hub.load("torchvision", SETUPS["imagenet_b"].teacher)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


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
    assert "there is no such file, folder or repository" in answers["me/missing"]
    assert all(f"/resolve/{COMMIT}/" in path for path in weights_requests), "weights must come from the config's commit"
    offline = ask(local.endpoint, tmp_path / "cache", "me/digits", "me/other", offline="1")
    assert offline["me/digits"] == answers["me/digits"]
    assert "the Hub cannot be reached" in offline["me/other"]
