"""What keeps a step fast on any device: nothing waits for the device, nothing is compiled twice."""

from dataclasses import replace

import pytest
import torch
from support.operations import operations
from support.runs import DIGITS, SMALL_NET, quick
from torch._dynamo.utils import counters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from overhaul import hub, models
from overhaul.models.mobilenet import Depthwise
from overhaul.options import Run
from overhaul.setups import wide_resnet
from overhaul.training import metrics
from overhaul.training.trainer import Trainer, train

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero"}


class Reads(TorchFunctionMode):
    """Notes what brings a value from the device to Python."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, arguments=(), kwargs=None):
        if getattr(function, "__name__", "") in READS:
            self.seen.append(function.__name__)
        return function(*arguments, **(kwargs or {}))


class ReadsBelow(TorchDispatchMode):
    """Notes the same where PyTorch's own C++ does it."""

    def __init__(self, seen: list) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if "local_scalar_dense" in str(function):
            self.seen.append(str(function))
        return function(*arguments, **(kwargs or {}))


def test_the_device_is_read_at_the_looks_alone(digits_teacher, monkeypatch, tmp_path):
    """Losses and accuracy are summed up on the device; a step between two looks never waits for it."""
    seen, reading = [], []
    after, train_epoch = Trainer.after_step, Trainer.train_epoch

    def after_step(trainer) -> None:
        place = trainer.state.epoch + 1, trainer.state.step
        if place == (2, 5):
            trainer.meter.looked = -1e9
        after(trainer)
        reading.extend([place] if seen else [])
        seen.clear()

    def watched(*arguments):
        with Reads(seen), ReadsBelow(seen):
            result = train_epoch(*arguments)
        seen.clear()
        return result

    monkeypatch.setattr(metrics, "LOOK", 1e8)
    monkeypatch.setattr(Trainer, "after_step", after_step)
    monkeypatch.setattr(Trainer, "train_epoch", watched)
    train(quick(digits_teacher, epochs=2), Run(output_dir=str(tmp_path / "run")))
    assert reading == [(1, 1), (1, 3), (1, 8), (2, 5)]


def test_a_step_of_cifar_c_takes_few_operations():
    """Each is a launch, or a few, of which a GPU waits for the host; in bf16."""
    counted = operations("cifar_c", "bf16")
    assert counted["convolution"] == 25 + 16 + 3 + 3 and counted["_fused_sgd_"] == 1, counted
    assert counted.total() <= 330, (counted.total(), counted)


@pytest.mark.parametrize(
    "teacher", [SMALL_NET, pytest.param(wide_resnet(10, 2, num_classes=10), marks=pytest.mark.slow)], ids=str
)
def test_compiled_networks_are_compiled_once_and_train_alike(few_digits, tmp_path, teacher):
    """An epoch drops its odd last batch, the tests of teacher and student have one, and then it trains on."""
    torch.manual_seed(0)
    hub.save(tmp_path / "teacher", models.create(teacher), replace(DIGITS, student=teacher), list("0123456789"))
    setup, losses = quick(tmp_path / "teacher", epochs=2, batch_size=40), []
    for compile in ("no", "default"):
        torch._dynamo.reset()
        counters.clear()
        run = Run(output_dir=str(tmp_path / compile), compile=compile, data_path=few_digits)
        with torch._dynamo.config.patch(error_on_recompile=True):
            result = train(setup, run)
        assert counters["stats"]["unique_graphs"] == (0 if compile == "no" else 2), "teacher and student"
        losses.append([line["loss"] for line in result.metrics])
    hub.load(str(result.folder))  # strictly, so under the names of a network that was not compiled
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(losses[0]) == 2
    assert not any("graph_break" in key and counters[key] for key in counters)


@pytest.mark.parametrize("size", [8, 9])
def test_the_gradient_of_a_strided_depthwise_convolution_in_bf16(size):
    torch.manual_seed(0)
    layer, images = Depthwise(6, 2), torch.randn(2, 6, size, size)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        x = images.to(dtype, copy=True).requires_grad_()
        layer.zero_grad()
        out = layer(x) if dtype == torch.bfloat16 else torch.nn.Conv2d.forward(layer, x)
        out.float().square().sum().backward()
        gradients.append((out.float(), x.grad.float(), layer.weight.grad.clone()))
    for exact, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, exact, rtol=2e-2, atol=2e-2 * exact.abs().max().item())
