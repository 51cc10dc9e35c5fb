"""The rows for images and networks of one's own: a teacher, and a student that learns from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from overhaul.hub import Weights, card
from overhaul.hub.config import images_entry, read_config
from overhaul.recipe import Net, Preprocessing
from overhaul.run.folder import RunFolder
from overhaul.setups import SETUPS
from overhaul.training.pretrained import with_images

SMALL = ["--student.family", "wide_resnet", "--student.kwargs", '{"depth": 10, "width": 1}']
SHOWN = ["--image_size", "16", "--test_resize", "18", "--mean", "[0.4, 0.5, 0.6]", "--std", "[0.5, 0.6, 0.7]"]


def test_a_teacher_and_a_student_that_sees_images_as_its_weights_do(overhaul, few_digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = ["--data_path", few_digits, "--epochs", "1", "--batch_size", "48"]
    result = overhaul("train", "--setup", "own_teacher", *usual, *SMALL, *SHOWN)
    assert result.status == 0, result.err
    teacher = Path("runs/own_teacher-original-seed0")
    again = overhaul("train", *usual, "--student", teacher, "--teacher", teacher, "--crop_area", "[0.5, 1]")
    assert again.status == 0, again.err
    folder = RunFolder(Path("runs/own-overhaul-seed0"))
    config, (record, metrics) = yaml.safe_load(folder.config_file.read_text()), folder.read()
    assert (config["image_size"], config["test_resize"], config["mean"]) == (16, 18, [0.4, 0.5, 0.6])
    assert record["data"]["name"] == Path(few_digits).name and record["setup"] == "own" and not record["published"]
    shown = read_config(folder.student("final") / "config.json")
    text = card.render(record, metrics, shown, "me/own", "final", 1)
    assert f"distilled on {Path(few_digits).name} (10 classes, 96 training and 40 test images)" in text
    assert shown["pretrained_cfg"]["input_size"] == [3, 16, 16] and "ImageNet" not in text
    assert json.loads(json.dumps(record)) == record


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THEIRS = Preprocessing(96, 120, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
NET = Net(family="wide_resnet", kwargs={"depth": 10, "width": 1, "num_classes": 3})


@pytest.mark.parametrize(
    ("student", "config", "named", "wanted"),
    [
        (Net(family="timm:inception_v4"), None, {}, (299, 341, (0.5,) * 3, (0.5,) * 3)),
        (Net(family="timm:inception_v4"), None, {"image_size": 96}, (96, 109, (0.5,) * 3, (0.5,) * 3)),
        (Net(family="my_net.py:f"), None, {}, (224, 224, *IMAGENET)),
        (NET, None, {"image_size": 64, "mean": (0.5,) * 3}, (64, 64, (0.5,) * 3, IMAGENET[1])),
        (Net(weights="x"), THEIRS, {}, (96, 120, THEIRS.mean, THEIRS.std)),
        (Net(weights="x"), THEIRS, {"test_resize": 100, "std": (1,) * 3}, (96, 100, THEIRS.mean, (1,) * 3)),
        (Net(weights="torchvision:mobilenet_v2@DEFAULT"), {}, {}, (224, 232, *IMAGENET)),
    ],
)
def test_images_are_shown_as_the_student_wants_them_unless_they_are_named(student, config, named, wanted):
    entries = {"pretrained_cfg": images_entry(config)} if config else {}
    weights = None if config is None else Weights(NET, {}, entries, "x", Path("x"))
    setup = with_images(replace(SETUPS["own"], student=student, **named), weights)
    assert (setup.image_size, setup.test_resize, setup.mean, setup.std) == wanted
    assert with_images(SETUPS["cifar_c"], weights) == SETUPS["cifar_c"]


def test_the_network_of_weights_that_cannot_say_it(overhaul, few_digits, tmp_path, monkeypatch):
    """--net, its other word --family, and the package's load."""
    import torch

    import overhaul as package

    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "def make_net(num_classes, width=4):\n"
        "    features = nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*features, nn.Linear(width, num_classes))\n"
    )
    network = package.models.create(Net(family="my_net.py:make_net", kwargs={"num_classes": 10, "width": 6}))
    torch.save(network.state_dict(), "weights.pt")
    how = ["--data", few_digits, "--setup", "digits", "--kwargs.width", "6", "--json"]
    by_net = overhaul("evaluate", "weights.pt", "--net", "my_net.py:make_net", *how)
    by_family = overhaul("evaluate", "weights.pt", "--family", "my_net.py:make_net", *how)
    assert by_net.status == 0 and by_net.out == by_family.out, by_net.err
    said = overhaul("evaluate", "weights.pt", "--family", "resnet", "--net", "my_net.py:make_net", *how).err
    assert "is named twice, my_net.py:make_net and resnet; name one" in said
    assert "without trained weights; name them: FILE --net my" in overhaul("evaluate", "my_net.py:make_net", *how).err
    net = Net(family="my_net.py:make_net", kwargs={"width": 6})
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(package.load(Path("weights.pt"), net=net)(images), network.eval()(images))
