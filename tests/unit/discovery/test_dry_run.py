"""A dry run computes nothing and leaves nothing behind; what a network's own code raises is said in one line."""

import random

import numpy as np
import pytest
import timm
import torch
import torchvision
from support.networks import NETWORKS, Plain
from torch import nn

from overhaul import models
from overhaul.discovery import find
from overhaul.models.hooked import Hooked
from overhaul.system.messages import UserError


def everything(network: nn.Module) -> tuple:
    """What may not change of a network, and around it."""
    state = network.state_dict(keep_vars=True)
    tensors = {name: (id(each), each._version, each.requires_grad) for name, each in state.items()}
    values = {name: each.detach().clone() for name, each in state.items()}
    modules = [
        (name, id(each), each.training, sorted(vars(each)), len(each._forward_hooks), len(each._forward_pre_hooks))
        for name, each in network.named_modules()
    ]
    kept = [str(vars(each).get(name)) for each in network.modules() for name in ("inplace", "seen", "kept")]
    around = torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), torch.is_grad_enabled()
    return values, (tensors, modules, kept, around)


LIBRARY = {
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "resnet-d": lambda: timm.create_model("resnet10t", num_classes=5),
}


@pytest.mark.parametrize("name", [*NETWORKS, *LIBRARY])
def test_a_dry_run_leaves_a_network_as_it_is(name):
    network = {**NETWORKS, **LIBRARY}[name]().train()
    values, before = everything(network)
    assert find(network, 64).features
    hooked = Hooked(network, 64)
    if name != "Normalised":  # old weight norm has no deepcopy of its own
        assert isinstance(models.unreached(hooked, 64), list)
        hooked.detach()
    after, rest = everything(network)
    assert rest == before
    assert values.keys() == after.keys() and all(torch.equal(values[each], after[each]) for each in values)


def test_a_pass_over_values_is_needed_only_where_the_network_asks_for_them(monkeypatch):
    real = []
    monkeypatch.setattr("overhaul.discovery.passes.true_copy", lambda network: real.append(network) or 1 / 0)
    find(Plain(), 32)
    assert not real
    with pytest.raises(UserError):
        find(NETWORKS["Undecided"](), 32)
    assert real


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_may_be_of_any_precision_and_modes_around_do_not_matter(dtype):
    wanted = find(Plain(), 32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert find(Plain().to(dtype), 32) == wanted
    with torch.device("meta"):
        assert find(Plain(), 32) == wanted
        assert len(find(NETWORKS["Undecided"](), 32).features) == 3


class Fails(Plain):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


class Gives(Plain):
    def __init__(self, out) -> None:
        super().__init__()
        self.out = out

    def forward(self, images):
        return self.out


class Wants(Plain):
    def forward(self, images, labels):
        return super().forward(images)


ERRORS = (
    KeyError("labels"),
    AssertionError(),
    TypeError("t"),
    AttributeError("a"),
    RuntimeError("a\nb"),
    StopIteration(),
)
REFUSED = {
    **{f"raises {type(error).__name__}": (lambda error=error: Fails(error), "does not run") for error in ERRORS},
    **{f"gives {out!r}": (lambda out=out: Gives(out), "without logits") for out in (None, "text", [], {"x": 1})},
    "two arguments": (Wants, "'labels'"),
    "a size of its own": (lambda: timm.create_model("vit_tiny_patch16_224", depth=1), r"64.*224"),
    "too small": (lambda: torchvision.models.alexnet(num_classes=5), "Output size is too small|does not run"),
    "grey": (lambda: timm.create_model("resnet10t", in_chans=1), "to have 1 channels"),
    "function": (lambda: torch.relu, "not a builtin_function"),
    "class": (lambda: Plain, "not a type"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3))), "TorchScript"),
    "partly scripted": (lambda: nn.Sequential(torch.jit.script(nn.Conv2d(3, 8, 3))), "TorchScript"),
    "compiled": (lambda: torch.compile(Plain(), backend="eager"), "compile afterwards"),
    "no parameters": (lambda: nn.Sequential(nn.Flatten()), "name the modules"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_looked_into_is_refused_in_one_line(name):
    make, words = REFUSED[name]
    network = make()
    with pytest.raises(UserError, match=words) as error:
        _ = Hooked(network, 16 if name == "too small" else 64).features
    assert "\n" not in str(error.value)


def test_a_module_that_compiles_in_place_is_refused_too():
    network = Plain()
    network.compile()
    with pytest.raises(UserError, match="compile afterwards"):
        find(network, 32)
