"""What a study is made of, before anything is trained: its runs, their names, its file, its list and its errors."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from support.runs import refused

import overhaul as package
from overhaul.cli import study as command
from overhaul.study import costs, jobs, plan
from overhaul.study.grid import cells
from overhaul.system.messages import UserError

DIGITS = ("--setup", "digits", "--epochs", "1", "--teacher", "teacher.pt")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to work in, which has a file where a teacher is looked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher.pt").touch()
    return tmp_path


def labels(*argv) -> list[str]:
    return [label for label, _ in command.parse([*map(str, argv), "--out", "out"])[1]]


def runs(*argv) -> list[plan.Planned]:
    _, asked, own = command.parse([*map(str, argv), "--out", "out"])
    return plan.planned(Path(own["out"]), asked)


def write(*argv) -> list[plan.Planned]:
    axes, asked, own = command.parse([*map(str, argv), "--out", "out"])
    found = plan.planned(Path(own["out"]), asked)
    plan.write(Path(own["out"]), axes, found)
    return found


def test_the_runs_are_the_product_by_setup_method_settings_and_seed(here):
    found = labels(*DIGITS, "--method", "original,kd", "--lr", "0.1,0.05", "--seed", "0,1")
    assert found[:3] == ["digits-original-lr0.1-seed0", "digits-original-lr0.1-seed1", "digits-original-lr0.05-seed0"]
    assert len(found) == 8 and found[-1] == "digits-kd-lr0.05-seed1"
    several = labels("--setup", "digits_teacher,cifar_teacher_wrn", "--seed", "3")
    assert several == ["digits_teacher-original-seed3", "cifar_teacher_wrn-original-seed3"]


def test_a_setting_of_a_method_multiplies_its_runs_alone(here):
    flags = ("--method", "original,overhaul,kd,kd+at", "--distill_weight.kd", "0.5", "--distill_weight.at", "1")
    found = labels(*DIGITS, *flags, "--method.kd.temperature", "2,4", "--seed", "0")
    assert found == [
        "digits-original-seed0",
        "digits-overhaul-seed0",
        "digits-kd-temperature2-seed0",
        "digits-kd-temperature4-seed0",
        "digits-kd+at-kd.temperature2-seed0",
        "digits-kd+at-kd.temperature4-seed0",
    ]


def test_runs_of_original_do_not_multiply_over_what_concerns_distillation_alone(here):
    found = runs(*DIGITS, "--method", "original,overhaul", "--distill_weight", "0.001,0.01")
    assert [each.setup.method for each in found] == ["original", "overhaul", "overhaul"]
    assert not found[0].setup.teacher.weights and found[1].setup.teacher.weights == "teacher.pt"


def test_two_cells_that_are_one_run_are_one(here):
    assert len(runs(*DIGITS, "--workers", "0,1", "--lr", "0.1,1e-1")) == 1


def test_lists_stay_in_their_brackets(here):
    found = runs(*DIGITS, "--mean", "[0.5,0.5,0.5],[0.4,0.4,0.4]", "--lr_drops", "[0.5, 0.75]")
    assert [each.setup.mean[0] for each in found] == [0.5, 0.4] and found[0].setup.lr_drops == (0.5, 0.75)
    found = runs(*DIGITS, "--nesterov", "true,false")
    assert [each.setup.nesterov for each in found] == [True, False]


def test_a_study_written_down_is_the_same_study(here):
    flags = (*DIGITS, "--method", "original,kd", "--mean", "[0.5,0.5,0.5],[0.4,0.4,0.4]", "--student.kwargs.depth", 10)
    mine = write(*flags, "--method.kd.temperature", "2,4")
    for way in (["out/study.yaml"], ["out"], ["--config", "out/study.yaml", "--out", "out"]):
        _, asked, own = command.parse(way)
        assert own == {"out": "out"}
        assert [each.config for each in plan.planned(Path("out"), asked)] == [each.config for each in mine]
    assert all(yaml.safe_load(each.config_file.read_text()) == each.config for each in mine)


def test_each_run_is_what_train_makes_of_its_file(here):
    from overhaul.cli.arguments import parse_training
    from overhaul.setups import settings

    for each in write(
        *DIGITS, "--method", "original,kd,overhaul+kd", "--distill_weight.kd", 1, "--distill_weight.overhaul", 1
    ):
        values = parse_training(["--config", str(each.config_file)])
        assert settings(values.pop("setup"), values) == (each.setup, each.run)


def test_a_study_may_grow_and_its_runs_keep_their_names(here):
    (before,) = write(*DIGITS)
    grown = write(*DIGITS, "--method", "overhaul,kd", "--lr", "0.05,0.2")
    assert grown[0].name == before.name and len(grown) == 4
    assert yaml.safe_load(Path("out/study.yaml").read_text())["lr"] == [0.05, 0.2]
    with pytest.raises(UserError, match=r"holds another study \(method: .*lr: \[0.05, 0.2\] there, None here\)"):
        write(*DIGITS)


def test_the_list_says_what_each_run_will_cost_and_writes_nothing(here, overhaul, monkeypatch):
    asked = []
    monkeypatch.setattr(costs, "dry_run", lambda run: asked.append(run.name) or (90.0, "by a few steps", 4))
    result = overhaul("study", *DIGITS, "--method", "original,kd", "--seed", "0,1", "--out", "out", "--dry_run")
    assert result.status == 0, result.err
    assert "without --teacher\n" in result.out and result.out.count("1 min 30 s") == 4 and "6 min 00 s" in result.out
    assert asked == ["digits-original-seed0", "digits-kd-seed0"] and not (here / "out").exists()


def test_finished_epochs_tell_what_like_runs_cost(here, monkeypatch):
    monkeypatch.setattr(costs, "dry_run", lambda run: pytest.fail("it is known"))
    first, second = write(*DIGITS, "--seed", "0,1")
    first.folder.mkdir()
    (first.folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "test_top1": 50.0, "seconds": 12.0}) + "\n")
    assert costs.costs([first, second])[second.name] == (12.0, f"by {first.name}'s epochs")


@pytest.mark.parametrize("wrong", ("[1]", '{"epoch": 1, "test_top1": 50.0, "seconds": "12"}', '{"epoch": 1}', "7"))
def test_an_epoch_that_cannot_be_read_is_none(here, wrong):
    (first,) = write(*DIGITS)
    first.folder.mkdir()
    (first.folder / "metrics.jsonl").write_text(wrong + "\n")
    assert first.metrics() == [] and not first.finished()


def test_tasks_of_an_array_that_begin_together_take_a_run_each(here):
    def task(number: int) -> str:
        flags = [*DIGITS, "--seed", "0,1,2", "--out", "out", "--task", str(number)]
        script = [sys.executable, "-m", "overhaul", "study", *flags]
        return subprocess.run(script, capture_output=True, text=True, check=True).stdout

    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(task, range(3)))
    assert told == [f"--config\nout/configs/digits-overhaul-seed{number}.yaml\n" for number in range(3)]
    assert yaml.safe_load(Path("out/study.yaml").read_text())["seed"] == [0, 1, 2]


def test_runs_side_by_side_share_what_there_is(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [each["OMP_NUM_THREADS"] for each in jobs.environments(4)] == ["2"] * 4
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in jobs.environments(2)] == ["2", "5"]
    with pytest.raises(UserError, match="at most 2, as there are 2 GPUs, not 3"):
        jobs.environments(3)


def test_a_study_in_python_is_that_of_the_command(here, monkeypatch):
    monkeypatch.setattr(costs, "dry_run", lambda run: (1.0, "", 4))
    how = {"distill_weight": {"kd": [0.5, 0.9]}, "method_settings": {"kd": {"temperature": [2, 4]}}, "epochs": 1}
    found = package.study(setup="digits", method=["original", "kd"], teacher="teacher.pt", out="o", dry_run=True, **how)
    flags = ("--distill_weight.kd", "0.5,0.9", "--method.kd.temperature", "2,4")
    assert [each["run"] for each in found] == labels(*DIGITS, "--method", "original,kd", *flags)
    assert {each["state"] for each in found} == {"not begun"} and len(found) == 5


def test_a_second_study_in_a_folder_is_refused(here, overhaul):
    script = "import sys, pathlib; from overhaul.study.plan import locked\n"
    script += "with locked(pathlib.Path('out'), '.lock'): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        refused(overhaul("study", *DIGITS, "--out", "out"), "out is in use by another study")
        holder.stdin.close()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--setup", "digits"], "needs --out FOLDER"),
        (["--out", "out"], "name setups with --setup"),
        (["--setup", "digits,cifar_z", "--out", "out"], "'cifar_z' is not known"),
        ([*DIGITS, "--out", "out", "--method", "kd,kdd"], "'kdd' is not known"),
        ([*DIGITS, "--out", "out", "--seed", "0,,1"], "a value between its commas is missing"),
        ([*DIGITS, "--out", "out", "--seed", "0,0"], "stands there twice"),
        ([*DIGITS, "--out", "out", "--seed", "0,x"], "--seed takes a whole number, not 'x'"),
        ([*DIGITS, "--out", "out", "--lr", "0.1,-1"], "digits-overhaul-lr-1-seed0: --lr must be 0 or more"),
        (
            ["--setup", "digits", "--method", "original,kd", "--out", "out"],
            "digits-kd-seed0: --method kd needs a trained",
        ),
        (["--setup", "digits", "--teacher", "no.pt", "--out", "out"], "no.pt: there is no such file"),
        ([*DIGITS, "--out", "out", "--method.beta", "1"], "--method.beta would change nothing"),
        ([*DIGITS, "--out", "out", "--output_dir", "x"], "unknown flag --output_dir"),
        ([*DIGITS, "--out", "out", "--push_to_hub", "a/b"], "unknown flag --push_to_hub"),
        ([*DIGITS, "--out", "a,b"], "--out takes one value"),
        ([*DIGITS, "--out", "out", "--jobs", "0"], "--jobs must be at least 1"),
        ([*DIGITS, "--out", "out", "--task", "1"], "1 runs, 0 to 0, and no number 1"),
        ([*DIGITS, "--out", "teacher.pt"], "teacher.pt cannot be written to"),
        (["none.yaml", "--out", "out"], "none.yaml: there is no such file"),
        (["list.yaml", "--out", "out"], "holds no settings"),
        (["broken.yaml", "--out", "out"], "is not YAML"),
        (["entry.yaml", "--out", "out"], "unknown entry epoch (did you mean epochs?)"),
        (["empty.yaml", "--out", "out"], "seed has no value"),
        (["a.yaml", "b.yaml", "--out", "out"], "unknown argument b.yaml"),
        ([*DIGITS, "--out", "out", "--seed", ",".join(map(str, range(10_001)))], "more than 10,000 runs"),
        (["--setup", "own", "--student", "timm:resnet18d", "--teacher", "teacher.pt", "--out", "out"], "needs images"),
    ],
)
def test_what_the_user_can_mend_is_one_line_before_any_run_begins(here, overhaul, argv, words):
    texts = {"list": "[1, 2]", "broken": "a: [", "entry": "epoch: 3", "empty": "setup: digits\nseed: []"}
    for name, text in texts.items():
        (here / f"{name}.yaml").write_text(text)
    refused(overhaul("study", *argv), words)
    assert not (here / "out").exists()


def test_a_run_that_no_method_has_a_setting_for_is_none():
    with pytest.raises(UserError, match="would change nothing"):
        cells({"setup": ["digits"], "method": ["original"], "teacher": ["x"]})
