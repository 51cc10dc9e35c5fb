"""Trained networks that come from elsewhere: teachers, what a student starts from, and whose classes are whose."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.images import write_parquet
from support.runs import DIGITS, SIZE, quick, refused

from overhaul import hub, models
from overhaul.data.loaders import Normalize
from overhaul.options import Run
from overhaul.setups import Net, wide_resnet
from overhaul.training import build as building
from overhaul.training.build import build
from overhaul.training.trainer import train

NAMES = [f"digit {number}" for number in range(10)]
RESNET_8 = Net(family="cifar_resnet", kwargs={"depth": 8, "num_classes": 10})


def with_names(few_digits: str, folder: Path, names: list[str]) -> str:
    """The digits under other names, numbered in the order of `names`."""
    splits = {}
    for split in ("train", "test"):
        table = datasets.Dataset.from_parquet(f"{few_digits}/{split}-00000-of-00001.parquet", cache_dir=folder.parent)
        labels = [names.index(NAMES[label]) for label in table["label"]]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        splits[split] = datasets.Dataset.from_dict({"image": table["image"], "label": labels}, features=features)
    return write_parquet(folder, **splits)


@pytest.fixture(scope="module")
def sets(few_digits, tmp_path_factory):
    """The same images twice: with the classes in order, and in the opposite order."""
    folder = tmp_path_factory.mktemp("sets")
    return [with_names(few_digits, folder / word, names) for word, names in (("a", NAMES), ("b", NAMES[::-1]))]


@pytest.fixture(scope="module")
def teacher(digits_teacher, tmp_path_factory) -> Path:
    """A trained student's folder whose classes have names."""
    folder = tmp_path_factory.mktemp("teacher")
    hub.save(folder, hub.load(str(digits_teacher)), replace(DIGITS, student=wide_resnet(10, 2, 10)), NAMES)
    return folder


def flags(data: str, *more) -> list[str]:
    """A training of one short epoch."""
    return ["train", "--setup", "digits", "--image_size", SIZE, "--epochs", 1, "--batch_size", 48, "--data_path", data,
            *more]  # fmt: skip


def record(folder: Path) -> dict:
    return json.loads((folder / "overhaul.json").read_text())


def test_a_teacher_of_other_classes_teaches_by_its_features_alone(few_digits, tmp_path, overhaul):
    torch.save(models.create("wide_resnet", depth=10, width=1, num_classes=7).state_dict(), tmp_path / "seven.pt")
    result = overhaul(*flags(few_digits, "--teacher", tmp_path / "seven.pt", "--output_dir", tmp_path / "run"))
    assert result.status == 0, result.err
    words = "its accuracy not measured: it knows 7 classes and the data have 10"
    assert words in result.err
    assert record(tmp_path / "run")["teacher"]["test_top1"] is None and "test top-1 nan" not in result.out
    again = overhaul(*flags(few_digits, "--teacher", tmp_path / "seven.pt", "--output_dir", tmp_path / "run"))
    assert again.status == 0 and "resumed after epoch 1" in again.out


def test_a_file_of_another_network_is_taken_for_what_it_is_unless_one_is_named(few_digits, tmp_path, overhaul):
    torch.manual_seed(0)
    torch.save({"net": models.create(RESNET_8).state_dict()}, tmp_path / "other.pt")
    result = overhaul(*flags(few_digits, "--teacher", tmp_path / "other.pt", "--output_dir", tmp_path / "run"))
    assert result.status == 0 and "is cifar_resnet depth=8 num_classes=10, not the setup's wide_resnet" in result.err
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["teacher"]["family"] == "cifar_resnet" and config["teacher"]["kwargs"]["depth"] == 8
    named = ["--teacher", tmp_path / "other.pt", "--teacher.kwargs.depth", 10, "--dry_run"]
    refused(overhaul(*flags(few_digits, *named)), "does not fit wide_resnet depth=10", "it looks like cifar_resnet")


def test_a_teacher_is_measured_by_the_names_of_its_classes(sets, teacher):
    ours, reversed_ = (
        build(quick(teacher, data="digits", batch_size=48), Run(data_path=data, output_dir="unused")) for data in sets
    )
    assert ours.classes == tuple(NAMES) and reversed_.classes == tuple(NAMES[::-1])
    assert ours.teacher_test.order == list(range(10)) and reversed_.teacher_test.order == list(range(10))[::-1]


def test_a_teacher_is_shown_images_in_its_own_mean_and_std(few_digits, teacher, tmp_path):
    own = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.3, 0.2)}
    state = load_file(teacher / "model.safetensors")
    torch.save(state, tmp_path / "bare.pt")
    config = json.loads((teacher / "config.json").read_text())
    config["pretrained_cfg"] |= {key: list(value) for key, value in own.items()}
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    for named in (Net(weights=str(folder)), Net(weights=str(tmp_path / "bare.pt"), **own)):
        setup = quick("unused", data="digits", batch_size=48, teacher=replace(named, family="wide_resnet"))
        of = build(setup, Run(data_path=few_digits))
        wanted = of.teacher(Normalize(own["mean"], own["std"], "cpu")(images))
        assert torch.allclose(of.teacher_forward(of.normalize(images)).logits, wanted, atol=1e-4)
        assert torch.allclose(of.teacher_test.normalize(images), Normalize(own["mean"], own["std"], "cpu")(images))
    with pytest.raises(ValueError, match=r"says its mean .* name no others"):
        other = Net(family="wide_resnet", weights=str(folder), mean=(0.5,) * 3, std=(0.5,) * 3)
        build(quick("unused", teacher=other), Run(data_path=few_digits))


def test_a_teacher_no_better_than_chance_is_told_and_a_dry_run_measures_it_too(few_digits, digits_teacher, overhaul,
                                                                              tmp_path):  # fmt: skip
    torch.save(models.create("wide_resnet", depth=10, width=1, num_classes=10).state_dict(), tmp_path / "fresh.pt")
    result = overhaul(*flags(few_digits, "--teacher", tmp_path / "fresh.pt", "--dry_run"))
    assert result.status == 0 and "is no better than chance (" in result.err and "--teacher.mean" in result.err
    whole = ["train", "--setup", "digits", "--image_size", SIZE, "--teacher", digits_teacher, "--dry_run"]
    result = overhaul(*whole)
    assert "no better than chance" not in result.err and f"teacher {digits_teacher}: test top-1 " in result.out


def test_a_student_starts_from_the_weights_that_are_named(few_digits, sets, teacher, tmp_path, overhaul):
    trained = hub.load(str(teacher))
    setup = replace(DIGITS, method="original", student=Net(family="wide_resnet", weights=str(teacher)), batch_size=48)
    same, turned = (build(setup, Run(data_path=data)).student for data in sets)
    assert torch.equal(same.fc.weight, trained.fc.weight) and torch.equal(turned.fc.weight, trained.fc.weight.flip(0))
    assert torch.equal(same.conv1.weight, trained.conv1.weight)
    three = models.create("wide_resnet", depth=10, width=1, num_classes=3)
    torch.save(three.state_dict(), tmp_path / "three.pt")
    alone = ("--method", "original", "--output_dir", tmp_path / "run")
    result = overhaul(*flags(few_digits, "--student", tmp_path / "three.pt", *alone))
    assert (
        result.status == 0
        and "but for its last layer, fc, which is fresh: it knows 3 classes and the data have 10" in result.err
    )
    told = record(tmp_path / "run")["student"]["started_from"]
    assert told["source"] == "three.pt" and len(told["sha256"]) == 64
    again = overhaul(*flags(few_digits, "--student", tmp_path / "three.pt", *alone))
    assert again.status == 0 and "resumed after epoch 1" in again.out
    torch.save(three.state_dict() | {"fc.bias": torch.ones(3)}, tmp_path / "three.pt")
    other = overhaul(*flags(few_digits, "--student", tmp_path / "three.pt", *alone))
    refused(other, "was trained from other weights of the student")
    torch.save(three.state_dict(), tmp_path / "three.pt")
    of = build(replace(setup, student=Net(family="wide_resnet", weights=str(tmp_path / "three.pt"))),
               Run(data_path=few_digits))  # fmt: skip
    assert torch.equal(of.student.conv1.weight, three.conv1.weight) and of.student.fc.weight.shape == (10, 64)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--student", "nowhere.pt"], "nowhere.pt: there is no such file or folder"),
        (["--teacher", "nowhere.pt"], "nowhere.pt: there is no such file or folder"),
        (["--student.mean", "[0.5, 0.5, 0.5]", "--student.std", "[1, 1, 1]"], "--student.mean"),
        (["--student.key", "ema"], "goes with the weights of a checkpoint file"),
        (["--teacher", "{teacher}", "--teacher.key", "ema"], "is no checkpoint file, so its weights have no key"),
        (
            ["--teacher", "{teacher}", "--teacher.mean", "[0.5, 0.5, 0.5]"],
            "--teacher.mean and --teacher.std go together",
        ),
        (["--teacher", "{teacher}", "--method", "original"], "trains the student alone"),
        (["--teacher", "{teacher}", "--student.kwargs.depth", "11"], "depth must be 6n + 4"),
    ],
)
def test_cheap_faults_are_told_before_any_image_is_read(teacher, overhaul, monkeypatch, more, words):
    def load_splits(*_):
        raise AssertionError("images were read")

    monkeypatch.setattr(building, "load_splits", load_splits)
    flags = ["train", "--setup", "digits", *(each.format(teacher=teacher) for each in more)]
    if "--teacher" not in more:
        flags += ["--teacher", teacher]
    refused(overhaul(*flags), words)


def test_the_same_images_with_the_classes_in_another_order_are_as_accurate(sets, teacher, overhaul):
    one, two = (json.loads(overhaul("evaluate", teacher, "--data", data, "--json").out) for data in sets)
    assert one == two and one["top1"] > 30


def test_weights_that_give_no_numbers_are_an_error_and_no_accuracy(few_digits, teacher, tmp_path, overhaul):
    state = load_file(teacher / "model.safetensors")
    state["bn1.running_var"][3] = -1
    torch.save(state, tmp_path / "odd.pt")
    result = overhaul("evaluate", tmp_path / "odd.pt", "--data", few_digits, "--setup", "digits")
    refused(result, "gives no finite numbers for 40 of 40 test images", "running_var")


def test_a_run_goes_on_with_its_classes_in_its_own_order(sets, tmp_path):
    setup = replace(DIGITS, method="original", teacher=None, epochs=1, batch_size=48)
    run = Run(data_path=sets[0], output_dir=str(tmp_path / "run"))
    train(setup, run)
    result = train(setup, replace(run, data_path=sets[1], resume_with="epochs=2"))
    assert len(result.metrics) == 2
    assert json.loads((result.folder / "final" / "config.json").read_text())["label_names"] == NAMES


def test_evaluate_predict_and_export_take_the_words_of_a_teacher(few_digits, teacher, tmp_path, overhaul):
    state = load_file(teacher / "model.safetensors")
    shifted = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": shifted}, tmp_path / "two.pt")
    named = ["--key", "state_dict", "--mean", "[0.5, 0.5, 0.5]", "--std", "[0.5, 0.5, 0.5]", "--family", "wide_resnet"]
    wanted = json.loads(overhaul("evaluate", teacher, "--data", few_digits, "--json").out)
    bare = overhaul("evaluate", tmp_path / "two.pt", "--data", few_digits, "--setup", "digits", "--json", *named[:2])
    assert json.loads(bare.out)["images"] == wanted["images"]
    overhaul("export", tmp_path / "two.pt", "--format", "safetensors", "--out", tmp_path / "one.safetensors", *named)
    assert torch.equal(load_file(tmp_path / "one.safetensors")["fc.weight"], state["fc.weight"])
    refused(overhaul("predict", teacher, "x.png", "--family", "resnet"), "not resnet; leave out its family")


def test_predict_takes_folders_and_names_of_classes(few_digits, teacher, tmp_path, overhaul):
    pictures = datasets.Dataset.from_parquet(f"{few_digits}/test-00000-of-00001.parquet", cache_dir=str(tmp_path))
    for name, picture in zip(("b.png", "deep/a.PNG", "c.jpg"), pictures["image"], strict=False):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "folder" / name)
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    (tmp_path / "folder" / "broken.png").write_text("no image")
    torch.save(load_file(teacher / "model.safetensors"), tmp_path / "bare.pt")
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    named = ["--setup", "digits", "--class_names", tmp_path / "names.txt", "--json"]
    bare = overhaul("predict", tmp_path / "bare.pt", tmp_path / "folder", *named)
    answers = [json.loads(line) for line in bare.out.splitlines()]
    assert [Path(each["image"]).name for each in answers] == ["b.png", "c.jpg", "a.PNG"]
    assert {name for name, _ in answers[0]["classes"]} < set(NAMES)
    assert "broken.png is no image that can be read" in bare.err
    (tmp_path / "names.txt").write_text("one\ntwo")
    refused(overhaul("predict", tmp_path / "bare.pt", tmp_path / "folder", *named), "has 2 names", "knows 10 classes")
    (tmp_path / "empty").mkdir()
    refused(overhaul("predict", teacher, tmp_path / "empty"), "holds no image files")
