"""Every method on several processes, and in parts of a batch: what it computes, and that it goes on."""

import json
import signal

import pytest
import torch
from support.method_steps import first_steps
from support.methods import NAMES, SUM, flags, taught
from support.ranks import Ranks
from support.runs import stop, student_of, times_apart

from overhaul.training.trainer import train

ACROSS = {"dist": 0.05, "rkd": 0.2, "sp": 0.5}  # methods that look across the images of a process, and how far off


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_losses_and_gradients_are_those_of_one_process(ranks, digits_teacher, few_digits):
    """With BatchNorm in eval mode, whatever the processes and the gradient accumulation steps.

    Of methods that look across the images of a process only nearly so. SP would be off by 1.3 and 4.5, but for the
    weight that it has there.
    """
    place, steps = (str(digits_teacher), few_digits), "support.method_steps:first_steps"
    alone, both = first_steps(*place, (*NAMES, SUM)), ranks(steps, *place, (*NAMES, SUM))
    in_parts = ranks(steps, *place, ("kd", "reviewkd", "sp", SUM), 2)
    for method, theirs in ((method, each) for found in (*both, *in_parts) for method, each in found.items()):
        assert theirs.keys() == alone[method].keys()
        errors = {name: error(theirs[name], value) for name, value in alone[method].items()}
        losses = errors["losses"], errors["first batch"]
        if method in ACROSS:
            assert 1e-4 < max(losses) < ACROSS[method], (method, losses)
        else:
            assert max(errors.values()) < 1e-5, (method, errors)


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", [*NAMES, SUM])
def test_two_ranks_train_and_go_on(ranks, digits_teacher, few_digits, tmp_path, method):
    """Bit for bit, stopped in the middle of the first epoch."""
    whole = flags(digits_teacher, few_digits, method, "--output_dir", tmp_path / "whole")
    assert [each.status for each in ranks("support.runs:command", *whole)] == [0, 0]
    run = flags(digits_teacher, few_digits, method, "--output_dir", tmp_path / "run")
    for each in ranks("support.runs:told", 1, signal.SIGTERM, 3, *run):
        assert each.status == 85, each.err
    result, _ = ranks("support.runs:command", *run)
    assert result.status == 0 and "resumed after step 3 of epoch 1" in result.out, result.err
    assert student_of(tmp_path / "run") == student_of(tmp_path / "whole")
    assert times_apart(lines_of(tmp_path / "run")) == times_apart(lines_of(tmp_path / "whole"))


def test_a_sum_of_one_process_goes_on_on_two(ranks, digits_teacher, few_digits, monkeypatch, tmp_path):
    """With the means of each loss over all images of the epoch."""
    how = {"epochs": 1, "lr": 0.0}
    run, whole = (
        taught(digits_teacher, few_digits, SUM, output_dir=str(tmp_path / name), **how) for name in ("run", "whole")
    )
    train(*whole)
    stop(monkeypatch, *run, 3)
    same = flags(digits_teacher, few_digits, SUM, "--epochs", 1, "--lr", 0, "--output_dir", tmp_path / "run")
    results = ranks("support.runs:command", *same)
    assert [each.status for each in results] == [0, 0] and "resumed after step 3" in results[0].out, results[0].err
    (now,), (whole,) = (lines_of(tmp_path / name) for name in ("run", "whole"))
    for name in ("loss", "cross_entropy", "distill_loss", "distill_loss.overhaul", "distill_loss.kd"):
        assert now[name] == pytest.approx(whole[name], rel=0.1) and now[name] != whole[name]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reviewkd", "overhaul+kd"])
def test_three_processes_go_on_bit_for_bit(digits_teacher, few_digits, tmp_path, method):
    """The order in which their gradients are summed is that of a run that never stopped."""
    three = Ranks(tmp_path, world=3)
    sizes = ["--batch_size", 24]
    whole, run = (
        flags(digits_teacher, few_digits, method, "--output_dir", tmp_path / name, *sizes) for name in ("whole", "run")
    )
    assert [each.status for each in three("support.runs:command", *whole)] == [0, 0, 0]
    assert [each.status for each in three("support.runs:told", 2, signal.SIGTERM, 2, *run)] == [85, 85, 85]
    assert [each.status for each in three("support.runs:command", *run)] == [0, 0, 0]
    three.close()
    assert student_of(tmp_path / "run") == student_of(tmp_path / "whole")
