"""The loop from end to end on the digits: what a run leaves, resumes, refuses and shows."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.images import some_split, write_parquet
from support.runs import DIGITS_TEACHER, SIZE, digests, distilling, flags, quick, student_of, teaching, times_apart

from overhaul import hub, models
from overhaul.data.known import KNOWN
from overhaul.options import Run
from overhaul.setups import SETUPS, Net
from overhaul.system.messages import duration
from overhaul.training import step as taken
from overhaul.training.build import build
from overhaul.training.trainer import train


def test_a_run_leaves_configuration_metrics_checkpoints_and_students(finished):
    folder = finished.folder
    files = {".lock", "config.yaml", "metrics.jsonl", "overhaul.json", "checkpoints", "final", "best", "curves.png"}
    assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["epoch-0001", "epoch-0002"]
    for student in ("final", "best"):
        assert {path.name for path in (folder / student).iterdir()} == {"config.json", "model.safetensors"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["setup"], config["epochs"], config["mixed_precision"], config["lr"]) == ("digits", 2, "no", 0.05)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == finished.metrics and [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] == pytest.approx(line["cross_entropy"] + line["distill_loss"])
        means = {"loss", "cross_entropy", "distill_loss", "train_top1", "test_top1", "test_top5"}
        assert set(line) == {"epoch", "lr", *means, "images_per_second", "seconds"}


def test_the_student_folder_loads_and_evaluates_to_the_same_accuracy(finished, overhaul):
    network = hub.load(str(finished.folder))
    assert not network.training and type(network).__name__ == "WideResNet"
    assert set(load_file(finished.folder / "final" / "model.safetensors")) == set(network.state_dict())
    for student, line in (("final", finished.final), ("best", finished.best)):
        result = overhaul("evaluate", finished.folder / student, "--data", "digits", "--json")
        assert json.loads(result.out) == {"top1": line["test_top1"], "top5": line["test_top5"], "images": 360}


def test_a_distilled_student_can_teach(finished, tmp_path):
    """--teacher takes a run's folder, with the net that the folder names in place of the setup's."""
    result = train(quick(finished.folder, epochs=1), Run(output_dir=str(tmp_path / "run")))
    assert result.teacher_top1 == finished.final["test_top1"]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["teacher"]["kwargs"] == {"depth": 10, "width": 1, "num_classes": 10}


def test_the_same_seed_gives_the_same_student_and_another_seed_another(digits_teacher, finished, tmp_path):
    again = train(quick(digits_teacher), Run(output_dir=str(tmp_path / "again")))
    other = train(quick(digits_teacher), Run(output_dir=str(tmp_path / "other"), seed=1))
    assert student_of(again.folder) == student_of(finished.folder) != student_of(other.folder)
    assert times_apart(again.metrics) == times_apart(finished.metrics)


def test_both_methods_start_from_the_same_student(digits_teacher):
    def start(method):
        setup = quick(digits_teacher, method=method)
        return build(setup, Run()).student.state_dict()

    original, overhaul = start("original"), start("overhaul")
    assert all(torch.equal(original[name], overhaul[name]) for name in original)


def test_the_teacher_is_in_no_checkpoint(finished):
    saved = load_file(finished.folder / "checkpoints" / "epoch-0002" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} == {"student", "connectors"}


def test_a_killed_run_goes_on_to_the_same_student(digits_teacher, finished, tmp_path):
    """SIGKILL to the real command in its second epoch, and the same command again."""

    def start():
        command = [sys.executable, "-m", "overhaul", *flags(digits_teacher, tmp_path / "run")]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    killed = start()
    while not (tmp_path / "run" / "checkpoints" / "epoch-0001").is_dir():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "run" / "checkpoints" / "epoch-0002").exists()
    assert start().wait() == 0
    assert student_of(tmp_path / "run") == student_of(finished.folder)


def test_a_finished_run_is_not_trained_again(digits_teacher, finished, tmp_path, overhaul):
    shutil.copytree(finished.folder, tmp_path / "run")
    result = overhaul(*flags(digits_teacher, tmp_path / "run"))
    assert result.status == 0 and "resumed after epoch 2" in result.out and "epoch   2/2" not in result.out
    assert digests(tmp_path / "run" / "final") == digests(finished.folder / "final")


def test_leftovers_of_a_killed_run_are_swept_away(digits_teacher, tmp_path):
    """Of one that was killed while it wrote its first file, and while it wrote and deleted checkpoints."""
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.parent.mkdir()
    (tmp_path / "run" / ".config.yaml").write_text("setup: di")
    train(quick(digits_teacher, epochs=1), Run(output_dir=str(tmp_path / "run")))
    for name in ("unfinished", "deleted"):
        (checkpoints / name).mkdir()
        (checkpoints / name / "model.safetensors").write_bytes(b"half")
    train(quick(digits_teacher, epochs=1), Run(output_dir=str(tmp_path / "run"), resume_with="epochs=2"))
    assert sorted(path.name for path in checkpoints.iterdir()) == ["epoch-0001", "epoch-0002"]


def test_weights_that_are_not_finite_are_never_kept(digits_teacher, monkeypatch, tmp_path, overhaul):
    """The losses of an epoch may be finite while its last update is not."""
    step, calls = taken.training_step, []

    def failing(accelerator, model, *arguments):
        calls.append(1)
        result = step(accelerator, model, *arguments)
        if len(calls) == 2 * 22:
            next(model.parameters()).data[0] = math.inf
        return result

    monkeypatch.setattr(taken, "training_step", failing)
    result = overhaul(*flags(digits_teacher, tmp_path / "run", "--epochs", "3"))
    assert result.status == 2 and "the weights are no longer finite after step 22 of epoch 2" in result.err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0001"]
    assert str(tmp_path / "run" / "checkpoints" / "epoch-0001") in result.err


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.yaml", b"", "config.yaml is broken"),
        ("config.yaml", b"a: [", "config.yaml is broken"),
    ],
)
def test_a_damaged_run_is_refused_and_left_alone(digits_teacher, finished, tmp_path, overhaul, file, content, words):
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(content)
    before = digests(tmp_path / "run")
    result = overhaul(*flags(digits_teacher, tmp_path / "run"))
    assert result.status == 2 and words in result.err and len(result.err.splitlines()) == 1, result.err
    assert digests(tmp_path / "run") == before


def test_metrics_are_written_again_from_the_checkpoint(digits_teacher, finished, tmp_path, overhaul):
    shutil.copytree(finished.folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("half a li")
    (tmp_path / "run" / "checkpoints" / "epoch-copy").mkdir()
    assert overhaul(*flags(digits_teacher, tmp_path / "run")).status == 0
    assert digests(tmp_path / "run")["metrics.jsonl"] == digests(finished.folder)["metrics.jsonl"]


def test_a_run_does_not_go_on_with_other_images(tmp_path, overhaul):
    command = ["train", "--setup", "digits", "--method", "original", "--epochs", "1", "--batch_size", "8"]
    for name, n in (("a", 24), ("b", 25)):
        write_parquet(tmp_path / name, train=some_split(n), test=some_split(5))
    assert overhaul(*command, "--output_dir", tmp_path / "run", "--data_path", tmp_path / "a").status == 0
    result = overhaul(*command, "--output_dir", tmp_path / "run", "--data_path", tmp_path / "b")
    assert result.status == 2 and "was trained on other data (24 images of 3 classes" in result.err
    moved = (tmp_path / "a").rename(tmp_path / "moved")
    assert overhaul(*command, "--output_dir", tmp_path / "run", "--data_path", moved).status == 0


@pytest.mark.parametrize("place", ["file/run", "/proc/run", "file"])
def test_a_folder_that_cannot_be_made(digits_teacher, tmp_path, overhaul, place):
    (tmp_path / "file").write_text("a file")
    result = overhaul(*flags(digits_teacher, tmp_path / place))
    assert result.status == 2 and "with --output_dir" in result.err and len(result.err.splitlines()) == 1


def test_the_published_errors_are_shown_for_the_paper_s_networks_and_data_only(tmp_path, overhaul):
    result = overhaul(
        *["train", "--setup", "cifar_c", "--data", "digits", "--method", "original", "--epochs", "1"],
        *["--image_size", SIZE],
        *["--student.kwargs.depth", "10", "--student.kwargs.width", "1", "--output_dir", tmp_path / "run"],
    )
    assert result.status == 0 and "published top-1" not in result.out


def test_resume_never_refuses_a_folder_in_use_unless_told_to_overwrite(digits_teacher, tmp_path, overhaul):
    arguments = flags(digits_teacher, tmp_path / "run", "--epochs", "1", "--resume", "never")
    assert overhaul(*arguments).status == 0
    before = digests(tmp_path / "run")
    refused = overhaul(*arguments)
    assert refused.status == 2 and "add --overwrite" in refused.err
    assert digests(tmp_path / "run") == before
    replaced = overhaul(*arguments, "--lr", "0.01", "--overwrite")
    assert replaced.status == 0 and "resumed" not in replaced.out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["lr"] == 0.01 and not {"resume", "overwrite"} & set(config)
    again = overhaul("train", "--config", tmp_path / "run" / "config.yaml")
    assert again.status == 0 and "resumed after epoch 1" in again.out


def test_another_configuration_is_refused_with_the_fields_that_differ(digits_teacher, finished, tmp_path, overhaul):
    shutil.copytree(finished.folder, tmp_path / "run")
    before = digests(tmp_path / "run")
    result = overhaul(*flags(digits_teacher, tmp_path / "run", "--lr", "0.3", "--seed", "4"))
    assert result.status == 2
    assert "lr: 0.05 there, 0.3 here" in result.err and "seed: 0 there, 4 here" in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert digests(tmp_path / "run") == before


def test_a_folder_that_holds_no_run_is_left_alone(digits_teacher, tmp_path, overhaul):
    (tmp_path / "thesis.tex").write_text("years of work")
    for more in ([], ["--resume", "never", "--overwrite"]):
        result = overhaul(*flags(digits_teacher, tmp_path, *more))
        assert result.status == 2 and "holds files but no run" in result.err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_written_configuration_repeats_the_run(finished, tmp_path, overhaul):
    result = overhaul("train", "--config", finished.folder / "config.yaml", "--output_dir", tmp_path / "run")
    assert result.status == 0, result.err
    assert student_of(tmp_path / "run") == student_of(finished.folder)


def test_a_loss_that_is_not_finite_stops_the_run(digits_teacher, monkeypatch, tmp_path, overhaul):
    step, calls = taken.training_step, []

    def failing(*arguments):
        calls.append(1)
        logits, cross_entropy, distill_loss = step(*arguments)
        return logits, cross_entropy * (math.nan if len(calls) >= 22 + 7 else 1), distill_loss

    monkeypatch.setattr(taken, "training_step", failing)
    result = overhaul(*flags(digits_teacher, tmp_path / "run", "--epochs", "3"))
    assert result.status == 2
    assert "no longer finite at step 7 of epoch 2 (step 29 of the run)" in result.err
    assert str(tmp_path / "run" / "checkpoints" / "epoch-0001") in result.err
    assert (tmp_path / "run" / "checkpoints" / "epoch-0001" / "model.safetensors").is_file()


def test_a_real_divergence_stops_the_run(tmp_path, overhaul):
    result = overhaul("train", *teaching("--lr", "1e20", "--output_dir", tmp_path / "run"))
    assert result.status == 2 and "no longer finite at step" in result.err and "no checkpoint yet" in result.err


def test_bf16(digits_teacher, few_digits, tmp_path, overhaul):
    """Of a few digits: a CPU without bf16 takes a hundred times as long."""
    losses = []
    for precision in ("no", "bf16"):
        more = ["--batch_size", 16, "--data_path", few_digits, "--mixed_precision", precision]
        result = overhaul(*flags(digits_teacher, tmp_path / precision, *more))
        assert result.status == 0 and ("threads, bf16" in result.out) == (precision == "bf16"), result.out
        losses.append(json.loads((tmp_path / precision / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]
    student = load_file(tmp_path / "bf16" / "final" / "model.safetensors")
    assert all(value.dtype != torch.bfloat16 for value in student.values())


def test_mixup_trains(tmp_path):
    setup = replace(DIGITS_TEACHER, student=Net(family="cifar_resnet", kwargs={"depth": 8, "num_classes": 10}))
    result = train(replace(setup, mixup=1.0, epochs=2), Run(output_dir=str(tmp_path / "run")))
    assert result.final["loss"] < result.metrics[0]["loss"]


@pytest.mark.parametrize(
    "student",
    [
        Net(family="cifar_resnet", kwargs={"depth": 8}),
        Net(family="pyramidnet", kwargs={"depth": 8, "alpha": 6, "bottleneck": False}),
        Net(family="pyramidnet", kwargs={"depth": 11, "alpha": 6, "bottleneck": True}),
    ],
    ids=lambda net: f"{net.family} {net.kwargs['depth']}",
)
def test_students_of_every_small_family_learn(digits_teacher, tmp_path, student):
    result = train(quick(digits_teacher, student=student), Run(output_dir=str(tmp_path / "run")))
    assert result.final["loss"] < result.metrics[0]["loss"]
    assert hub.load(str(tmp_path / "run")).fc.out_features == 10


def test_the_accuracy_is_shown_beside_the_published_number(shared, tmp_path, overhaul, monkeypatch):
    """cifar_c on a slice of the real data, taken for all of it, with the real teacher: what is said."""
    monkeypatch.setitem(KNOWN, "cifar100", replace(KNOWN["cifar100"], training=(128, 0, 9), test=(100, 0, 9)))
    real = datasets.load_dataset(str(shared / "data" / "cifar100"))
    for split, n in (("train", 128), ("test", 100)):
        (tmp_path / "set").mkdir(exist_ok=True)
        real[split].select(range(n)).to_parquet(tmp_path / "set" / f"{split}.parquet")
    result = overhaul(
        *["train", "--setup", "cifar_c", "--epochs", "1", "--teacher"],
        shared / "teachers" / "WRN28-4_cifar100.pt",
        *("--data_path", tmp_path / "set", "--output_dir", tmp_path / "run"),
    )
    assert result.status == 0, result.err
    assert "128 training and 100 test images" in result.out
    teacher_line = next(line for line in result.out.splitlines() if line.startswith("teacher"))
    assert 60 < float(teacher_line.split("test top-1 ")[1].split()[0]) < 90
    assert "published top-1 error: 24.08 % distilled, 27.32 % student alone, 21.09 % teacher" in result.out
    assert f"final student: {tmp_path / 'run' / 'final'}" in result.out


def test_the_teacher_is_measured_before_training(digits_teacher, finished):
    measured = json.loads((digits_teacher / "metrics.jsonl").read_text().splitlines()[-1])["test_top1"]
    assert finished.teacher_top1 == measured


def test_student_and_connectors_learn(digits_teacher, finished):
    fresh = models.create(SETUPS["digits"].student)
    saved = load_file(finished.folder / "checkpoints" / "epoch-0002" / "model.safetensors")
    assert len(saved) > len(fresh.state_dict())
    for name, value in saved.items():
        if name.startswith("connectors") and name.endswith("1.weight"):
            assert not torch.all(value == 1)


def test_a_dry_run_says_what_the_run_costs_and_writes_nothing(digits_teacher, tmp_path, overhaul, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = overhaul("train", *distilling(digits_teacher, "--dry_run", epochs=6))
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert "teacher    wide_resnet depth=10 width=2" in lines[1]
    assert lines[1].endswith("(0.30 M parameters)")
    assert lines[2].endswith("(0.08 M parameters)")
    assert "connectors 0.01 M parameters, thrown away afterwards" in lines[3]
    row = r"0\.25 +block2.layer.0.bn1:out +/1 +32x16x16 +relu +BatchNorm block2.layer.0.bn1 +.* +16x16x16 +relu +no"
    assert lines[4].split()[0] == "weight" and re.fullmatch(row, lines[6].strip())
    assert "6 epochs x 22 = 132, each of 64 images (1 x 64)" in lines[9]
    assert re.fullmatch(r"teacher .*: test top-1 [\d.]+ % of 360 test images", lines[10])
    pace = re.search(r"pace +([\d.e+]+) images/s \(steps 4 to 8\): about (.*) of training to come", result.out)
    assert duration(132 * 64 / float(pace[1]))[-1] == pace[2][-1] and float(pace[1]) > 1
    memory = re.search(r"memory +([\d.]+) GiB at the peak of the first step", result.out)
    assert 0.05 < float(memory[1]) < 24
    assert lines[11].startswith("  1st batch  stage losses ") and lines[-1].startswith("dry run") and len(lines) == 16
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_its_plan_and_its_pace_once(finished_output):
    assert finished_output.count(" 16x16x16 ") == 1 and finished_output.count("images/s (steps 4 to 8)") == 1


def test_the_pace_of_an_epoch_of_one_step_is_that_step(tmp_path, overhaul):
    result = overhaul("train", *teaching("--batch_size", 1437, "--dry_run"))
    assert result.status == 0 and "images/s (steps 1 to 1)" in result.out, result.err


def test_gradient_accumulation_trains_and_is_part_of_the_configuration(digits_teacher, tmp_path, overhaul):
    arguments = flags(digits_teacher, tmp_path / "run", "--epochs", "1", "--gradient_accumulation_steps", "4")
    result = overhaul(*arguments)
    assert result.status == 0 and "each of 64 images (1 x 64 in 4 parts)" in result.out, result.err
    result = overhaul(*arguments[:-1], "2")
    assert result.status == 2 and "gradient_accumulation_steps: 4 there, 2 here" in result.err
