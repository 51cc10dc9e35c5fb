"""Several processes: two gloo processes train, agree, and count every test image once."""

import io
import json

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
import yaml
from PIL import Image
from support.launch import TORCHRUN, launch, launch_two_nodes
from support.one_step import one_step
from support.places import REPOSITORY, SHARED
from support.runs import digests, quick, stop

from overhaul import models
from overhaul.data import sources
from overhaul.options import Run
from overhaul.setups import SETUPS


@pytest.fixture(scope="module")
def two(digits_teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    arguments = ["--setup", "digits", "--epochs", 2, "--teacher", digits_teacher, "--output_dir", folder]
    return launch(2, *arguments), folder, arguments


def test_two_processes_train_as_one_run(two):
    result, folder, _ = two
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stdout
    assert result.stdout.count("epoch   1/2") == 1, "only the main process speaks"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in metrics] == [1, 2]
    assert metrics[1]["loss"] < metrics[0]["loss"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["batch_size"] == 64


def test_two_processes_start_as_one_process_does(two, digits_teacher, tmp_path, overhaul):
    """Same samples and same weights: the first epoch's loss differs by BatchNorm's smaller batches alone."""
    _, folder, _ = two
    alone = overhaul(
        "train", "--setup", "digits", "--epochs", 2, "--teacher", digits_teacher, "--output_dir", tmp_path / "run"
    )
    assert alone.status == 0
    ours, theirs = (json.loads((f / "metrics.jsonl").read_text().splitlines()[0]) for f in (folder, tmp_path / "run"))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.05)


def test_the_test_set_is_counted_whole_and_the_saved_student_is_the_measured_one(two, overhaul):
    _, folder, _ = two
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    alone = json.loads(overhaul("evaluate", folder, "--data", "digits", "--json").out)
    assert alone == {"top1": final["test_top1"], "top5": final["test_top5"], "images": 360}


def test_two_processes_evaluate_an_odd_number_of_images_exactly(two, tmp_path, overhaul):
    """359 images on two processes: the loaders are of unequal length."""
    _, folder, _ = two
    (digits,) = sources.load("digits", 32, Run(), 10, splits=("test",))
    pictures = [Image.fromarray(pixels) for pixels in digits.pixels[:359]]
    columns = {"image": pictures, "label": digits.labels[:359]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / "test.parquet")
    command = ["evaluate", folder, "--data", tmp_path, "--json"]
    together = launch(2, *command, script=["-m", "overhaul"])
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout) == json.loads(overhaul(*command).out)
    assert json.loads(together.stdout)["images"] == 359


def test_two_processes_go_on_with_the_images_of_one(two, digits_teacher, tmp_path, monkeypatch):
    """Stopped in the middle of the first epoch, whose sums are then those of all its images."""
    _, folder, _ = two
    stop(monkeypatch, quick(digits_teacher), Run(output_dir=str(tmp_path / "run")), step=11)
    result = launch(
        2, "--setup", "digits", "--epochs", 2, "--teacher", digits_teacher, "--output_dir", tmp_path / "run"
    )
    assert result.returncode == 0, result.stderr
    assert "resumed after step 11 of epoch 1; it ran on 1 process before and on 2 now" in result.stdout
    now, whole = (json.loads((f / "metrics.jsonl").read_text().splitlines()[0]) for f in (tmp_path / "run", folder))
    assert now["loss"] == pytest.approx(whole["loss"], rel=0.05)


def test_two_nodes_train_the_run_that_two_processes_do(two, tmp_path):
    _, folder, arguments = two
    statuses, outputs = launch_two_nodes(*arguments[:-1], tmp_path / "run")
    assert statuses == [0, 0], outputs
    assert "2 x cpu" in outputs[0] and "epoch   2/2" in outputs[0] and "epoch " not in outputs[1]
    assert digests(tmp_path / "run" / "final") == digests(folder / "final")


@pytest.mark.parametrize(("parts", "hook", "bound"), [(1, "no", 1e-5), (2, "no", 1e-5), (1, "bf16", 1e-2)])
def test_loss_and_gradient_are_those_of_one_process(digits_teacher, tmp_path, parts, hook, bound):
    """With BatchNorm in eval mode, whatever the processes and the gradient accumulation steps."""
    alone = one_step(str(digits_teacher), 1)
    result = launch(
        2, digits_teacher, parts, hook, tmp_path / "step", script=[REPOSITORY / "tests" / "support" / "one_step.py"]
    )
    assert result.returncode == 0, result.stderr
    del alone["rank"]
    assert alone["losses"].min() > 0.1 and all(alone[name].abs().max() > 0 for name in alone)
    for rank in (0, 1):
        theirs = torch.load(tmp_path / f"step.{rank}")
        assert theirs.keys() == alone.keys()
        for name, value in alone.items():
            error = (theirs[name] - value).norm() / value.norm()
            assert error < (1e-5 if name == "losses" else bound), (name, error)
            assert name == "losses" or hook == "no" or error > 1e-5, "the hook had no part in it"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> list:
    """The arguments of a few steps of imagenet_b: real JPEGs where they are to be had, and an untrained teacher."""
    folder = tmp_path_factory.mktemp("imagenet")
    sample = SHARED / "data" / "imagenet_sample" / "data"
    names = [f"n{number:08d}" for number in range(1000)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
    draw = np.random.default_rng(0)
    for split, n in (("train", 20), ("validation", 7)):
        if sample.is_dir():
            table = pyarrow.parquet.read_table(sample / f"{split}-00000-of-00001.parquet").slice(0, n)
            pyarrow.parquet.write_table(table, folder / f"{split}.parquet")
            continue
        pictures = [Image.fromarray(draw.integers(0, 256, (240, 260, 3), dtype=np.uint8)) for _ in range(n)]
        columns = {"image": list(map(as_jpeg, pictures)), "label": draw.integers(0, 1000, n)}
        datasets.Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    torch.manual_seed(0)
    torch.save(models.create(SETUPS["imagenet_b"].teacher).state_dict(), folder / "resnet50.pt")
    arguments = ["--setup", "imagenet_b", "--data_path", folder, "--teacher", folder / "resnet50.pt"]
    return [*arguments, "--batch_size", 8, "--epochs", 1, "--workers", 1, "--output_dir"]


def as_jpeg(picture: Image.Image) -> dict:
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return {"bytes": file.getvalue(), "path": None}


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def test_imagenet_b_in_one_process_in_two_and_on_two_nodes(imagenet, tmp_path, overhaul):
    alone = overhaul("train", *imagenet, tmp_path / "alone")
    assert alone.status == 0, alone.err
    assert "20 training and 7 test images" in alone.out and "1 epochs x 2 = 2, each of 8 images (1 x 8)" in alone.out
    assert "published top-1 / top-5 error: 28.75 % / 9.66 % distilled" in alone.out
    together = launch(2, *imagenet, tmp_path / "together")
    assert together.returncode == 0, together.stderr
    assert "each of 8 images (2 x 4)" in together.stdout
    statuses, outputs = launch_two_nodes(*imagenet, tmp_path / "nodes")
    assert statuses == [0, 0], outputs
    assert digests(tmp_path / "nodes" / "final") == digests(tmp_path / "together" / "final")
    one, two = (metrics_of(tmp_path / name) for name in ("alone", "together"))
    assert one["loss"] == pytest.approx(two["loss"], rel=0.2), "BatchNorm sees 8 images or 4"
    data_path = imagenet[3]
    measured = overhaul("evaluate", tmp_path / "alone", "--data", "imagenet", "--data_path", data_path, "--json")
    assert json.loads(measured.out) == {"top1": one["test_top1"], "top5": one["test_top5"], "images": 7}


def test_a_batch_that_the_processes_do_not_divide(tmp_path):
    result = launch(2, "--setup", "digits_teacher", "--batch_size", 63, "--output_dir", tmp_path / "run")
    assert result.returncode != 0
    assert "--batch_size 63 is of all processes together, and 2 processes do not divide it" in result.stderr
    assert not (tmp_path / "run").exists()


def test_torchrun_starts_one_run(tmp_path):
    arguments = ["--setup", "digits_teacher", "--student.kwargs.depth", "10", "--epochs", "1"]
    result = launch(2, *arguments, "--output_dir", tmp_path / "run", launcher=TORCHRUN)
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stdout and result.stdout.count("epoch   1/1") == 1


def test_independent_processes_are_refused(tmp_path):
    """As on a machine whose one accelerator has no collectives (Apple's): each process would be a run of its own."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys\n"
        "from overhaul.system import accelerator as engine\n"
        "from overhaul.cli.main import main\n"
        "prepared = engine.Accelerator\n"
        "engine.Accelerator = lambda cpu, **others: prepared(cpu=False, **others)\n"
        "sys.exit(main(['train', *sys.argv[1:]]))\n"
    )
    arguments = ["--setup", "digits_teacher", "--output_dir", tmp_path / "run"]
    result = launch(2, *arguments, launcher=TORCHRUN, script=[script])
    assert result.returncode != 0 and "2 processes were launched, but each would train alone" in result.stderr
    assert not (tmp_path / "run").exists()
