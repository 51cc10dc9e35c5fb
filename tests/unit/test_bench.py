"""The benchmark of a step: it is the loop's own, its pieces are the whole, and its numbers are what they say."""

import json
from dataclasses import replace

import pytest
import torch
from support.plain_step import make_plain_step
from support.runs import refused

from overhaul import api, bench
from overhaul.options import Run
from overhaul.setups import SETUPS

PIECES = ["data", "teacher", "student forward", "connectors and loss", "backward", "optimiser"]
SMALL = replace(SETUPS["digits"], image_size=16)


def batch(setup, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 3, setup.image_size, setup.image_size), torch.randint(10, (n,))


def test_a_step_is_that_of_a_plain_loop(monkeypatch):
    """Several times over, so that optimiser and momentum are the same too."""
    monkeypatch.setitem(SETUPS, "digits", SMALL)
    images, labels = batch(SMALL, 8)
    plain, ours = make_plain_step("digits"), bench.make_step("digits", 8)
    for _ in range(3):
        torch.testing.assert_close(ours(images, labels), plain(images, labels), rtol=1e-3, atol=0)


def test_steps_of_several_precisions_run_in_turn():
    """Each keeps its own, whatever was made after it."""
    images, labels = batch(SMALL, 8)
    alone = [bench.make_step(SMALL, 8, precision)(images, labels) for precision in ("no", "bf16")]
    steps = [bench.make_step(SMALL, 8, precision) for precision in ("no", "bf16")]
    assert [step(images, labels) for step in steps] == alone and alone[0] != alone[1]
    loss = steps[0](images.to(memory_format=torch.channels_last), labels)
    assert loss.shape == () and not loss.requires_grad


def test_the_step_in_pieces_is_the_whole_step():
    images, labels = batch(SMALL, 8)
    whole, pieces = (bench.Trial(SMALL, 8, Run()) for _ in range(2))
    whole.step(images, labels)
    pieces.step_in_pieces(images.to(memory_format=torch.channels_last), labels, lambda name: None)
    for one, other in zip(whole.method.parameters(), pieces.method.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["digits", "digits_teacher", "digits --method kd"])
def test_the_table_and_its_json(overhaul, name, monkeypatch):
    monkeypatch.setattr(bench, "LARGE", (2, 64, 8, 8))
    setup = ["--setup", *name.split()]
    result = overhaul("bench", *setup, "--batch_size", 16, "--steps", 2, "--json")
    assert result.status == 0, result.err
    found = json.loads(result.out)
    assert list(found["pieces"]) == PIECES and found["steps"] == 2 and found["batch_size"] == 16
    assert found["images_per_second"] == pytest.approx(16 / found["step"])
    assert min(found["flops"], found["convolution_flops"], found["peak_memory"]) > 1e6
    table = overhaul("bench", *setup, "--batch_size", 16, "--steps", 1, "--mixed_precision", "bf16").out
    method = "kd" if "kd" in name else SETUPS[name].method
    assert table.startswith(f"{name.split()[0]}, {method}, batches of 16: 1 x cpu") and "bf16" in table.splitlines()[0]
    assert [line.split("  ")[0] for line in table.splitlines()[4:10]] == PIECES
    shares = [float(line.split()[-1]) for line in table.splitlines()[4:10]]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert "images/s" in table and "GFLOP/s" in table and "GiB at the peak" in table


def test_operations_are_counted():
    """Those of MobileNet and ResNet 50 are known, in multiplications and additions; by hand those of the connectors."""
    alone = bench.operations(replace(SETUPS["imagenet_b"], method="original"))
    assert alone / 3 == pytest.approx(2 * 568.7e6, rel=0.01)
    connectors = sum(2 * side**2 * 2 * width**2 for side, width in ((56, 128), (28, 256), (14, 512), (7, 1024)))
    assert bench.operations(SETUPS["imagenet_b"]) - alone - 3 * connectors == pytest.approx(2 * 4.089e9, rel=0.01)


def test_a_benchmark_of_encoded_images(overhaul, monkeypatch):
    monkeypatch.setattr(bench, "LARGE", (2, 64, 8, 8))
    setup = replace(SMALL, image_size=32, crop_area=(0.08, 1.0))
    monkeypatch.setitem(SETUPS, "digits", setup)
    found = json.loads(overhaul("bench", "--setup", "digits", "--batch_size", 80, "--steps", 1, "--json").out)
    assert list(found["pieces"]) == PIECES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--setup", "cifar_x"], ["cifar_x", "cifar_a"]),
        (["--mixed_precision", "fp8"], ["fp8", "bf16"]),
        (["--mixed_precision", "fp16"], ["fp16 needs a GPU"]),
        (["--compile", "fast"], ["fast", "default, max"]),
        (["--batch_size", "1"], ["--batch_size 1 leaves BatchNorm less than 2 images"]),
        (["--batch_size", "0"], ["--batch_size"]),
        (["--steps", "0"], ["--steps must be at least 1"]),
        (["--stpes", "3"], ["did you mean --steps?"]),
        (["--method", "kdd"], ["'kdd' is not known", "did you mean kd?"]),
        (["--setup", "digits_teacher", "--method", "kd"], ["digits_teacher does not name the networks"]),
    ],
)
def test_wrong_values_are_one_line(overhaul, arguments, words):
    refused(overhaul("bench", *arguments), *words)


def test_a_method_without_a_known_weight_is_timed_too(monkeypatch):
    monkeypatch.setattr(bench, "bench", lambda row, *_: row.distill_weight)
    assert api.bench(setup="imagenet_b", method="sp+reviewkd") == {"sp": 1, "reviewkd": 8}


def test_a_batch_of_another_size_is_refused():
    images, labels = batch(SMALL, 6)
    with pytest.raises(ValueError, match="takes 8 images at once, not 6"):
        bench.make_step(SMALL, 8)(images, labels)


def test_a_launcher_is_refused(overhaul, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(overhaul("bench", "--setup", "digits"), "measures one process")


class Event:
    """A GPU's event: `seconds` is the time of the GPU's own clock, which is known once somebody has waited."""

    seconds, known = 0.0, False

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.seconds

    def elapsed_time(self, other: "Event") -> float:
        assert Event.known
        return 1000 * (other.at - self.at)


def test_a_gpu_is_timed_by_its_own_clock_and_waited_for_once(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: (waits.append(1), setattr(Event, "known", True)))
    clock = bench.Clock(torch.device("cuda"))
    for first, second in ((9.0, 9.0), (1.0, 0.5), (2.0, 0.25), (4.0, 0.125)):
        for name, seconds in (("first", first), ("second", second)):
            Event.seconds += seconds
            clock(name)
    assert not waits
    assert clock.medians(warm_up=1) == {"first": 2.0, "second": 0.25} and waits == [1]


def test_a_large_convolution_is_timed_in_blocks_where_one_is_short(monkeypatch):
    """A call that takes a second, whether a block is one call or, on another device than a CPU, a hundred."""
    calls = []
    monkeypatch.setattr(bench, "LARGE", (2, 8, 8, 8))
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, images: calls.append(1))

    class Clock:
        def __init__(self, device) -> None:
            self.device = device

        def __call__(self, name: str) -> None:
            pass

        def medians(self) -> dict[str, float]:
            return {"convolutions": len(calls) / 9}

    monkeypatch.setattr(bench, "Clock", Clock)
    per_call = 2 * (2 * 8 * 8 * 8) * 9 * 8
    assert bench.convolution_flops(torch.device("cpu"), torch.float32) == per_call and len(calls) == 9
    calls.clear()
    assert bench.convolution_flops(torch.device("meta"), torch.float32) == per_call and len(calls) == 900
