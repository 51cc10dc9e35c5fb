"""The command line: what it shows, and one clear line with status 2 for every wrong input."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import yaml
from support.images import some_split, write_parquet
from support.runs import refused, teaching

from overhaul import models
from overhaul.cli.arguments import parse_training
from overhaul.cli.main import main
from overhaul.options import Run
from overhaul.recipe import Net, Setup
from overhaul.setups import HIDDEN, SETUPS, get, settings, teacher_setup
from overhaul.system.messages import UserError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["'trian' is not known", "did you mean train?"]),
        (["train"], ["name a setup with --setup (cifar_a"]),
        (["train", "--setup", "cifar_z"], ["'cifar_z' is not known", "did you mean cifar_", "imagenet_b"]),
        (["train", "--setup"], ["--setup needs a value"]),
        (["train", "--setup", "digits", "--epoch", "3"], ["unknown flag --epoch", "did you mean --epochs?"]),
        (["train", "--setup", "digits", "--batchsize=3"], ["unknown flag --batchsize", "--batch_size?"]),
        (["train", "--setup", "digits", "extra"], ["unknown argument extra"]),
        (["train", "--setup", "digits", "--lr", "fast"], ["--lr takes a number, not 'fast'"]),
        (["train", "--setup", "digits", "--epochs", "2.5"], ["--epochs takes a whole number, not '2.5'"]),
        (["train", "--setup", "digits", "--epochs", "0"], ["--epochs must be at least 1"]),
        (["train", "--setup", "digits", "--lr", "-1"], ["--lr must be 0 or more"]),
        (["train", "--setup", "digits", "--lr", "nan"], ["--lr"]),
        (["train", "--setup", "digits", "--lr_drops", "[100, 150]"], ["--lr_drops are fractions"]),
        (["train", "--setup", "digits", "--seed", "-3"], ["--seed must be between"]),
        (["train", "--setup", "digits", "--resume", "yes"], ["--resume", "auto, never"]),
        (["train", "--setup", "digits", "--overwrite"], ["--overwrite goes with --resume never"]),
        (
            ["train", "--setup", "digits", "--compile", "max", "--gradient_accumulation_steps", "2"],
            ["--compile max takes whole batches"],
        ),
        (["train", "--setup", "digits", "--sync_bn", "--compile"], ["--sync_bn goes without --compile"]),
        (["train", "--setup", "digits", "--tracker", "tensorbord"], ["did you mean tensorboard?"]),
        (["train", "--setup", "digits", "--mixed_precision", "bf61"], ["did you mean bf16?"]),
        (["train", "--setup", "digits", "--config", "missing.yaml"], ["missing.yaml: there is no such file"]),
        (["train", "--setup", "digits", "--method", "overhal", "--teacher", "x"], ["did you mean overhaul?"]),
        (["train", "--setup", "digits_teacher", "--data", "cifar1000"], ["did you mean cifar100?"]),
        (
            ["train", "--setup", "digits_teacher", "--student.family", "wide_resnt"],
            ["did you mean wide_resnet?", "mobilenet"],
        ),
        (["train", "--setup", "digits_teacher", "--student.kwargs.dept", "10"], ["takes depth, width, not dept (did"]),
        (["train", "--setup", "digits_teacher", "--lr_drops", "0.5", "0.7"], ["--lr_drops takes numbers in brackets"]),
        (["train", "--setup", "digits_teacher", "--data_path", ""], ["--data_path takes a text, not ''"]),
        (["train", "--setup", "digits_teacher", "--student.kwargs.depth", "11"], ["6n + 4"]),
        (["train", "--setup", "digits_teacher", "--data_path", "/nowhere"], ["/nowhere: there is no such folder"]),
        (["train", "--setup", "digits_teacher", "--batch_size", "1"], ["leaves BatchNorm less than 2 images"]),
        (
            ["train", "--setup", "digits_teacher", "--gradient_accumulation_steps", "3"],
            ["--batch_size 64", "1 processes x 3 gradient accumulation steps do not divide it"],
        ),
        (["train", "--setup", "digits_teacher", "--gradient_accumulation_steps", "0"], ["must be at least 1, not 0"]),
        (["train", "--setup", "digits_teacher", "--sync_bn"], ["--sync_bn needs GPUs"]),
        (["train", "--setup", "digits_teacher", "--workers", "-1"], ["--workers must be 0 or more"]),
        (["train", "--setup", "digits_teacher", "--skip_broken", "-1"], ["--skip_broken must be 0 or more"]),
        (["train", "--setup", "digits_teacher", "--stream_images", "0"], ["--stream_images must be at least 1"]),
        (
            ["train", "--setup", "digits_teacher", "--streaming"],
            ["the digits are held in memory: they are not streamed"],
        ),
        (["train", "--setup", "digits_teacher", "--num_classes", "-3"], ["--num_classes must be at least 1"]),
        (["train", "--setup", "digits_teacher", "--lr", "1e39"], ["--lr must be 0 or more and finite"]),
        (["train", "--setup", "digits_teacher", "--crop_area", "[0.1, 2]"], ["--crop_area"]),
        (["train", "--setup", "digits_teacher", "--test_resize", "8"], ["--test_resize must be at least --image_size"]),
        (["train", "--setup", "digits_teacher", "--data", "imagnet"], ["did you mean imagenet?"]),
        (
            ["train", "--setup", "digits_teacher", "--method", "overhaul", "--teacher", "t"],
            ["t: there is no such file"],
        ),
        (["train", "--setup", "digits_teacher", "--teacher", "t"], ["trains the student alone; leave it out"]),
        (["train", "--setup", "digits_teacher", "--batch_size", "2000"], ["more than the 1437 training images"]),
        (["train", "--setup", "digits_teacher", "--mixed_precision", "fp16"], ["fp16 needs a GPU", "bf16"]),
        (["evaluate", "nowhere.pt", "--data", "digits"], ["nowhere.pt: there is no such file or folder"]),
        (["evaluate", "nowhere.pt"], ["--data"]),
        (["evaluate"], ["source"]),
        (["evaluate", "x", "--data", "digits", "--jsn"], ["unknown flag --jsn", "--json?"]),
        (["setups", "--all"], ["unknown flag --all"]),
        (["demo", "--epochs", "0"], ["--epochs must be at least 1"]),
        (["prepare", "--data", "imagenet"], ["--out"]),
        (["prepare", "--data", "digits", "--out", "x"], ["the digits", "need no preparation"]),
        (
            ["prepare", "--data", "imagenet", "--data_path", "nowhere", "--out", "x"],
            ["nowhere: there is no such folder"],
        ),
        (["bench", "dat"], ["data"]),
        (["bench", "data", "--seconds", "0"], ["--seconds must be above 0"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_is_one_clear_line(overhaul, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(overhaul(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_teacher_names_three_ways_to_get_one(overhaul, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, setup in SETUPS.items():
        if setup.method == "overhaul" and not setup.teacher.weights:
            row, own = teacher_setup(setup), ["--student", "timm:resnet18", "--data_path", tmp_path] * (name == "own")
            refused(
                overhaul("train", "--setup", name, *own),
                f"overhaul train --setup {row.name}, then --teacher runs/{row.name}-original-seed0",
                "--teacher FILE.pt",
                "--teacher USER/REPO",
            )


def test_wrong_data_leave_an_earlier_run_whole(overhaul, tmp_path):
    """The data decide the number of classes; then the same run is asked for with data that do not fit."""
    good = write_parquet(tmp_path / "good", train=some_split(70), test=some_split(5))
    command = ["train", *teaching("--output_dir")]
    trained = overhaul(*command, tmp_path / "run", "--data_path", good)
    assert trained.status == 0 and "num_classes=3" in trained.out

    def times() -> list[int]:
        return sorted(path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("[!.]*"))

    before = times()
    (tmp_path / "empty").mkdir()
    refused(overhaul(*command, tmp_path / "run", "--data_path", tmp_path / "empty"), "cannot be read")
    refused(overhaul(*command, tmp_path / "run", "--data_path", good, "--label_column", "imgs"), "did you mean img?")
    assert times() == before


def test_setups_are_printed_with_their_parameters_and_published_errors(overhaul):
    out = overhaul("setups").out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split() and line.split()[0] in SETUPS}
    assert set(rows) == set(SETUPS)
    assert all(text in rows["cifar_c"] for text in ("5.87 -> 0.70", "cifar100", "200", "27.32 -> 24.08"))
    assert all(text in rows["imagenet_a"] for text in ("60.19 -> 25.56", "100", "23.72 / 6.97 -> 21.65 / 5.83"))
    assert len(json.loads(overhaul("setups", "--json").out)) == len(SETUPS)


@pytest.mark.parametrize("name", SETUPS)
def test_a_setup_is_printed_whole(overhaul, name):
    out, whole = overhaul("setups", name).out, json.loads(overhaul("setups", name, "--json").out)
    for each in fields(Setup):
        if each.name not in HIDDEN:
            assert re.search(rf"^{each.name}  ", out, re.M) and each.name in whole
    row, given = SETUPS[name], " --data_path FOLDER --student NETWORK" if name.startswith("own") else ""
    assert (
        (row.student.family or "any") in out
        and f"lr                {'-' if row.lr is None else f'{row.lr:g}'}" in out
        and f"  {whole['commands'][-1]}" in out
    )
    assert whole["commands"][-1].startswith(f"overhaul train --setup {name}")
    if row.published:
        assert f"distilled {row.published.distilled:.2f}" in out
    taught = teacher_setup(row)
    assert whole["commands"][:-1] == ([f"overhaul train --setup {taught.name}{given}"] if taught else [])


def test_an_unknown_setup_is_told_the_nearest(overhaul):
    refused(overhaul("setups", "cifer_c"), "did you mean cifar_c?")


def test_the_families_are_printed_with_arguments_that_make_networks(overhaul):
    out, found = overhaul("models").out, json.loads(overhaul("models", "--json").out)
    assert [each["family"] for each in found] == list(models.FAMILIES)
    assert "pyramidnet" in out and "bottleneck (true or false)" in out and "6n + 4 (10, 16, 22, ...)" in out
    for each in found:
        net = Net(family=each["family"], kwargs={**each["example"], "num_classes": 3})
        assert models.parameters(net) and set(each["example"]) == set(each["arguments"])
        command = f"--student.family {each['family']}"
        assert command in out and each["about"].split(".")[0][:40] in out


def test_the_list_of_commands(overhaul):
    for command in ([], ["--help"], ["-h"]):
        result = overhaul(*command)
        assert result.status == 0 and "usage: overhaul COMMAND" in result.out and "  models " in result.out


def asked_for(argv: list[str]) -> tuple[Setup, Run]:
    values = parse_training(argv)
    return settings(values.pop("setup"), values)


def test_flags_change_a_setup_and_a_run():
    argv = [
        "--setup",
        "cifar_c",
        "--teacher",
        "a/b",
        "--lr=0.05",
        "--epochs",
        "30",
        "--nesterov",
        "false",
        "--seed",
        "3",
    ]
    setup, run = asked_for(argv)
    assert (setup.lr, setup.epochs, setup.nesterov, setup.teacher.weights) == (0.05, 30, False, "a/b")
    assert (setup.batch_size, setup.published, run.seed) == (128, get("cifar_c").published, 3)
    assert get("cifar_c").lr == 0.1


@pytest.mark.parametrize(
    ("argv", "compile"),
    [([], "no"), (["--compile"], "default"), (["--compile", "--seed", "1"], "default"), (["--compile", "max"], "max")],
)
def test_compile_needs_no_value(argv, compile):
    assert asked_for(["--setup", "cifar_c", *argv])[1].compile == compile


def test_a_yaml_file_and_flags_over_it(tmp_path):
    (tmp_path / "run.yaml").write_text("setup: cifar_d\nlr: 0.02\nepochs: 7\nteacher:\n  weights: me/teacher\n")
    setup, _ = asked_for(["--config", str(tmp_path / "run.yaml"), "--epochs", "9"])
    assert (setup.name, setup.lr, setup.epochs, setup.teacher.weights) == ("cifar_d", 0.02, 9, "me/teacher")
    assert setup.teacher.kwargs == get("cifar_d").teacher.kwargs


def test_a_yaml_file_of_another_setup(overhaul, tmp_path):
    (tmp_path / "run.yaml").write_text("setup: digits\n")
    refused(
        overhaul("train", "--setup", "cifar_c", "--config", tmp_path / "run.yaml"), "is of the setup digits", "drop one"
    )


def test_a_yaml_file_with_an_unknown_key(overhaul, tmp_path):
    (tmp_path / "run.yaml").write_text("setup: digits\nlearning_rate: 0.02\n")
    refused(overhaul("train", "--config", tmp_path / "run.yaml"), "learning_rate")
    (tmp_path / "run.yaml").write_text("setup: digits\nepoch: 3\n")
    refused(overhaul("train", "--config", tmp_path / "run.yaml"), "unknown entry epoch (did you mean epochs?)")
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\xff")
    refused(overhaul("train", "--setup", "digits", "--config", tmp_path / "run.yaml"), "is not YAML")
    (tmp_path / "run.yaml").write_text("setup: [digits\n")
    refused(overhaul("train", "--config", tmp_path / "run.yaml"), "is not YAML")


def test_print_config_can_be_given_back(overhaul, tmp_path):
    printed = overhaul("train", "--setup", "cifar_e", "--lr", "0.3", "--print_config")
    assert printed.status == 0 and yaml.safe_load(printed.out)["lr"] == 0.3
    (tmp_path / "run.yaml").write_text(printed.out)
    assert asked_for(["--config", str(tmp_path / "run.yaml")])[0] == asked_for(["--setup", "cifar_e", "--lr", "0.3"])[0]


def test_evaluate_prints_accuracies_and_the_number_of_images(overhaul, digits_teacher):
    result = overhaul("evaluate", digits_teacher, "--data", "digits")
    assert result.status == 0 and "top-1" in result.out and "of 360 images" in result.out
    assert set(json.loads(overhaul("evaluate", digits_teacher, "--data", "digits", "--json").out)) == {
        "top1",
        "top5",
        "images",
    }


def test_evaluate_on_data_of_other_classes(overhaul, digits_teacher, tmp_path):
    path = write_parquet(tmp_path / "set", test=some_split(5))
    result = overhaul("evaluate", digits_teacher, "--data", path)
    refused(result, "have 3 classes, 3 of which are none of the 10 that the network knows: cat, dog, eel")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    """A ValueError that Python raises in a file of the package: here a row of the paper's has two errors, not three."""
    row = SETUPS["imagenet_a"]
    broken = replace(row, published=replace(row.published, top5=(1.0, 2.0)))
    monkeypatch.setitem(SETUPS, "imagenet_a", broken)
    with pytest.raises(ValueError, match="not enough values to unpack") as raised:
        main(["setups"])
    assert raised.traceback[-1].path.name == "published.py" and not isinstance(raised.value, UserError)


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["train", "--help"],
        ["setups"],
        ["setups", "cifar_c"],
        ["models"],
        ["methods", "--help"],
        ["train", "--setup", "digits", "--method", "kkd"],
        ["train", "--setup", "imagenet_b", "--teacher.family", "resnext"],
        ["train", "--setup", "imagenet_b", "--student.family", "vit", "--teacher", "me/teacher"],
    ],
    ids=" ".join,
)
def test_what_needs_no_network_is_told_at_once(command):
    """Without torch: a fraction of a second of CPU, whatever else the machine has to do."""
    pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-m", "overhaul", *command], **pipe)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (2 if "--setup" in command else 0) and usage.ru_utime + usage.ru_stime < 1


def test_train_py_and_the_command_are_the_same_program(tmp_path):
    script = os.path.join(os.path.dirname(models.__file__), "..", "train.py")
    for command in ([sys.executable, script], [sys.executable, "-m", "overhaul", "train"]):
        result = subprocess.run([*command, "--setup", "digits"], capture_output=True, text=True, cwd=tmp_path)
        assert (
            result.returncode == 2 and "needs a trained teacher" in result.stderr and "Traceback" not in result.stderr
        )
