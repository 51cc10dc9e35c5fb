"""What a person is told of methods: in the plan, of the first batch, in the bar, and in what is pushed."""

import json
import re
from types import SimpleNamespace

import pytest
from support.runs import distilling, flags

from overhaul.hub import publish
from overhaul.run.folder import RunFolder
from overhaul.training.progress import Progress

TABLE = ["weight", "teacher's map", "stride", "size", "before", "student's map", "stride", "size", "before", "resized"]


@pytest.fixture(scope="module")
def plan(digits_teacher):
    """plan(*flags): the lines of a dry run between the student and the steps, and all that is said."""
    from support.runs import command

    def plan(*more) -> tuple[list[str], str]:
        result = command("train", *distilling(digits_teacher, "--dry_run", *more))
        assert result.status == 0, result.err
        lines = result.out.splitlines()
        steps = next(i for i, line in enumerate(lines) if line.startswith("  steps "))
        return lines[3:steps], result.out

    return plan


def test_a_method_that_compares_logits(plan):
    lines, out = plan("--method", "kd", "--method.temperature", 2)
    assert lines == [
        "  labels     cross-entropy; weight 0.1",
        "  kd         class probabilities; weight 0.9; temperature 2, standardize false",
    ]
    assert re.search(r"1st batch  distillation loss [\d.]+ with its weight, cross-entropy 0\.2\d+ with its own\n", out)
    lines, _ = plan("--method", "kd", "--teacher_norm", "batch")
    assert lines[1].endswith("; temperature 4, standardize false; teacher on batch statistics")


def test_a_method_that_learns_and_a_ramp_that_is_longer_than_the_run(plan):
    lines, _ = plan("--method", "reviewkd")
    ramp = "weight 5, full after 20 epochs (this run ends with 0.1 of it)"
    assert lines[0] == f"  reviewkd   maps fused with the deeper ones, and embeddings; {ramp}"
    assert lines[1] == "  connectors 0.22 M parameters, thrown away afterwards; what is compared:"
    assert re.split("  +", lines[2].strip()) == TABLE and len(lines) == 7


def test_a_sum_of_methods_of_which_some_compare_maps(plan):
    lines, out = plan("--method", "sp+at+rkd", "--batch_size", 32)
    assert (
        lines[0] == "  sp         similarities of the images by their last map; weight 3000 x 0.5 for 32 images at once"
    )
    assert lines[3] == "  maps       what is compared:" and re.split("  +", lines[4].strip()) == ["method", *TABLE]
    assert [line.split()[0] for line in lines[6:]] == ["sp", "at", "at", "at"]
    total, apart = re.search(r"distillation loss ([\d.]+) \((.*)\) with its weight", out).groups()
    names, losses = zip(*(each.split() for each in apart.split(", ")), strict=True)
    assert names == ("sp", "at", "rkd") and sum(map(float, losses)) == pytest.approx(float(total), rel=0.01)


def test_what_a_row_has_needs_no_line(plan):
    assert [line.split()[0] for line in plan()[0]] == ["connectors", "weight", "------", "0.25", "0.5", "1"]
    assert plan("--distill_weight", 0.01)[0][0] == "  overhaul   maps before the ReLU of each stage; weight 0.01"


def test_the_bar_shows_each_loss_of_a_sum():
    progress = Progress(10)
    progress.signs = SimpleNamespace(refresh=lambda: None)
    means = {
        "loss": 3.0,
        "distill_loss": 1.5,
        "distill_loss.overhaul": 1.25,
        "distill_loss.kd": 0.25,
        "train_top1": 5.0,
    }
    progress.show(means, 100)
    assert progress.means == "loss 3.000 (overhaul 1.250, kd 0.250), top-1 5.0 %, 100 images/s"
    progress.show({"loss": 3.0, "distill_loss": 1.5, "train_top1": 5.0}, 100)
    assert progress.means == "loss 3.000, top-1 5.0 %, 100 images/s"


def test_a_sum_is_told_from_its_plan_to_its_card(overhaul, digits_teacher, tmp_path):
    more = ["--method", "overhaul+kd", "--distill_weight.kd", 0.5, "--epochs", 1]
    result = overhaul(*flags(digits_teacher, tmp_path / "run", *map(str, more)))
    assert result.status == 0, result.err
    assert "  overhaul   maps before the ReLU of each stage; weight 0.001; teacher on batch statistics\n" in result.out
    assert "; weight 0.5; temperature 4, standardize false; teacher on running statistics\n" in result.out
    (tmp_path / "made").mkdir()
    publish.make_repository(RunFolder(tmp_path / "run"), tmp_path / "run" / "final", tmp_path / "made", "me/x", "final")
    record = json.loads((tmp_path / "made" / "overhaul.json").read_text())
    assert record["method_settings"] == {"overhaul": {}, "kd": {"temperature": 4.0, "standardize": False}}
    assert record["recipe"]["distill_weight"] == {"overhaul": 0.001, "kd": 0.5} and "like" not in record["recipe"]
    card = (tmp_path / "made" / "README.md").read_text()
    for words in ("**overhaul**: A comp", "**kd**: Know", "| distill_weight | overhaul 0.001, kd 0.5 |", "{hinton2015"):
        assert words in card, words
