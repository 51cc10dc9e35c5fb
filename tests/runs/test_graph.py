"""A captured step is the step that it was: on a CPU with a tape in place of the CUDA graph."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support import tape
from support.runs import outcome, quick, refused, stop, teaching

from overhaul.bench import Trial
from overhaul.data import loaders
from overhaul.options import Run
from overhaul.recipe import Net
from overhaul.setups import SETUPS
from overhaul.system.messages import UserError
from overhaul.training import graph
from overhaul.training import optimizer as optimizers
from overhaul.training.trainer import train


@pytest.fixture
def replays(monkeypatch) -> list[int]:
    """Lets a CPU take --compile graph; the steps that were replayed, in the end."""
    done = []

    def capture(step) -> tuple:
        replay, result = tape.capture(step)
        return lambda: done.append(replay()), result

    monkeypatch.setattr(graph, "check", lambda *_: None)
    monkeypatch.setattr(graph, "aside", lambda step: step())
    monkeypatch.setattr(graph, "capture", capture)
    monkeypatch.setattr(optimizers, "in_tensor", lambda device, group: True)
    return done


@pytest.mark.parametrize("resident", [False, True], ids=["from the host", "from the device"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"method": "overhaul+kd", "ramp_epochs": 3, "mixup": 0.5}],
    ids=["overhaul", "a sum that ramps up, with mixup"],
)
def test_a_captured_step_trains_to_the_same_bits(
    digits_teacher, few_digits, monkeypatch, tmp_path, changes, resident, replays
):
    """Over a drop with its restart, tests, and a stop; 6 steps an epoch, of which the first two of a start are not."""
    setup, run = quick(digits_teacher, epochs=4, batch_size=16, **changes), Run(data_path=few_digits)
    eager = train(setup, replace(run, output_dir=str(tmp_path / "eager")))
    assert not replays and len({line["lr"] for line in eager.metrics}) == 3
    monkeypatch.setattr(loaders, "fits", lambda images, augment, device: resident)
    run = replace(run, compile="graph")
    whole = train(setup, replace(run, output_dir=str(tmp_path / "whole")))
    assert len(replays) == 22 and outcome(whole) == outcome(eager)
    run = replace(run, output_dir=str(tmp_path / "stopped"))
    stop(monkeypatch, setup, run, step=14)
    resumed = train(setup, run)
    assert len(replays) == 22 + 12 + 8 and outcome(resumed) == outcome(eager)


def test_a_benchmark_takes_captured_steps(replays):
    setup = replace(SETUPS["digits"], image_size=16)
    trials = [Trial(setup, 8, Run(compile=compile)) for compile in ("no", "graph")]
    torch.manual_seed(1)
    for batch in [(torch.randn(8, 3, 16, 16), torch.randint(10, (8,))) for _ in range(5)]:
        one, other = (trial.step(*batch).clone() for trial in trials)
        assert one == other
    assert len(replays) == 3


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"device": torch.device("cpu")}, "of CUDA GPUs, and this run is on cpu"),
        ({"num_processes": 2}, "of one process"),
        ({"mixed_precision": "fp16"}, "takes bf16 or fp32"),
        ({"student": Net(family="nets.py:make")}, "no student of a user's file"),
        ({"teacher": Net(family="nets.py:make")}, "no teacher of a user's file"),
        ({}, None),
        ({"mixed_precision": "bf16"}, None),
    ],
    ids=str,
)
def test_what_cannot_be_captured_is_refused(where, words):
    accelerator = SimpleNamespace(**{"device": torch.device("cuda"), "num_processes": 1, "mixed_precision": "no"})
    vars(accelerator).update({key: value for key, value in where.items() if hasattr(accelerator, key)})
    setup = replace(SETUPS["digits"], **{key: value for key, value in where.items() if not hasattr(accelerator, key)})
    graph.check(setup, Run(compile="default"), accelerator)
    if not words:
        graph.check(setup, Run(compile="graph"), accelerator)
    else:
        with pytest.raises(UserError, match=words):
            graph.check(setup, Run(compile="graph"), accelerator)


def test_it_is_refused_before_anything_is_loaded(overhaul, tmp_path):
    flags = teaching("--compile", "graph", "--output_dir", tmp_path / "run", "--data_path", tmp_path / "nowhere")
    refused(overhaul("train", *flags), "--compile graph is of CUDA GPUs")
    refused(overhaul("train", *flags, "--gradient_accumulation_steps", 2), "--compile graph takes whole batches")


@contextmanager
def broken_off(*_, **__):
    """In place of torch.cuda.graph, whose end raises an error of its own after one in the step."""
    try:
        yield
    finally:
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_step_that_cannot_be_captured_is_told_of_with_its_own_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", broken_off)

    def step() -> None:
        raise RuntimeError("cannot copy between CPU and CUDA tensors")

    with pytest.raises(UserError, match=r"CUDA graph \(cannot copy between .*\); train without --compile graph"):
        graph.capture(step)


def test_a_learning_rate_in_a_tensor_is_written_down_as_a_number():
    setup, model = SETUPS["cifar_a"], torch.nn.Linear(2, 2)
    optimizer = optimizers.make_optimizer(model, setup)
    optimizer.param_groups[0]["lr"] = rate = torch.tensor(0.5)
    assert optimizers.begin_epoch(optimizer, setup, 100) == 0.01
    assert optimizer.param_groups[0]["lr"] is rate and rate == torch.tensor(0.01)
    written = optimizer.state_dict()["param_groups"][0]["lr"]
    assert type(written) is float and written == pytest.approx(0.01)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizers.begin_epoch(optimizer, setup, 150) == optimizer.param_groups[0]["lr"] == 0.001
