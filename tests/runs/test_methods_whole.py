"""Students of other methods from end to end: every command, mixed labels, and a method that a user adds."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.hub_client import Client
from support.hub_server import LocalHub
from support.methods import NAMES, SUM, flags, taught
from support.places import REPOSITORY, TESTS
from support.runs import command, refused

from overhaul import bench
from overhaul.setups import settings
from overhaul.training.trainer import train


@pytest.mark.parametrize("method", [name for name in NAMES if name != "dkd"])
def test_labels_that_are_mixed(digits_teacher, few_digits, tmp_path, method):
    result = train(*taught(digits_teacher, few_digits, method, mixup=0.5, epochs=1, output_dir=str(tmp_path / "run")))
    plain = train(*taught(digits_teacher, few_digits, method, epochs=1, output_dir=str(tmp_path / "plain")))
    assert result.final["loss"] != plain.final["loss"]


@pytest.mark.parametrize(("method", "words"), [
    ("kd", ["digits, kd: 96 training", "distillation loss"]),
    ("reviewkd", ["connectors 0.22 M parameters", "block3.layer.0.bn1:out"]),
    (SUM, ["connectors 0.01 M parameters", "digits, overhaul+kd: 96 training"]),
])  # fmt: skip
def test_a_dry_run(digits_teacher, few_digits, tmp_path, method, words):
    result = command(*flags(digits_teacher, few_digits, method, "--dry_run", "--output_dir", tmp_path / "run"))
    assert result.status == 0 and not (tmp_path / "run").exists(), result.err
    for each in (*words, "gradient of the distillation loss is ", "pace ", "memory ", "nothing was written"):
        assert each in result.out, result.out


@pytest.mark.parametrize("method", ["kd", "reviewkd", SUM, "rkd"])
def test_a_benchmark(monkeypatch, method):
    """Its step in pieces is the whole step."""
    monkeypatch.setattr(bench, "LARGE", (2, 64, 8, 8))
    setup, run = settings("digits", {"method": method, "image_size": 16})
    found = bench.bench(setup, run, 8, 1)
    assert found["method"] == method and min(found["pieces"].values()) > 0 and found["flops"] > 1e6
    whole, pieces = (bench.Trial(setup, 8, run) for _ in range(2))
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    whole.step(images, labels)
    pieces.step_in_pieces(images.to(memory_format=torch.channels_last), labels, lambda name: None)
    for one, other in zip(whole.method.parameters(), pieces.method.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_operations_of_a_sum_are_those_of_its_passes():
    """A second pass of the teacher where the modes differ, and none where they do not."""
    setups = [settings("digits", {"method": method, "image_size": 16, **more})[0] for method, more in (
        ("kd", {}), ("overhaul", {}), (SUM, {}), (SUM, {"teacher_norm": "running"}), ("original", {}))]  # fmt: skip
    kd, overhaul, both, once, alone = map(bench.operations, setups)
    assert both - overhaul == kd - alone > 0 and once == overhaul > kd


@pytest.mark.parametrize("method", ["kd", SUM])
def test_a_student_is_evaluated_exported_pushed_and_pulled(digits_teacher, few_digits, tmp_path, method):
    """As one of overhaul is, and it teaches the next one."""
    run = tmp_path / "run"
    assert command(*flags(digits_teacher, few_digits, method, "--output_dir", run)).status == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    found = command("evaluate", run, "--data", few_digits, "--json")
    assert json.loads(found.out)["top1"] == last["test_top1"], found.err
    exported = command("export", run, "--format", "pt2", "--out", tmp_path / "student.pt2")
    assert exported.status == 0 and (tmp_path / "student.pt2").is_file(), exported.err
    with LocalHub(tmp_path / "repositories") as hub:
        client = Client(hub, tmp_path / "home")
        pushed, pulled = client(["push", run, "me/it"], ["pull", "me/it", "--out", tmp_path / "pulled"])
    assert pushed.status == pulled.status == 0, pushed.err + pulled.err
    teaching = flags(tmp_path / "pulled", few_digits, method, "--epochs", 1, "--output_dir", tmp_path / "next")
    assert command(*teaching).status == 0


def test_a_method_that_a_user_adds(digits_teacher, few_digits, tmp_path):
    """The example of the methods' page: one file in a copy of the package, and nothing else."""
    page = (REPOSITORY / "overhaul" / "distill" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(REPOSITORY / "overhaul", tmp_path / "overhaul", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "overhaul" / "distill" / "logits.py").write_text(example)
    usual = "--epochs", 1
    run = flags(digits_teacher, few_digits, "logits", *usual, "--output_dir", tmp_path / "run")
    both = flags(digits_teacher, few_digits, "logits+at", *usual, "--output_dir", tmp_path / "both")
    first, other, summed = in_package(
        tmp_path, [*run, "--method.power", "1.5"], run, [*both, "--method.logits.power", "1"]
    )
    assert first["status"] == 0, first["err"]
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "method: logits" in config and "method.power: 1.5" in config and "distill_weight: 0.1" in config
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["distill_loss"] > 0 and line["loss"] == pytest.approx(line["cross_entropy"] + line["distill_loss"])
    assert other["status"] == 2 and "method.power: 1.5 there, 2.0 here" in other["err"]
    assert summed["status"] == 0 and "(logits)" in summed["out"], summed["err"]
    refused(command(*run), "'logits' is not known")


def in_package(folder: Path, *commands: list[str]) -> list[dict]:
    """What support.runs.command gives where the package is the one in that folder."""
    script = "import json, sys; from support.runs import command; "
    script += "print(json.dumps([vars(command(*argv)) for argv in json.load(sys.stdin)]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)])}
    how = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    result = subprocess.run([sys.executable, "-c", script], input=json.dumps(commands), **how)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "reviewkd", SUM])
def test_compiled(digits_teacher, few_digits, tmp_path, method):
    """With the losses that it has without."""
    how = {"epochs": 1, "lr": 1e-3}
    plain = train(*taught(digits_teacher, few_digits, method, output_dir=str(tmp_path / "plain"), **how))
    compiled = {"output_dir": str(tmp_path / "run"), "compile": "default"}
    result = train(*taught(digits_teacher, few_digits, method, **compiled, **how))
    for name in ("loss", "cross_entropy", "distill_loss"):
        assert result.final[name] == pytest.approx(plain.final[name], rel=1e-3)
