"""What is told of any network: its stages, parameters that nothing depends on, BatchNorms across processes."""

import random

import pytest
import timm
import torch
import torchvision
from support.networks import NETWORKS, Auxiliary, Plain, shaken
from torch import nn

from overhaul import models
from overhaul.models.hooked import Hooked


def test_the_stages_of_our_families_are_told_as_those_of_others():
    network = models.create("resnet", depth=18, num_classes=5)
    found = models.stages(network, 64)
    assert [(each.name, each.channels, each.size, each.stride) for each in found] == [
        ("layer1.1:out", 64, (16, 16), 4),
        ("layer2.1:out", 128, (8, 8), 8),
        ("layer3.1:out", 256, (4, 4), 16),
        ("layer4.1:out", 512, (2, 2), 32),
    ]
    assert {(each.activation, each.behind, each.closed) for each in found} == {("relu", "sum", True)}
    assert [network.get_submodule(name) for each in found for name in each.norms] == network.norms
    hooked = Hooked(NETWORKS["Shared"](), 32)
    assert models.stages(hooked, 32) == hooked.features
    assert [each.name for each in found] == [
        each.name for each in Hooked(network, 64, tuple(each.name for each in found)).features
    ]


def test_parameters_that_nothing_depends_on_are_named():
    assert models.unreached(Hooked(Auxiliary(), 32), 32) == ["aux.weight", "aux.bias"]
    assert models.unreached(models.create("mobilenet", num_classes=5), 32) == []


def test_a_branch_that_is_skipped_at_random_is_not_named():
    class Skips(Plain):
        def head(self, x):
            return super().head(x + self.act(x * self.scale) if not self.training or random.random() < 0.5 else x)

    network = Skips()
    network.scale = nn.Parameter(torch.ones(()))
    assert models.unreached(Hooked(network, 32, ("stage1", "stage2")), 32) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "heads"), [("googlenet", 64, ("aux1", "aux2")), ("inception_v3", 299, ("AuxLogits",))]
)
def test_the_auxiliary_heads_of_torchvision_are_named(name, size, heads):
    network = torchvision.models.get_model(name, weights=None, num_classes=5, init_weights=False)
    found = models.unreached(Hooked(network, size), size)
    assert found == [name for name, _ in network.named_parameters() if name.startswith(heads)]


@pytest.mark.parametrize("make", [lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), Plain])
def test_synchronised_norms_keep_their_activations_and_the_features_are_found_again(make):
    hooked = Hooked(shaken(make()).eval(), 64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, features = hooked.forward_stages(images)
        outer = models.sync_bn(nn.Sequential(hooked, nn.BatchNorm2d(3)))
        again, found = outer[0].forward_stages(images)
    assert torch.equal(logits, again) and all(map(torch.equal, features, found))
    assert not [each for each in outer.modules() if type(each) is nn.BatchNorm2d]
    assert all(isinstance(norm, nn.SyncBatchNorm) for norms in hooked.norms for norm in norms)
