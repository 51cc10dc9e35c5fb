"""What a GPU computes: the values of the authors' release, fp16 with overflows, the same bits again, its memory."""

import gc
import json
import math
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.golden_case import LATER, NAMES, check, check_three, make_case, take_first_step, take_three_steps
from support.gpu import BOTH, few_steps, finish, on, start, trained_on, wait_for_a_checkpoint
from support.overflow import dies_after, overflows
from support.runs import distilling, outcome, stop, times_apart
from torch import nn

from overhaul.bench import Trial
from overhaul.options import Run
from overhaul.run import checkpoints
from overhaul.training.trainer import train

PRECISIONS = {  # and how near to the release's values
    "fp32": (Run(tf32=False), 1e-4),
    "tf32": (Run(), 1e-2),
    "bf16": (Run(mixed_precision="bf16"), 3e-2),
    "fp16": (Run(mixed_precision="fp16"), 3e-2),
}
OF_THE_RELEASE = [(name, precision) for name in NAMES for precision in PRECISIONS]
STEPS = 6  # an epoch of few_digits at 16 images a step


@pytest.fixture(autouse=True)
def kernels_as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("device", "name", "precision"),
    [*on("cuda", *OF_THE_RELEASE), *on("cpu", ("cifar_a", "fp32"), ("cifar_d", "bf16"))],
)
def test_three_steps_are_those_of_the_release(golden, device, name, precision):
    case, (run, rtol) = make_case(name, golden(name)), PRECISIONS[precision]
    step = take_first_step(case, run)
    assert step.logits.device.type == device
    check(case, step, rtol)
    check_three(case, take_three_steps(case, run), rtol, later=max(rtol, LATER[name]))


@BOTH
def test_fp16_survives_overflows_in_the_first_step_after_a_restart_and_around_a_checkpoint(
    device, digits_teacher, few_digits, monkeypatch, tmp_path
):
    """Every step that was skipped halves the scale; stopped and killed around them, the run ends in the same bits."""
    how = {"mixed_precision": "fp16" if device == "cuda" else None, "deterministic": True, "checkpoint_steps": 8}
    setup, run = few_steps(digits_teacher, few_digits, output_dir=str(tmp_path / "run"), **how)
    with overflows({0, 2 * STEPS, 16}):  # a checkpoint is written after 16 steps, and the run dies after 18
        whole = train(setup, replace(run, output_dir=str(tmp_path / "whole")))
        stop(monkeypatch, setup, run, step=1)
        with dies_after(18):
            train(setup, run)
        assert [path.name for path in checkpoints.found(tmp_path / "run")][-1] == "epoch-0002-step-000004"
        result = train(setup, run)
    assert outcome(result) == outcome(whole)
    last = checkpoints.found(tmp_path / "run")[-1]
    assert torch.load(last / "scaler.pt")["scale"] <= 2.0**16 / 2**3
    trained_on(device)
    losses = [line["loss"] for line in whole.metrics]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    without = train(setup, replace(run, output_dir=str(tmp_path / "without")))
    assert losses[-1] == pytest.approx(without.metrics[-1]["loss"], rel=0.5)


@BOTH
def test_deterministic_runs_and_one_that_is_killed_end_in_the_same_bits(device, digits_teacher, few_digits, tmp_path):
    flags = ["--batch_size", 16, "--data_path", few_digits, "--deterministic", "--checkpoint_steps", 2]
    command = ["-m", "overhaul", "train", *distilling(digits_teacher, *flags, epochs=12)]
    runs = [start(device, *command, "--output_dir", tmp_path / name) for name in ("one", "two", "killed")]
    for _ in range(3):
        wait_for_a_checkpoint(runs[2], tmp_path / "killed")
        os.kill(runs[2].pid, signal.SIGKILL)
        runs[2].communicate()
        runs[2] = start(device, *command, "--output_dir", tmp_path / "killed")
    said = [finish(run) for run in runs]
    assert all(f"1 x {torch.cuda.get_device_name() if device == 'cuda' else 'cpu'}" in each for each in said)
    assert "resumed after" in said[2]
    one, *others = (lasting(tmp_path / name) for name in ("one", "two", "killed"))
    assert others == [one, one]


def lasting(folder: Path) -> dict:
    """What the run in a folder leaves, times apart."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        **{name: (folder / name / "model.safetensors").read_bytes() for name in ("final", "best")},
        "metrics": times_apart(lines),
    }


@BOTH
def test_the_gradient_of_imagenet_a_s_max_pool_repeats_itself(device):
    """In its layout and size; a window's largest element may be that of four windows, whose gradients are added up."""
    torch.manual_seed(0)
    images, gradient = torch.randn(8, 64, 112, 112).relu_(), torch.randn(8, 64, 56, 56)
    images, gradient = (each.to(device, memory_format=torch.channels_last) for each in (images, gradient))
    torch.use_deterministic_algorithms(True)
    gradients = []
    for _ in range(3):
        leaf = images.detach().requires_grad_()
        nn.functional.max_pool2d(leaf, 3, 2, padding=1).backward(gradient)
        gradients.append(leaf.grad)
    assert all(torch.equal(gradients[0], each) for each in gradients[1:]) and gradients[0].any()


@pytest.mark.parametrize(
    ("device", "name", "images"), [*on("cuda", ("imagenet_a", 16), ("cifar_c", 128)), *on("cpu", ("cifar_c", 8))]
)
def test_deterministic_steps_repeat_themselves(device, name, images):
    """Networks as published, fresh, in bf16."""
    ends = []
    for _ in range(2):
        trial = Trial(name, images, Run(mixed_precision="bf16", deterministic=True))
        assert trial.device.type == device
        size, draw = trial.setup.image_size, torch.Generator().manual_seed(0)
        for _ in range(3):
            pixels = torch.randn(images, 3, size, size, generator=draw)
            trial.step(pixels, torch.randint(100, (images,), generator=draw))
        ends.append([parameter.detach().clone() for parameter in trial.method.parameters()])
    assert all(map(torch.equal, *ends)) and all(each.isfinite().all() for each in ends[0])


@pytest.mark.parametrize(
    ("name", "run", "most"),
    [
        pytest.param("cifar_c", Run(), 1, marks=pytest.mark.gpu),
        pytest.param("imagenet_a", Run(mixed_precision="bf16"), 30, marks=pytest.mark.gpu),
    ],
    ids=["cifar_c", "imagenet_a"],
)
def test_memory(name, run, most):
    """GiB of the networks and of steps with the setup's own batch, once the fastest kernels are found."""
    gc.collect()
    before = torch.cuda.memory_allocated()
    trial = Trial(name, None, run)
    size, images = trial.setup.image_size, trial.setup.batch_size
    given = torch.randn(images, 3, size, size, device=trial.device), torch.zeros(images, dtype=torch.int64)
    for number in range(4):
        if number == 2:
            torch.cuda.reset_peak_memory_stats()
        trial.step(*given)
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    assert 0.05 < peak < most, f"{peak:.2f} GiB"


@BOTH
def test_a_checkpoint_goes_on_on_another_device_and_back(device, digits_teacher, few_digits, monkeypatch, tmp_path):
    """From this session's device to a CPU, in another process, and back; nearly the run that never moved."""
    setup, run = few_steps(digits_teacher, few_digits, output_dir=str(tmp_path / "run"))
    whole = train(setup, replace(run, output_dir=str(tmp_path / "whole")))
    stop(monkeypatch, setup, run, step=8)
    flags = ["--batch_size", 16, "--data_path", few_digits, "--output_dir", tmp_path / "run"]
    process = start(
        "cpu", "-m", "overhaul", "train", *distilling(digits_teacher, *flags, "--checkpoint_steps", 1, epochs=4)
    )
    wait_for_a_checkpoint(process, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    said = finish(process, status=85)
    assert "resumed after step 2 of epoch 2" in said and "1 x cpu" in said
    saved = checkpoints.found(tmp_path / "run")[-1].name
    assert "epoch-0001-step-000002" < saved < "epoch-0004"
    result = train(setup, run)
    trained_on(device)
    losses = [[line["loss"] for line in each.metrics] for each in (whole, result)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05) and len(losses[0]) == 4
