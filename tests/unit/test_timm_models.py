"""Students in timm and in transformers: ResNets with nothing of ours imported, the others after one import."""

import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.hub_server import LocalHub
from support.places import REPOSITORY

from overhaul import catalogue, distill, hub, models, timm_models
from overhaul.data.decoding import centre
from overhaul.data.loaders import Normalize
from overhaul.setups import SETUPS, Net

NETS = {
    "wide_resnet": {"depth": 10, "width": 1},
    "cifar_resnet": {"depth": 8},
    "pyramidnet": {"depth": 11, "alpha": 5, "bottleneck": True},
    "pyramidnet basic": {"depth": 8, "alpha": 5, "bottleneck": False},
    "mobilenet": {},
    "resnet": {"depth": 18},
}
CLASSES = [f"class {letter}" for letter in "abcdefg"]
LIKE = replace(SETUPS["imagenet_b"], image_size=40, test_resize=46)
WRN = {"depth": 10, "width": 1, "num_classes": 7}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """student(name): the .folder of a student of NETS, the .network in it, and its .logits of .images."""
    made = {}

    def make(name: str) -> SimpleNamespace:
        if name not in made:
            torch.manual_seed(0)
            setup = replace(LIKE, student=Net(family=name.split()[0], kwargs={**NETS[name], "num_classes": 7}))
            network = models.create(setup.student)
            with torch.no_grad():
                for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
                    norm.weight.uniform_(0.5, 1.5)
                    norm.bias.uniform_(-0.5, 0.5)
                for _ in range(3):
                    network.train()(1 + 2 * torch.randn(4, 3, 40, 40))
                network.fc.weight *= 5
                images = torch.randn(2, 3, 40, 40)
                logits = network.eval()(images)
            folder = tmp_path_factory.mktemp("hub") / "me" / name.replace(" ", "_")
            hub.save(folder, network, setup, CLASSES)
            made[name] = SimpleNamespace(folder=folder, network=network, images=images, logits=logits)
        return made[name]

    return make


def ours_in_timm(**changes):
    return timm.create_model("overhaul_wide_resnet", **{**WRN, **changes})


def test_every_family_is_tried_here():
    assert {name.split()[0] for name in NETS} == set(models.FAMILIES)


@pytest.mark.parametrize("name", NETS)
def test_timm_loads_a_student(student, name):
    ours = student(name)
    theirs = timm.create_model(f"local-dir:{ours.folder}", pretrained=True).eval()
    assert list(theirs.state_dict()) == list(ours.network.state_dict())
    with torch.no_grad():
        features = theirs.forward_features(ours.images)
        assert features.shape[:2] == (2, theirs.num_features) and theirs.num_features == theirs.head_hidden_size
        for logits in (theirs(ours.images), theirs.forward_head(features)):
            torch.testing.assert_close(logits, ours.logits, rtol=1e-5, atol=1e-5)
        pooled = theirs.forward_head(features, pre_logits=True)
        torch.testing.assert_close(theirs.get_classifier()(pooled), ours.logits, rtol=1e-5, atol=1e-5)
    assert theirs.num_classes == 7 and theirs.pretrained_cfg["label_names"] == CLASSES
    data = timm.data.resolve_model_data_config(theirs)
    assert (data["input_size"], data["interpolation"], data["mean"]) == ([3, 40, 40], "bilinear", list(LIKE.mean))


@pytest.mark.parametrize("name", ["wide_resnet", "resnet"])
def test_a_missing_tensor_is_an_error(student, tmp_path, name):
    folder = student(name).folder
    state = load_file(folder / "model.safetensors")
    del state["conv1.weight"]
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"conv1.weight\""):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_student_with_other_classes_keeps_the_rest(student):
    ours = student("mobilenet")
    source = f"local-dir:{ours.folder}"
    five, none = (timm.create_model(source, pretrained=True, num_classes=classes).eval() for classes in (5, 0))
    with torch.no_grad():
        assert five(ours.images).shape == (2, 5)
        torch.testing.assert_close(ours.network.fc(none(ours.images)), ours.logits, rtol=1e-5, atol=1e-5)


def test_a_fresh_network_says_what_it_is():
    network = ours_in_timm(width=2, in_chans=3, drop_rate=0.0)
    assert (network.num_classes, network.num_features, network.default_cfg["classifier"]) == (7, 128, "fc")
    assert timm.data.resolve_model_data_config(network)["input_size"] == (3, 32, 32)
    torch.testing.assert_close(pickle.loads(pickle.dumps(network)).state_dict(), network.state_dict())
    with pytest.raises(RuntimeError, match="No pretrained weights exist for overhaul_wide_resnet"):
        ours_in_timm(pretrained=True)


def test_the_classifier_is_replaced():
    network, images = ours_in_timm().double(), torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    for classes, columns in ((5, 5), (0, 64), (3, 3)):
        network.reset_classifier(classes)
        assert network.num_classes == classes and network(images).shape == (1, columns)
    with pytest.raises(ValueError, match="cannot have global_pool='max'"):
        network.reset_classifier(3, "max")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_chans": 1}, "overhaul_wide_resnet cannot have in_chans=1, only 3"),
        ({"drop_rate": 1.5}, "cannot have drop_rate=1.5"),
        ({"drop_path_rate": 0.5}, "cannot have drop_path_rate=0.5, only 0.0"),
        ({"global_pool": "max"}, "cannot have global_pool='max'"),
        ({"global_pool": ""}, "cannot have global_pool='' and num_classes=7"),
        ({"depth": 17}, "depth must be 6n"),
        ({"alpha": 3}, "takes depth, width, num_classes"),
    ],
)
def test_what_a_network_cannot_have_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ours_in_timm(**changes)


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    monkeypatch.delitem(sys.modules, "overhaul.timm_models")
    with pytest.raises(ImportError, match=r"^overhaul\.timm_models needs timm: pip install timm$"):
        importlib.import_module("overhaul.timm_models")


SCRIPT = """
import json, sys
import timm, torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline

root, *names = sys.argv[1:]
images, answers = load_file(f"{root}/images.safetensors")["images"], {}
for name in names:
    if name == names[0]:
        assert not [module for module in sys.modules if module.split(".")[0] == "overhaul"]
    else:
        import overhaul.timm_models
    repository = f"me/{name}"
    model, loading = AutoModelForImageClassification.from_pretrained(repository, output_loading_info=True)
    assert not any(loading.values()), loading
    by_timm = timm.create_model(f"hf-hub:{repository}@v1", pretrained=True)
    classifier = pipeline("image-classification", model=repository)
    with torch.inference_mode():
        logits = [model.eval()(images).logits.tolist(), by_timm.eval()(images).tolist()]
    answers[name] = {"logits": logits, "top": classifier(Image.open(f"{root}/image.png"), top_k=7)}
print(json.dumps(answers))
"""


def test_transformers_and_the_hub(student, tmp_path):
    """A ResNet first, in a process that has nothing of ours; then another family."""
    names = ["resnet", "mobilenet"]  # whose tensors are called model.*, as a part of many a model in transformers
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((131, 97), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png")
    save_file({"images": student("resnet").images}, tmp_path / "images.safetensors")
    (tmp_path / "me").mkdir()
    for name in names:
        (tmp_path / "me" / name).symlink_to(student(name).folder)
    with LocalHub(tmp_path) as local:
        environment = {"HF_ENDPOINT": local.endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), *names]
        result = subprocess.run(
            command, env={**os.environ, **environment}, cwd=tmp_path, capture_output=True, text=True
        )
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout.splitlines()[-1])
    decoded = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    shown = Normalize(LIKE.mean, LIKE.std, "cpu")(centre(decoded, LIKE.image_size, LIKE.test_resize)[None])
    for name in names:
        network = student(name).network
        with torch.no_grad():
            shares = network(shown).softmax(1)[0]
            logits = network(student("resnet").images)
        for theirs in answers[name]["logits"]:
            torch.testing.assert_close(torch.tensor(theirs), logits, rtol=1e-5, atol=1e-5)
        top = answers[name]["top"]
        assert [entry["label"] for entry in top] == [CLASSES[i] for i in shares.argsort(descending=True)]
        scores = torch.tensor([entry["score"] for entry in top])
        torch.testing.assert_close(scores, shares.sort(descending=True).values, rtol=0, atol=5e-3)


class Own(models.Backbone):
    """A family of a user's own: its classifier is no `fc`, nor its last module, its norm no BatchNorm."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, 2, padding=1)
        self.norm = torch.nn.GroupNorm(1, width)
        self.head = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Linear(width, num_classes))
        self.gate = torch.nn.Linear(width, width)

    def forward_stages(self, images):
        feature = self.norm(self.stem(images))
        feature = feature * self.gate(feature.mean((2, 3))).sigmoid()[..., None, None]
        return models.Stages(self.head(feature.relu().mean((2, 3))), [feature])

    @property
    def norms(self):
        return [self.norm]


@pytest.fixture(scope="module")
def own_family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "overhaul.models.own", SimpleNamespace(Network=Own))
        patch.setattr(models, "FAMILIES", (*models.FAMILIES, "own"))
        files = catalogue.files
        source = {"own": f"{inspect.getsource(Own)}\n\nNetwork = Own\n"}
        patch.setattr(catalogue, "files", lambda *what: files(*what) | (source if what[0] == "models" else {}))
        timm_models.register("overhaul_own", timm_models.class_of("own"))
        yield Net(family="own", kwargs={"width": 6, "num_classes": 7})
    timm.models._registry._model_entrypoints.pop("overhaul_own")


def test_a_network_of_ones_own_is_loaded_by_timm_whatever_its_classifier_is_called(tmp_path, own_family):
    network = models.create(own_family).eval()
    hub.save(tmp_path, network, replace(LIKE, student=own_family), CLASSES)
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["classifier"] == "head.1"
    images = torch.randn(2, 3, 40, 40)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(theirs(images), network(images))
    fewer = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3).eval()
    assert fewer(images).shape == (2, 3) and torch.equal(fewer.stem.weight, network.stem.weight)
    assert torch.equal(theirs.forward_head(theirs.forward_features(images)).argmax(1), network(images).argmax(1))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()(images)
    assert len(features) == 1 and torch.equal(features[0], network.forward_stages(images).features[0])


def test_networks_without_batch_norms_learn_and_teach(own_family):
    own, other = models.create(own_family), models.create(own_family)
    model = distill.METHODS["overhaul"](own, distill.as_teacher(other))
    images = torch.randn(2, 3, 8, 8)
    stages = other.forward_stages(images)
    assert model(images, stages)[1].isnan() and list(model.measured) == [0]
    model.set_margins(distill.measured([stages.features]))
    logits, loss = model(images, stages)
    assert logits.shape == (2, 7) and loss > 0
