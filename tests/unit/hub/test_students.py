"""Students of timm, of torchvision and of a file: written, read back, and loaded by the libraries themselves."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from support.foreign import NETWORKS
from torch import nn

from overhaul import hub, models
from overhaul.recipe import Net
from overhaul.setups import SETUPS

CLASSES = list("abcdefg")
ROW = replace(SETUPS["imagenet_b"], image_size=40, test_resize=46)


def lively(network: nn.Module, size: int = 40) -> nn.Module:
    """With norms unlike each other and the statistics of random images, so that the logits depend on all of it."""
    torch.manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(8, 3, size, size))
    return network.eval()


NETS = {
    "timm": Net(family="timm:resnet10t", kwargs={"stem_width": 16}),
    "torchvision": Net(family="torchvision:squeezenet1_1"),
    "file": Net(family="my_net.py:make_net", kwargs={"width": 6}),
}


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """student(kind): its .net, .network, .folder and .logits of .images."""
    root, made = tmp_path_factory.mktemp("students"), {}
    (root / "my_net.py").write_text(NETWORKS)

    def make(kind: str) -> SimpleNamespace:
        if kind not in made:
            net = NETS[kind]
            family = net.family.replace("my_net", f"{root}/my_net")
            net = replace(net, family=family, kwargs={**net.kwargs, "num_classes": 7})
            network, images = lively(models.create(net, 40)), torch.randn(2, 3, 40, 40)
            hub.save(root / kind, network, replace(ROW, student=net), CLASSES)
            with torch.no_grad():
                logits = network(images)
            made[kind] = SimpleNamespace(
                net=net, network=network, folder=root / kind, images=images, logits=logits, root=root
            )
        return made[kind]

    return make


@pytest.mark.parametrize("kind", NETS)
def test_a_student_comes_back_as_it_was(student, kind):
    ours = student(kind)
    named = replace(ours.net, kwargs={}) if kind == "file" else None
    network = hub.load(str(ours.folder), named)
    assert network.image_size == 40, "features are looked for at the size that it was trained at"
    with torch.no_grad():
        assert torch.equal(network(ours.images), ours.logits)
    state, plain = load_file(ours.folder / "model.safetensors"), ours.network.bare.state_dict()
    assert set(state) == set(plain)
    kinds = {name: torch.float32 if value.is_floating_point() else value.dtype for name, value in plain.items()}
    assert {name: value.dtype for name, value in state.items()} == kinds
    if kind == "file":
        assert "passing" not in state and state["whole"].dtype == torch.float32
        assert network.bare.again is network.bare.more[0].weight


def test_timm_and_transformers_load_a_timm_student_without_anything_of_ours(student):
    from transformers import AutoModelForImageClassification, pipeline

    ours = student("timm")
    config = json.loads((ours.folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("resnet10t", 7, 512)
    assert config["model_args"] == {"stem_width": 16} and config["label_names"] == CLASSES
    told = config["pretrained_cfg"]
    assert (told["classifier"], told["first_conv"], told["pool_size"]) == ("fc", "conv1.0", None)
    assert (told["license"], told["input_size"], told["interpolation"]) == ("mit", [3, 40, 40], "bilinear")
    theirs = timm.create_model(f"local-dir:{ours.folder}", pretrained=True).eval()
    model = AutoModelForImageClassification.from_pretrained(ours.folder).eval()
    with torch.no_grad():
        assert torch.equal(theirs(ours.images), ours.logits)
        torch.testing.assert_close(model(ours.images).logits, ours.logits, rtol=1e-5, atol=1e-5)
    assert model.config.id2label[6] == "g"
    assert pipeline("image-classification", model=str(ours.folder)).model.num_labels == 7


def test_torchvision_loads_a_torchvision_student_and_timm_after_our_import(student):
    import overhaul.timm_models  # noqa: F401

    ours = student("torchvision")
    theirs = torchvision.models.squeezenet1_1(num_classes=7).eval()
    theirs.load_state_dict(load_file(ours.folder / "model.safetensors"), strict=True)
    by_timm = timm.create_model(f"local-dir:{ours.folder}", pretrained=True).eval()
    fewer = timm.create_model(f"local-dir:{ours.folder}", pretrained=True, num_classes=3).eval()
    with torch.no_grad():
        assert torch.equal(theirs(ours.images), ours.logits) and torch.equal(by_timm(ours.images), ours.logits)
        assert fewer(ours.images).shape == (2, 3)
    assert torch.equal(fewer.features[0].weight, theirs.features[0].weight) and by_timm.num_features == 512
