"""Which maps are found, and what their names stand for."""

import copy

import pytest
import timm
import torch
from support.networks import NETWORKS, Plain, Shared, shaken
from torch import nn

from overhaul import models
from overhaul.discovery import find
from overhaul.models.hooked import Hooked
from overhaul.recipe import is_foreign
from overhaul.setups import SETUPS, resnet
from overhaul.system.messages import UserError

OWN = {
    str(net): (net, 64 if setup.data == "imagenet" else 32)
    for setup in SETUPS.values()
    for net in (setup.teacher, setup.student)
    if net and net.family and not is_foreign(net.family)
} | {str(net): (net, 64) for net in map(resnet, (18, 34, 101))}
LARGE = "pyramidnet depth=200", "resnet depth=101", "resnet depth=152", "wide_resnet depth=28 width=4"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(LARGE)) for name in OWN]
)
def test_the_maps_of_our_families_are_those_of_their_own_forward_stages(name):
    net, size = OWN[name]
    own = shaken(models.create(net))
    network = copy.deepcopy(own)
    hooked = Hooked(network, size)
    for mode in (True, False):
        own.train(mode)
        hooked.train(mode)
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            (logits, features), (others, found) = own.forward_stages(images), hooked.forward_stages(images)
        assert torch.equal(logits, others)
        assert [map.shape for map in features] == [map.shape for map in found]
        assert all(map(torch.equal, features, found))
    assert [[norm] for norm in network.norms] == hooked.norms
    assert [each.name for each in models.stages(own, size)] == [each.name for each in hooked.features]


FOUND = {  # name: activation, what is behind
    "Plain": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Shared": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Statement": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Through": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Silu": ["stage1.1:out silu direct", "stage2.1:out silu direct", "stage3.1:out silu direct"],
    "Functional": [f"(net) batch_norm#{number}:out relu direct" for number in range(3)],
    "Direct": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Residual": ["stage1.1:out relu direct", "stage2.1:out relu direct", "act#3:in relu sum"],
    "Preactivated": ["blocks.1.act:in relu direct", "blocks.3.act:in relu direct", "norm:out relu direct"],
    "Checkpointed": ["stage1.1:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Named": ["net:out relu direct", "stage2.1:out relu direct", "stage3.1:out relu direct"],
    "Normalised": ["stage1.1:out relu direct", "stage2:out relu none", "stage3:out relu none"],
}


@pytest.mark.parametrize("name", FOUND)
def test_maps_are_those_before_the_last_activation_of_a_size(name):
    found = find(NETWORKS[name](), 32).features
    assert [f"{each.name} {each.activation} {each.behind}" for each in found] == FOUND[name]
    assert [(each.channels, each.size, each.stride) for each in found] == [
        (8, (16, 16), 2),
        (16, (8, 8), 4),
        (24, (4, 4), 8),
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_name_of_a_map_is_taken_back(name):
    network = NETWORKS[name]()
    found = find(network, 32).features
    again = find(network, 32, tuple(each.name for each in found)).features
    assert [(each.at, each.channels, each.norms) for each in again] == [
        (each.at, each.channels, each.norms) for each in found
    ]


def test_what_a_map_is_like_is_told():
    with torch.device("meta"):
        ghost, squeezed = timm.create_model("ghostnet_050"), timm.create_model("efficientnet_lite0")
        convnext, hrnet = timm.create_model("convnext_atto"), timm.create_model("hrnet_w18_small")
    assert [each.is_branch for each in find(ghost, 224).features] == [True, True, True, False]
    assert not any(each.is_branch or each.is_smooth or each.is_linear for each in find(squeezed, 224).features)
    assert all(each.is_linear and not each.closed for each in find(convnext, 64).features)
    assert all(each.is_branch for each in find(hrnet, 64).features)
    assert all(each.is_smooth for each in find(NETWORKS["Silu"](), 32).features)


def test_a_name_is_what_the_module_gives_before_its_activation_or_that_very_tensor():
    network = timm.create_model("resnet18", num_classes=5)
    images = torch.randn(2, 3, 64, 64)
    shaken(network).eval()
    seen = {}

    def before(_, args):
        seen["before"] = args[0].clone()

    def after(_, args, out):
        seen.update(into=args[0].clone(), out=out.clone())

    hooks = [network.layer1[1].act2.register_forward_pre_hook(before), network.layer1.register_forward_hook(after)]
    network(images)
    for hook in hooks:
        hook.remove()
    names = "layer1", "layer1:in", "layer1:out", "layer1.1.act2#0", "layer1.1.act2:in"
    features = Hooked(network, 64, names).forward_stages(images).features
    for wanted, map in zip(("before", "into", "out", "before", "before"), features, strict=True):
        assert torch.equal(map, seen[wanted])


def test_a_function_that_cannot_be_seen_counts_as_the_activation_behind_a_norm():
    class Extension(Plain):
        def activate(self, x: torch.Tensor) -> torch.Tensor:
            with torch._C.DisableTorchFunction():
                return x * torch.sigmoid(2 * x)

    found = find(Extension(), 32).features
    assert [(each.name, each.activation) for each in found] == [(f"stage{n}.1:out", "unseen") for n in (1, 2, 3)]


def test_calls_are_counted_from_0():
    for name, channels in (("act#0", 8), ("act#2", 24), ("act", 24), ("act#1:in", 16), ("act#1:out", 16)):
        (found,) = find(Shared(), 32, (name,)).features
        assert (found.channels, found.name) == (channels, name)


def test_a_map_of_one_pixel_may_be_named():
    (found,) = find(Plain(), 8, ("stage3",)).features
    assert (found.size, found.stride) == ((1, 1), 8)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("stage4", r"no module 'stage4' \(did you mean stage3\?\)"),
        ("1", r"no module '1' \(there are stage1.1, stage2.1, stage3.1\)"),
        ("fc", r"gives \[2, 5\]: no map"),
        ("act", "does not run"),
        ("stage1#3", "counted from 0, and the last one of this module is 0"),
        ("stage1:up", "is no position: say NAME"),
        ("stage1 relu#5:in", "no such function"),
        ("", "is no position"),
    ],
)
def test_a_position_that_cannot_be_is_refused_in_one_line(name, words):
    with pytest.raises(UserError, match=words) as error:
        find(Plain(), 32, (name,))
    assert "\n" not in str(error.value)


def test_networks_without_stages_ask_for_names():
    with torch.device("meta"):
        vit, mixer = timm.create_model("vit_tiny_patch16_224"), timm.create_model("convmixer_768_32")
    for network in (vit, mixer, nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 5))):
        with pytest.raises(UserError, match="2 are needed: name the modules"):
            _ = Hooked(network, 224).features
    found = Hooked(mixer, 224, ("blocks.3", "blocks.9")).features
    assert [each.channels for each in found] == [768, 768]
