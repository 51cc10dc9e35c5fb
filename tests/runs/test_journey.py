"""From a folder of images to a student that timm loads from the Hub, by the commands of the README."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from support.hub_client import Client
from support.hub_server import TOKEN, LocalHub

from overhaul import hub, models
from overhaul.recipe import Net
from overhaul.setups import SETUPS

CLASSES = ("ant", "bee", "cat", "dog")
BY_TIMM = """
import sys, timm, torch
network = timm.create_model("hf-hub:USER/STUDENT", pretrained=True).eval()
assert "overhaul" not in sys.modules
print(network(torch.zeros(1, 3, 32, 32)).shape[1], network.pretrained_cfg["label_names"])
"""


def write_images(folder, draw: np.random.Generator) -> None:
    """40 training and 8 test images of four classes, each of a colour."""
    for number in range(48):
        name, split = CLASSES[number % 4], "train" if number < 40 else "test"
        pixels = draw.integers(0, 64, (36, 40, 3)) + 48 * (number % 4)
        place = folder / split / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")


def test_from_images_to_a_student_on_the_hub(tmp_path):
    pytest.importorskip("timm")
    write_images(tmp_path / "my_images", np.random.default_rng(0))
    net = Net(family="timm:resnet10t", kwargs={"num_classes": 5})
    trained = tmp_path / "hub" / "timm" / "resnet10t.tests"
    hub.save(
        trained,
        models.create(net),
        replace(SETUPS["imagenet_b"], student=net, image_size=32, test_resize=32),
        list("abcde"),
    )
    data, teacher = ("--data_path", "my_images"), "runs/own_teacher-original-seed0"
    tune = ["train", "--setup", "own_teacher", *data, "--student", "timm/resnet10t.tests", "--epochs", "2"]
    learn = ["train", *data, "--teacher", teacher, "--student", "timm:test_resnet", "--epochs", "2", "--image_size", 32]
    student = "runs/own-overhaul-seed0"
    with LocalHub(tmp_path / "hub", tokens={TOKEN: "USER"}) as server:
        client = Client(server, tmp_path / "home", folder=tmp_path)
        tuned, told, evaluated, predicted, exported, pushed, again, whole = client(
            tune,
            learn,
            ["evaluate", student, "--data", "my_images", "--json"],
            ["predict", student, "my_images/test/bee/41.png", "--json"],
            ["export", student, "--format", "safetensors", "--out", "student.safetensors"],
            ["push", student, "USER/STUDENT"],
            learn,
            [*tune[:-2], "--image_size", 40, "--dry_run"],
        )
        for each in (tuned, told, evaluated, predicted, exported, pushed, again, whole):
            assert each.status == 0, each.err
        by_timm = client.python("-c", BY_TIMM).stdout
    words, learned = " ".join(tuned.out.split()), " ".join(told.out.split())
    assert "batch_size 8, lr 0.0003125 (0.01 x batch_size / 256)" in words and "40 images and trained" in words
    assert "40 images and fresh weights" in learned and "resumed after epoch 2" in again.out
    assert "100 epochs x 5 = 500, each of 8 images" in whole.out and "40 here (--image_size)" in whole.err
    config = yaml.safe_load((tmp_path / student / "config.yaml").read_text())
    chosen = {name: config[name] for name in ("epochs", "batch_size", "lr", "warmup_epochs")}
    assert chosen == {"epochs": 2, "batch_size": 8, "lr": 0.003125, "warmup_epochs": 0.1}
    assert json.loads(evaluated.out)["images"] == 8
    assert {name for name, _ in json.loads(predicted.out)["classes"]} == {*CLASSES}
    assert (tmp_path / "student.safetensors").stat().st_size > 0
    assert by_timm.split()[0] == "4" and all(name in by_timm for name in CLASSES)
