"""Runs with recipes other than the paper's: they go on to the same bits, and say in their plan what they are."""

import pytest
from support.runs import digests, quick, refused, stop, teaching, times_apart

from overhaul.options import Run
from overhaul.training.trainer import train

MODERN = {
    "optimizer": "adamw",
    "lr": 0.002,
    "lr_schedule": "cosine",
    "warmup_epochs": 1.2,
    "lr_min": 1e-5,
    "no_decay_norms": True,
    "head_lr_scale": 3.0,
    "clip_grad": 1.0,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("changes", [MODERN, {**MODERN, "optimizer": "sgd", "lr_schedule": "linear"}], ids=str)
def test_a_run_stopped_within_its_warm_up_ends_in_the_same_bits(monkeypatch, digits_teacher, tmp_path, changes):
    setup = quick(digits_teacher, **changes)
    whole, run = train(setup, Run(output_dir=str(tmp_path / "whole"))), Run(output_dir=str(tmp_path / "stopped"))
    for step in (9, 30):  # of 22 an epoch
        stop(monkeypatch, setup, run, step)
    result = train(setup, run)
    assert digests(result.folder / "final") == digests(whole.folder / "final")
    assert times_apart(result.metrics) == times_apart(whole.metrics)
    assert whole.metrics[0]["lr"] == pytest.approx(0.002 / 26) and whole.metrics[1]["lr"] == pytest.approx(
        0.002 * 23 / 26
    )


def test_the_plan_tells_optimiser_and_schedule(overhaul, tmp_path):
    flags = ["--optimizer", "adamw", "--lr_schedule", "cosine", "--warmup_epochs", "0.5", "--dry_run"]
    result = overhaul("train", *teaching(*flags, "--output_dir", tmp_path / "run"))
    assert "; adamw, cosine to 0, 0.5 epochs of warm-up\n" in result.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr_schedule", "cosine", "--lr_drops", "[0.3]"], "--lr_drops would change nothing: --lr_schedule cosine"),
        (["--lr_min", "0.001"], "--lr_min would change nothing: --lr_schedule step"),
        (["--optimizer", "adamw", "--momentum", "0.5"], "--momentum would change nothing: it is SGD's"),
        (
            ["--weight_decay", "0", "--no_decay_norms"],
            "--no_decay_norms would change nothing: there is no weight decay",
        ),
        (["--warmup_epochs", "6", "--epochs", "6"], "--warmup_epochs 6 must be fewer than --epochs 6"),
    ],
)
def test_what_would_change_nothing_is_refused(overhaul, flags, words):
    refused(overhaul("train", *teaching(epochs=6), *flags), words)
