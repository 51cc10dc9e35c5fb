"""The methods between networks: classes in another order or others, no maps at all, and networks of other people."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from support.methods import NAMES, flags, taught
from support.networks import shaken
from support.runs import command, refused, student_of

from overhaul.training.build import build
from overhaul.training.first_batch import measure_first_batch

LOGITS = ("kd", "dkd", "dist")
MAPS = tuple(name for name in NAMES if name not in (*LOGITS, "rkd"))
SHUFFLED = [3, 7, 1, 0, 9, 8, 2, 5, 4, 6]
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "img_size": 16}


def renamed(teacher: Path, folder: Path, rows: list[int], *names: str) -> Path:
    """The digits' teacher with its classes in another order, and more of them, or others, which bear those names."""
    shutil.copytree(teacher / "final", folder)
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    for name in ("fc.weight", "fc.bias"):
        more = 5 + torch.randn(len(names), *weights[name].shape[1:])
        weights[name] = torch.cat([weights[name][rows], more])
    labels = [*map(str, rows), *names]
    whole = {"num_classes": len(labels), "label_names": labels}
    whole["pretrained_cfg"] = {**config["pretrained_cfg"], "num_classes": len(labels)}
    (folder / "config.json").write_text(json.dumps({**config, **whole}))
    save_file(weights, folder / "model.safetensors")
    return folder


def first_loss(teacher: Path, images: str, method: str) -> float:
    of = build(*taught(teacher, images, method))
    of.model.train()
    batch, labels = next(iter(of.train_loader))
    return measure_first_batch(of, of.normalize(batch), labels)["distill_loss"]


@pytest.mark.parametrize("method", [*LOGITS, "overhaul+kd"])
def test_a_teacher_whose_classes_have_another_order_or_are_more_teaches_the_same(
    digits_teacher, few_digits, tmp_path, method
):
    in_order = first_loss(digits_teacher, few_digits, method)
    shuffled = renamed(digits_teacher, tmp_path / "shuffled", SHUFFLED)
    more = renamed(digits_teacher, tmp_path / "more", SHUFFLED, "cat", "dog")
    for teacher in (shuffled, more):
        assert first_loss(teacher, few_digits, method) == pytest.approx(in_order, rel=1e-5)
    config = json.loads((shuffled / "config.json").read_text())
    (shuffled / "config.json").write_text(json.dumps({**config, "label_names": sorted(config["label_names"])}))
    assert first_loss(shuffled, few_digits, method) != pytest.approx(in_order, rel=1e-4), "the order is no matter here"


def test_a_teacher_of_other_classes(digits_teacher, few_digits, tmp_path):
    """Its logits are none of the data's; its maps are as good as any."""
    teacher = renamed(digits_teacher, tmp_path / "other", SHUFFLED[:7], "cat", "dog")
    for method in (*LOGITS, "overhaul+kd", "at+dkd"):
        run = flags(teacher, few_digits, method, "--output_dir", tmp_path / "run")
        result = command(*run)
        assert result.status == 2 and not (tmp_path / "run").exists()
        words = f"overhaul: --method {method} compares logits, and the teacher knows other classes than the data have"
        assert result.err.splitlines()[-1].startswith(words), result.err
    for method in ("at", "rkd"):
        result = command(*flags(teacher, few_digits, method, "--output_dir", tmp_path / method))
        assert result.status == 0 and "its accuracy not measured" in result.err, result.err


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> dict[str, list]:
    """Flags that name a small transformer, which has no maps, as teacher and as student."""
    file = tmp_path_factory.mktemp("vit") / "vit.pt"
    torch.manual_seed(1)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10, **VIT).state_dict(), file)
    kwargs = {role: [each for key, value in VIT.items() for each in (f"--{role}.kwargs.{key}", value)]
              for role in ("teacher", "student")}  # fmt: skip
    name = "timm:vit_tiny_patch16_224"
    teacher = ["--teacher.family", name, "--teacher.weights", file, *kwargs["teacher"]]
    return {"teacher": teacher, "student": ["--student", name, *kwargs["student"]]}


def between(vit: dict, method: str, images: str, folder: Path, *roles: str, teacher: Path | None = None):
    networks = [each for role in roles for each in vit[role]]
    given = flags(teacher, images, method, "--output_dir", folder, "--epochs", 1, *networks)
    if teacher is None:
        place = given.index("--teacher")
        del given[place : place + 2]
    return command(*given)


@pytest.mark.parametrize("method", [*LOGITS, "rkd", "kd+rkd"])
def test_networks_without_maps_learn_by_logits_and_embeddings(vit, digits_teacher, few_digits, tmp_path, method):
    """Both, or the one of the two."""
    result = between(vit, method, few_digits, tmp_path / "both", "teacher", "student")
    assert result.status == 0, result.err
    if method == "kd":
        of_one_kind = between(vit, method, few_digits, tmp_path / "one", "student", teacher=digits_teacher)
        assert of_one_kind.status == 0, of_one_kind.err
        evaluated = command("evaluate", tmp_path / "one", "--data", few_digits, "--json")
        lines = (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(evaluated.out)["top1"] == json.loads(lines[-1])["test_top1"]
        other = between(vit, method, few_digits, tmp_path / "other", "teacher")
        assert other.status == 0, other.err


@pytest.mark.parametrize("method", [*MAPS, "kd+overhaul"])
def test_networks_without_maps_are_refused_by_who_compares_maps(vit, few_digits, tmp_path, method):
    result = between(vit, method, few_digits, tmp_path / "run", "teacher", "student")
    refused(result, "one convolution stage at 16 pixels, and 2 are needed", "--student.positions")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> dict[str, list]:
    """Flags of pairs of other people's networks: far apart, of different makes, and of one make."""
    folder, made = tmp_path_factory.mktemp("foreign"), {}
    torch.manual_seed(0)
    teachers = {
        "timm:resnet10t": timm.create_model("resnet10t", num_classes=7),
        "timm:test_efficientnet": timm.create_model("test_efficientnet", num_classes=10),
        "torchvision:squeezenet1_1": torchvision.models.squeezenet1_1(num_classes=10),
    }
    for name, network in teachers.items():
        file = folder / f"{name.partition(':')[2]}.pt"
        torch.save(shaken(network).state_dict(), file)
        made[name] = ["--teacher", name, "--teacher.weights", file]
    return made


PAIRS = {
    "timm:test_efficientnet": "timm:resnet10t",
    "timm:resnet10t": "torchvision:squeezenet1_1",
    "torchvision:squeezenet1_1": "timm:test_efficientnet",
}


@pytest.mark.parametrize(
    ("teacher", "method"),
    [
        *(("timm:test_efficientnet", method) for method in (*MAPS, "rkd", "overhaul+rkd+at")),
        *(("timm:resnet10t", method) for method in ("at", "reviewkd", "fitnets")),
        *(("torchvision:squeezenet1_1", method) for method in ("sp", "rkd", "fitnets")),
    ],
)
def test_pairs_of_networks_of_other_people(foreign, few_digits, tmp_path, method, teacher):
    """Whose maps have other sizes, which deterministic kernels resize too; FitNets asks for as many on both sides."""
    sizes = ["--image_size", 32, "--epochs", 1, "--batch_size", 16, "--lr", 0.001, "--deterministic"]
    run = ["train", "--setup", "digits", "--data_path", few_digits, "--method", method, *foreign[teacher]]
    try:
        result = command(*run, "--student", PAIRS[teacher], *sizes, "--output_dir", tmp_path / "run")
    finally:
        torch.use_deterministic_algorithms(False)
    if method == "fitnets" and "squeezenet" in f"{teacher} {PAIRS[teacher]}":
        refused(result, "FitNets counts the stages alike in both", "name as many for both with --student.positions")
        return
    assert result.status == 0, result.err
    assert student_of(tmp_path / "run")
