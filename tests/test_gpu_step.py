"""A step on a GPU: it waits for nothing, and captured as a graph it is the step that it was."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from support.gpu import BOTH, ON_A_GPU, few_steps, on, trained_on, waits_forbidden
from support.jpegs import write_jpegs
from support.runs import DIGITS, outcome, stop

from overhaul.options import Run
from overhaul.training.trainer import train

WAYS = {
    "fp32": {},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "parts": {"mixed_precision": "bf16", "gradient_accumulation_steps": 2},
    "graph": {"compile": "graph", "mixed_precision": "bf16"},
    "graph in fp32": {"compile": "graph"},
}


@pytest.fixture(autouse=True)
def kernels_as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("device", "way"), [*on("cuda", *((way,) for way in WAYS)), *on("cpu", ("parts",))])
def test_the_loop_waits_for_the_gpu_at_no_step(device, way, digits_teacher, few_digits, tmp_path):
    """From a batch in memory to the sums of the meter."""
    setup, run = few_steps(digits_teacher, few_digits, output_dir=str(tmp_path / "run"), **WAYS[way])
    with waits_forbidden(device) as watched:
        train(setup, run)
    assert watched == [4, 5, 6] * setup.epochs


@BOTH
def test_nor_where_data_workers_decode_its_images(device, tmp_path):
    setup = replace(DIGITS, method="original", epochs=1, batch_size=2, image_size=32, crop_area=(0.2, 1.0))
    run = Run(data_path=write_jpegs(tmp_path), workers=2, skip_broken=1, output_dir=str(tmp_path / "run"))
    with waits_forbidden(device) as watched:
        train(replace(setup, num_classes=22), run)
    assert len(watched) > 3


@pytest.mark.parametrize(("device", "precision"), on("cuda", ("no",), ("bf16",)))
def test_a_graph_trains_to_the_same_bits(device, precision, digits_teacher, few_digits, monkeypatch, tmp_path):
    """24 steps with a test after every six; two drops of the learning rate and restarts of momentum; resumptions."""
    how = {"mixed_precision": precision, "deterministic": True}
    setup, run = few_steps(digits_teacher, few_digits, **how)
    graph = replace(run, compile="graph")
    eager = train(setup, replace(run, output_dir=str(tmp_path / "eager")))
    whole = train(setup, replace(graph, output_dir=str(tmp_path / "graph")))
    trained_on(device)
    assert outcome(whole) == outcome(eager)
    resumed = replace(graph, output_dir=str(tmp_path / "resumed"))
    for step in (2, 9, 18):
        stop(monkeypatch, setup, resumed, step)
    assert outcome(train(setup, resumed)) == outcome(eager)


@ON_A_GPU
def test_a_graph_trains_alike_with_the_fastest_kernels(device, digits_teacher, few_digits, tmp_path):
    setup, run = few_steps(digits_teacher, few_digits)
    losses = []
    for compile in ("no", "graph"):
        result = train(setup, replace(run, compile=compile, output_dir=str(tmp_path / compile)))
        losses.append([line["loss"] for line in result.metrics])
    trained_on(device)
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
