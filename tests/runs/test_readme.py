"""Every command and every Python example of the README is run, on small stand-ins for the files that it names."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from support.hub_client import Client
from support.hub_server import COMMIT, TOKEN, LocalHub
from support.places import REPOSITORY, TESTS
from support.runs import command as run_here

from overhaul import hub, models
from overhaul.options import Run
from overhaul.recipe import Net
from overhaul.setups import SETUPS, resolve

SUPPORT = TESTS / "support"
README = (REPOSITORY / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line]
SMALL = ["--batch_size", "8", "--epochs", "1"]
EXAMPLES = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what the README's commands name: weights, teachers, images; all small and untrained."""
    place = tmp_path_factory.mktemp("readme")
    teacher = models.create(SETUPS["cifar_c"].teacher)
    classes = [f"class {i}" for i in range(100)]
    for name in ("WRN28-4_21.09.pt", "WRN28-4_cifar100.pt"):
        torch.save({"model": teacher.state_dict()}, place / name)
    for folder in ("my_teacher", "runs/cifar_teacher_wrn-original-seed0/final"):
        hub.save(place / folder, teacher, SETUPS["cifar_teacher_wrn"], classes)
    hub.save(place / "hub" / "USER" / "TEACHER", teacher, SETUPS["cifar_teacher_wrn"], classes)
    draw = np.random.default_rng(0)
    images = [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(16)]
    features = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=classes)})
    split = datasets.Dataset.from_dict({"img": images, "fine_label": list(range(16))}, features=features)
    for folder in ("my_images", "cifar100"):
        (place / folder).mkdir()
        for name in ("train", "test"):
            split.to_parquet(place / folder / f"{name}.parquet")
    images[0].save(place / "image.jpg")
    add_imagenet(place, draw)
    add_others(place, classes)
    train = ["train", "--setup", "cifar_c", "--teacher", "my_teacher", *SMALL, "--data_path", "my_images"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run_here(*train).status == 0
    shutil.copytree(place / "runs" / "cifar_c-overhaul-seed0" / "final", place / "hub" / "USER" / "STUDENT")
    return place


def add_imagenet(place: Path, draw: np.random.Generator) -> None:
    """Twelve JPEGs of two classes in folders and prepared, a teacher and a student for them."""
    for i, split in enumerate(["train"] * 8 + ["val"] * 4):
        folder = place / "imagenet" / split / ("n01440764", "n01443537")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (48, 60, 3), dtype=np.uint8)).save(folder / f"{i}.JPEG")
    prepare = next(command for command in COMMANDS if command.startswith("overhaul prepare"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert run_here(*shlex.split(prepare)[1:]).status == 0
    setup = resolve(SETUPS["imagenet_b"], Run(), ["tench", "goldfish"])
    torch.save(models.create(setup.teacher).state_dict(), place / "resnet50.pt")
    student, folder = models.create(setup.student), place / "runs" / "imagenet_b-overhaul-seed0" / "final"
    hub.save(folder, student, setup, ["tench", "goldfish"])


def add_others(place: Path, classes: list[str]) -> None:
    """Networks of timm on the Hub and as one's own fine-tuned teacher, and a network in a file."""
    (place / "my_net.py").write_text((SUPPORT / "small_net.py").read_text())
    own = "runs/own_teacher-original-seed0/final"
    folders = {"hub/timm/resnet50d.ra2_in1k": ["a", "b"], "hub/timm/efficientnet_b3.ra2_in1k": ["a", "b"], own: classes}
    for folder, names in folders.items():
        name = "resnet10t" if folder == own else folder.split("/")[-1].split(".")[0]
        net = Net(family=f"timm:{name}", kwargs={"num_classes": len(names)})
        setup = replace(SETUPS["imagenet_b"], student=net, image_size=64, test_resize=64)
        hub.save(place / folder, models.create(net), setup, names)


def small(command: str) -> list[str]:
    """The command on a set of 16 images instead of the Hub's CIFAR-100, for an epoch, in a folder of its own."""
    command = command.replace("--num_processes 8", "--num_processes 2 --main_process_port 0")
    one_process = f"{REPOSITORY / 'launch' / 'cpus.yaml'} --num_processes 1"
    command = command.replace("launch/eight_gpus.yaml", one_process)
    command = command.replace("overhaul/train.py", str(REPOSITORY / "overhaul" / "train.py"))
    if "imagenet_" in command and "train" in command:
        command = command.replace("imagenet_a", "imagenet_b") + " --teacher resnet50.pt"
    if " methods" in command or " report " in command:
        return shlex.split(command)
    if " study " in command:
        few = command.replace("original,overhaul,kd", "original,kd").replace("--seed 0,1", "--seed 0")
        return [*shlex.split(f"{few} --data_path my_images --image_size 16"), *SMALL]
    if re.search(r"train|evaluate", command) and "--data_path" not in command:
        command += " --data_path my_images"
    command = command.replace("epochs=300", "epochs=2")
    if "--setup" in command or " train " in command:
        name = re.sub(r"\W+", "-", re.sub(r"--resume_with \S+", "", command))[-60:]
        pixels = 64 if re.search("imagenet|timm|my_net|torchvision", command) else 16
        command += f" {' '.join(SMALL)} --image_size {pixels} --output_dir out/{name}"
    return shlex.split(command)


@pytest.fixture(scope="module")
def client(place):
    """Runs what needs the Hub, with one on loopback whose user is USER."""
    with LocalHub(place / "hub", tokens={TOKEN: "USER"}) as hub:
        hub.repositories.find("USER/TEACHER").tags["REVISION"] = COMMIT
        yield Client(hub, place / "home", folder=place)


@pytest.fixture
def run(place, overhaul, client, monkeypatch):
    """run(command): a small form of it, `overhaul` in this process and `accelerate` in others."""
    monkeypatch.chdir(place)

    def run(command: str) -> SimpleNamespace:
        program, *arguments = small(command)
        if "USER/" in command or " timm/" in command:
            return client(arguments)[0]
        if program == "overhaul":
            return overhaul(*arguments)
        assert program == "accelerate"
        launcher = [sys.executable, "-m", "accelerate.commands." + arguments[0], *arguments[1:]]
        result = subprocess.run(launcher, capture_output=True, text=True)
        return SimpleNamespace(status=result.returncode, out=result.stdout, err=result.stderr)

    return run


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("bash ")])
def test_commands(run, client, command):
    if "--resume_with" in command:
        assert run(re.sub(r" --resume_with \S+", "", command)).status == 0
    if " report " in command and not (client.folder / "short").exists():
        assert run(next(each for each in COMMANDS if " study " in each)).status == 0
    result = run(command)
    assert result.status == 0, result.err
    if "push" in command:
        assert "pushed: http" in result.out
    if "--dry_run" in command:
        assert "dry run" in result.out
    elif "train" in command.split()[1:3] or "accelerate" in command:
        assert "final student: out/" in result.out
    elif " study " in command:
        assert result.out.count("seed0  ") == 2 and "interrupted" not in result.out
    elif " report " in command:
        assert "cifar_c kd" in result.out and (client.folder / "short" / "report" / "report.html").exists()
    elif "methods" in command:
        assert "28,664,328" in result.out
    elif "inspect" in command:
        assert "BatchNorm layer4.2.bn3" in result.out
    elif "evaluate" in command:
        assert f"of {4 if 'imagenet' in command else 16} images" in result.out
    elif "pull" in command or "export" in command:
        assert (client.folder / ("my_student" if "pull" in command else "student.onnx")).exists()
    elif "predict" in command:
        assert result.out.count(" %") == 5
    elif "prepare" in command:
        assert "8 train and 4 validation images" in result.out


def test_the_two_first_commands_are_the_scripts_that_ci_and_users_run():
    assert COMMANDS[:2] == ["bash launch/demo.sh", "bash launch/test.sh"]
    assert "bash launch/test.sh\n" in (REPOSITORY / ".ci" / "run").read_text()


def test_python_examples(client):
    """Run as they stand, on random images."""
    script = "import torch\nimages = torch.randn(2, 3, 32, 32)\n" + EXAMPLES + "\ndistill_loss.backward()\n"
    client.python("-c", script + 'assert len(classify("image.jpg")) == 5\n')


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"`((?:overhaul/|launch/|models/)?\w+(?:/|\.py|\.sh))`", README)
    assert named
    for name in named:
        if not name.startswith(("checkpoints", "best", "final", "logs", "my_")):
            assert any((REPOSITORY / folder / name).exists() for folder in ("", "overhaul")), name


def test_another_teacher_of_our_families_is_taken_or_told_by_flags(run, place):
    torch.save(models.create("wide_resnet", depth=16, width=4, num_classes=100).state_dict(), place / "wrn16.pt")
    command = "overhaul train --setup cifar_c --teacher wrn16.pt"
    assert "is wide_resnet depth=16 width=4 num_classes=100, not the setup's" in run(f"{command} --dry_run").err
    assert "looks like wide_resnet depth=16" in run(f"{command} --teacher.kwargs.depth 40").err
    assert run(f"{command} --teacher.kwargs.depth 16").status == 0
