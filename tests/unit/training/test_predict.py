"""What a student says of an image, with its own class names and pre-processing."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from support import hostile_data
from support.runs import SMALL_NET

from overhaul import hub, models
from overhaul.data.decoding import centre, decode
from overhaul.setups import SETUPS
from overhaul.training import prediction
from overhaul.training.prediction import predict

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture
def student(tmp_path, network):
    hub.save(tmp_path / "student", network, SETUPS["digits"], NAMES)
    return tmp_path / "student"


@pytest.fixture
def image(tmp_path):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (50, 41, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def change(student, **entries) -> None:
    config = json.loads((student / "config.json").read_text())
    config["pretrained_cfg"] |= entries
    (student / "config.json").write_text(json.dumps(config))


def expected(network, image, size, resize, mean, std, interpolation="bilinear"):
    pixels = centre(decode(image.read_bytes()), size, resize, interpolation)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    with torch.no_grad():
        return network((pixels - mean) / std).softmax(1)[0]


def test_the_most_probable_classes_with_their_names(student, image, network, overhaul):
    shares = expected(network, image, 32, 32, (0.5,) * 3, (0.5,) * 3)
    order = shares.argsort(descending=True).tolist()
    result = overhaul("predict", student, image, "--top", 3)
    assert result.status == 0
    words = ", ".join(f"{NAMES[i]} {100 * shares[i]:.2f} %" for i in order[:3])
    assert result.out.strip() == f"{image}: {words}"
    lines = overhaul("predict", student, image, image, "--top", 99, "--json").out.splitlines()
    answer = json.loads(lines[1])
    assert len(lines) == 2 and [name for name, _ in answer["classes"]] == [NAMES[i] for i in order]
    assert sum(share for _, share in answer["classes"]) == pytest.approx(1)


def test_size_mean_std_and_interpolation_are_the_students_own(student, image, network):
    change(student, input_size=[3, 24, 24], crop_pct=0.75, mean=[0.1] * 3, std=[0.3] * 3, interpolation="bicubic")
    shares = expected(network, image, 24, 32, (0.1,) * 3, (0.3,) * 3, "bicubic")
    (answer,) = predict(str(student), [str(image)], top=10)
    found = {name: share for name, share in answer["classes"]}
    assert [found[name] for name in NAMES] == pytest.approx(shares.tolist(), abs=1e-5)
    linear = expected(network, image, 24, 32, (0.1,) * 3, (0.3,) * 3)
    assert max(abs(linear - shares)) > 1e-4


def test_a_file_that_says_nothing_of_its_images_needs_a_setup(tmp_path, image, network, overhaul):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    result = overhaul("predict", tmp_path / "net.pt", image)
    assert result.status == 2 and "name a setup of the kind with --setup" in result.err
    result = overhaul("predict", tmp_path / "net.pt", image, "--setup", "digits", "--top", 1)
    best = expected(network, image, 32, 32, (0.5,) * 3, (0.5,) * 3).argmax()
    assert result.status == 0 and f": {best} " in result.out


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"interpolation": "nearest"}, "interpolation"),
        ({"interpolation": []}, "interpolation"),
        ({"input_size": [3, 10**9, 10**9]}, "pretrained_cfg whose input_size"),
        ({"crop_pct": 1e-9}, "pretrained_cfg whose input_size"),
        ({"mean": [float("nan")] * 3}, "pretrained_cfg whose input_size"),
        ({"std": [0, 0, 0]}, "pretrained_cfg whose input_size"),
    ],
)
def test_a_pre_processing_that_cannot_be(student, image, overhaul, entries, words):
    change(student, **entries)
    result = overhaul("predict", student, image)
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a"], "10 classes and 1 label_names"), ("abcdefghij", "must be a list of names"), ([1] * 10, "a list of names")],
)
def test_class_names_that_cannot_be(student, image, overhaul, names, words):
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps({**config, "label_names": names}))
    result = overhaul("predict", student, image)
    assert result.status == 2 and words in result.err


def test_a_class_name_cannot_move_the_cursor(tmp_path, network, image, overhaul):
    hub.save(tmp_path / "student", network, SETUPS["digits"], ["\x1b[2J evil"] * 10)
    result = overhaul("predict", tmp_path / "student", image)
    assert result.status == 0 and "\x1b" not in result.out and "evil" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png"], "missing.png cannot be read: No such file"),
        ([__file__], "is no image that can be read"),
        (["{image}", "--top", "0"], "--top must be at least 1"),
        (["{image}", "--setup", "cifar_x"], "cifar_x"),
        ([], "overhaul predict needs images"),
    ],
)
def test_wrong_arguments(student, image, overhaul, arguments, words):
    result = overhaul("predict", student, *(word.format(image=image) for word in arguments))
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1


def test_every_small_network_predicts(tmp_path, image):
    hub.save(tmp_path / "student", models.create(SMALL_NET), SETUPS["digits"], NAMES)
    assert len(predict(str(tmp_path / "student"), [str(image)])[0]["classes"]) == 5


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("pipe.png", (), "pipe.png is no regular file"),
        ("/dev/zero", (), "/dev/zero is no regular file"),
        ("sparse.png", (), "are the most"),
        ("image.png", ("--max_pixels", 2049), "it has 41 x 50 pixels, and --max_pixels allows 2049"),
        ("~nobody_there/a.png", (), "the home of no user"),
        ("eps.png", (), "it is no JPEG, PNG, WebP, BMP, GIF or TIFF image"),
    ],
)
def test_a_file_that_is_no_image_is_not_waited_for(tmp_path, student, image, overhaul, name, flags, words):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 2**40)
    (tmp_path / "eps.png").write_bytes(hostile_data.PROGRAMS["EPS"])
    file = name if name.startswith(("/", "~")) else tmp_path / name
    result = overhaul("predict", student, file, *flags)
    assert (result.status, result.out) == (2, "") and words in result.err and result.err.count("\n") == 1


def test_a_walk_for_images_ends(tmp_path, student, image, overhaul, monkeypatch):
    monkeypatch.setattr(prediction, "MOST_OTHERS", 3)
    for number in range(4):
        (tmp_path / "student" / "more" / str(number)).mkdir(parents=True)
    result = overhaul("predict", student, tmp_path)
    assert result.status == 2 and "holds more than 3 files" in result.err
