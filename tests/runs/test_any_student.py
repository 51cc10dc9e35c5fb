"""A student of timm, of torchvision and of a user's file, from SIGKILL to the Hub, as our own."""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from support.hub_client import Client
from support.hub_server import TOKEN, LocalHub
from support.places import SHARED, TESTS
from support.runs import command, digests, refused, student_of

import overhaul

STUDENTS = {
    "timm": ("timm:resnet10t", 32),
    "torchvision": ("torchvision:squeezenet1_1", 64),
    "file": ("my_net.py:make_net", 32),
}
CLASSES = ["apple", "aquarium fish", "baby", "bear", "beaver"]


def real_images() -> dict[str, list[tuple[Image.Image, int]]]:
    """200 and 60 images of CIFAR-100's first five classes; random ones where it is not at hand."""
    source, wanted = SHARED / "data" / "cifar100", {"train": 200, "test": 60}
    if not source.is_dir():
        draw = np.random.default_rng(0)
        return {
            split: [(Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)), i % 5) for i in range(n)]
            for split, n in wanted.items()
        }
    images = {}
    for split, n in wanted.items():
        rows = datasets.Dataset.from_parquet(str(next(source.rglob(f"{split}-*.parquet"))))
        numbers = np.flatnonzero(np.array(rows["fine_label"]) < 5)[:n]
        images[split] = [(row["img"], row["fine_label"]) for row in rows.select(numbers)]
    return images


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with my_images, my_net.py, and a teacher of a network of timm, two classes of which are others."""
    place = tmp_path_factory.mktemp("any")
    for split, rows in real_images().items():
        for number, (image, label) in enumerate(rows):
            folder = place / "my_images" / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    shutil.copyfile(TESTS / "support" / "small_net.py", place / "my_net.py")
    teacher = timm.create_model("test_efficientnet", num_classes=7)
    for module in teacher.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
    torch.save({"state_dict": teacher.state_dict()}, place / "teacher.pt")
    return place


def flags(student: str, *more, epochs: int = 2) -> list[str]:
    name, size = STUDENTS[student]
    teacher = ["--teacher", "timm:test_efficientnet", "--teacher.weights", "teacher.pt"]
    run = ["--image_size", size, "--epochs", epochs, "--batch_size", 20, "--quiet", "--checkpoint_steps", 2]
    return list(map(str, ["train", "--data_path", "my_images", *teacher, "--student", name, *run, *more]))


@pytest.fixture(scope="module", params=STUDENTS)
def trained(request, place) -> SimpleNamespace:
    """A run that was never stopped: .student, .folder, .out, .err."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = command(*flags(request.param, "--output_dir", request.param))
    assert result.status == 0, result.err
    return SimpleNamespace(student=request.param, folder=place / request.param, out=result.out, err=result.err)


def begin(argv: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command(*argv)


def test_killed_and_gone_on_with_it_ends_in_the_same_weights(trained, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    argv = flags(trained.student, "--output_dir", tmp_path / "run")
    process = multiprocessing.get_context("fork").Process(target=begin, args=(argv,))
    process.start()
    while not list((tmp_path / "run" / "checkpoints").glob("epoch-*")) and process.is_alive():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    result = command(*argv)
    assert result.status == 0 and "resumed after step" in result.out, result.err
    assert digests(tmp_path / "run" / "final") == digests(trained.folder / "final")


def test_what_is_said_and_written_down(trained):
    assert "teacher    timm:test_efficientnet num_classes=7" in trained.out
    assert "its accuracy not measured" in trained.err and "of different make" in trained.err
    record = json.loads((trained.folder / "overhaul.json").read_text())
    assert record["teacher"]["test_top1"] is None and record["data"]["name"] == "my_images"
    assert [each["weight"] for each in record["positions"]][-2:] == [0.5, 1]
    assert record["student"]["family"] == STUDENTS[trained.student][0]


@pytest.mark.parametrize(
    "more",
    [["--mixed_precision", "bf16"], ["--gradient_accumulation_steps", "2"], ["--deterministic", "true"]],
    ids=lambda words: words[0],
)
def test_other_ways_to_train(trained, place, tmp_path, monkeypatch, more):
    monkeypatch.chdir(place)
    result = command(*flags(trained.student, "--output_dir", tmp_path / "run", *more, epochs=1))
    torch.use_deterministic_algorithms(False)
    assert result.status == 0, result.err


def test_trained_students_are_used_as_ours_are(trained, place, tmp_path, monkeypatch):
    """Evaluated, asked for classes, exported, pushed, pulled and loaded elsewhere, with the same logits."""
    monkeypatch.chdir(place)
    net = ["--net", "my_net.py:make_net"] if trained.student == "file" else []
    final = json.loads((trained.folder / "metrics.jsonl").read_text().splitlines()[-1])
    found = command("evaluate", trained.student, "--data", "my_images", "--json", *net)
    assert json.loads(found.out)["top1"] == final["test_top1"], found.err
    image = next((place / "my_images" / "test").rglob("*.png"))
    assert command("predict", trained.student, image, "--top", 3, *net).out.count(" %") == 3
    for form in ("safetensors", "pt2", "onnx"):
        result = command("export", trained.student, "--format", form, "--out", tmp_path / f"student.{form}", *net)
        assert result.status == 0, result.err
    if net:
        refused(command("evaluate", trained.student, "--data", "my_images"), "--net FILE.py:FUNCTION")
    (place / "hub").mkdir(exist_ok=True)
    with LocalHub(place / "hub", tokens={TOKEN: "USER"}) as hub:
        client = Client(hub, tmp_path / "home", folder=place)
        pushed, evaluated = client(
            ["push", trained.student, f"USER/{trained.student}"],
            ["evaluate", f"USER/{trained.student}", "--data", "my_images", "--json", *net],
        )
    assert pushed.status == 0, pushed.err
    assert json.loads(evaluated.out)["top1"] == final["test_top1"], evaluated.err


def test_the_network_elsewhere_gives_the_same_logits(trained, place, monkeypatch):
    monkeypatch.chdir(place)
    folder, size = trained.folder / "final", STUDENTS[trained.student][1]
    net = "my_net.py:make_net" if trained.student == "file" else None
    images, state = torch.randn(2, 3, size, size), load_file(folder / "model.safetensors")
    ours = overhaul.load(str(folder), net=net)
    assert state.keys() == ours.state_dict().keys() == ours.bare.state_dict().keys()
    if trained.student == "timm":
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True)
    elif trained.student == "torchvision":
        theirs = torchvision.models.squeezenet1_1(num_classes=5)
        theirs.load_state_dict(state, strict=True)
    else:
        theirs = ours.bare
    logits = theirs.eval()(images)
    assert torch.equal(logits["logits"] if net else logits, ours(images))
    assert len(ours.forward_stages(images).features) >= 2


def test_two_processes_train_one_student(trained, place, ranks, monkeypatch, tmp_path):
    argv = flags(trained.student, "--output_dir", tmp_path / "run", epochs=1)
    results = ranks("support.runs:command_in", str(place), *argv)
    assert [each.status for each in results] == [0, 0], results[0].err
    assert student_of(tmp_path / "run")
