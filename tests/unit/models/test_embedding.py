"""What the classifier of any network gets: picked up in the same pass, whatever the layer that gives the logits."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from support.networks import NETWORKS, Plain, shaken
from support.small_net import SmallNet
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from overhaul import models
from overhaul.discovery import rules
from overhaul.models import Hooked, heads
from overhaul.recipe import Net
from overhaul.system.messages import UserError


class ByHand(Plain):
    """Neither the dropout nor the layer behind it runs as a module."""

    def head(self, x: Tensor) -> Tensor:
        return F.linear(F.dropout(x.mean((2, 3)), 0.5, self.training), self.fc.weight, self.fc.bias)


class Convolutional(Plain):
    """A 1x1 convolution gives a map of each class, and a linear layer stands idle."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(24, 5, 1)

    def head(self, x: Tensor) -> Tensor:
        return self.out(x).relu().mean((2, 3))


class Tokens(Plain):
    """The layer tells the classes of each position."""

    def head(self, x: Tensor) -> Tensor:
        return self.fc(x.permute(0, 2, 3, 1)).mean((1, 2))


class Overwritten(Plain):
    """What the layer has read is written over."""

    def head(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        logits = self.fc(pooled)
        pooled.zero_()
        return logits


class Bare(nn.Module):
    """No layer, but the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


OWN = {each.__name__: each for each in (ByHand, Convolutional, Tokens, Overwritten)} | {
    "SmallNet": lambda: SmallNet(5, 8),
    **{name: NETWORKS[name] for name in ("Shared", "Functional", "Direct", "Dense", "Auxiliary")},
}
FEW = "timm:mobilenetv3_small_100", "torchvision:squeezenet1_1", "timm:vit_tiny_patch16_224"
MORE = {
    "timm": "convnext_atto efficientnet_b0 dpn48b resnet18 resnetv2_50x1_bit swin_tiny_patch4_window7_224 vgg11_bn",
    "torchvision": "alexnet densenet121 googlenet mnasnet0_5 resnet18 shufflenet_v2_x0_5 vgg11",
}
ALL = [*OWN, *FEW, *(f"{library}:{name}" for library, names in MORE.items() for name in names.split())]


def create(name: str) -> nn.Module:
    library, _, name = name.partition(":")
    torch.manual_seed(0)
    if not name:
        return shaken(OWN[library]())
    if library == "timm":
        sized = {"img_size": 64, "window_size": 2} if "swin" in name else {"img_size": 64} if "vit" in name else {}
        return shaken(timm.create_model(name, num_classes=5, **sized))
    more = {"init_weights": False} if name == "googlenet" else {}
    return shaken(torchvision.models.get_model(name, weights=None, num_classes=5, **more))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (number >= len(OWN) + len(FEW))) for number, name in enumerate(ALL)],
)
@torch.no_grad()
def test_it_is_what_the_layer_of_the_logits_gets(name):
    network, images = Hooked(create(name), 64), torch.randn(4, 3, 64, 64)
    last, got = network.bare.get_submodule(heads.logits(network.bare)[0] or "fc"), []
    last.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0].clone()))
    for mode in (False, True):
        network.train(mode)
        torch.manual_seed(1)
        logits, features, embedding = network.forward_embedded(images)
        torch.manual_seed(1)
        others = network.picked_up(images, network.found.features)
        assert torch.equal(logits, others[0]) and all(map(torch.equal, features, others[1]))
        assert embedding.shape == (4, network.embedding_width)
        if isinstance(last, nn.Conv2d):
            torch.testing.assert_close(embedding, got[-1].flatten(2).mean(2))
        else:
            torch.testing.assert_close(last(embedding), logits)


def test_of_our_families_it_is_the_last_map_after_its_relu():
    network = models.create("wide_resnet", depth=10, width=1, num_classes=5)
    images = torch.randn(2, 3, 32, 32)
    logits, features, embedding = network.forward_embedded(images)
    torch.testing.assert_close(embedding, features[-1].relu().mean((2, 3)))
    torch.testing.assert_close(network.fc(embedding), logits)
    named = Hooked(network, 32, ("block2.layer.0", "bn1")).forward_embedded(images)
    assert torch.equal(named.embedding, embedding) and len(named.features) == 2


WIDTHS = {
    "wide_resnet": ({"depth": 10, "width": 2}, 128),
    "cifar_resnet": ({"depth": 14}, 64),
    "pyramidnet": ({"depth": 20, "alpha": 11, "bottleneck": True}, 108),
    "mobilenet": ({}, 1024),
    "resnet": ({"depth": 50}, 2048),
    "timm:mobilenetv3_small_100": ({}, 1024),
    "torchvision:squeezenet1_1": ({}, 512),
}


@pytest.mark.parametrize("family", WIDTHS)
def test_its_width_is_told_of_a_network_without_values(family):
    kwargs, width = WIDTHS[family]
    network = models.outline(Net(family=family, kwargs={**kwargs, "num_classes": 5}), 64)
    assert network.embedding_width == width and {each.device.type for each in network.parameters()} == {"meta"}


def test_one_dry_run_tells_it_with_the_features(monkeypatch):
    runs, dry_run = [], rules.dry_run
    monkeypatch.setattr(rules, "dry_run", lambda *how: runs.append(how) or dry_run(*how))
    hooked = Hooked(create("Shared"), 32)
    assert (hooked.widths, hooked.embedding_width) == ([8, 16, 24], 24)
    hooked.forward_embedded(torch.randn(2, 3, 32, 32))
    copy.deepcopy(hooked).forward_stages(torch.randn(2, 3, 32, 32))
    assert len(runs) == 1


def gradients(hooked: Hooked, run=None) -> list[Tensor]:
    """Of what a loss of the embedding and the logits makes, and both."""
    torch.manual_seed(1)
    hooked.train().zero_grad()
    logits, _, embedding = (run or hooked.forward_embedded)(torch.randn(4, 3, 32, 32))
    (logits.square().sum() + embedding.square().sum()).backward()
    return [logits.detach(), embedding.detach(), *(each.grad.clone() for each in hooked.parameters())]


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", ["Shared", "ByHand"])
def test_copies_and_pickles_have_their_own(name, attached):
    hooked = Hooked(create(name), 32)
    if attached:
        hooked.attach()
    wanted, copies = gradients(copy.deepcopy(hooked)), (copy.deepcopy(hooked), pickle.loads(pickle.dumps(hooked)))
    with torch.no_grad():
        for each in hooked.parameters():
            each.zero_()
    for each in copies:
        assert all(map(torch.equal, gradients(each), wanted))


@pytest.mark.parametrize("name", ["Shared", "Tokens"])
def test_it_compiles_to_one_graph(name):
    hooked = Hooked(create(name), 32)
    hooked.attach()
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(hooked.forward_embedded, fullgraph=True, dynamic=False, backend=counter)
    wanted = gradients(copy.deepcopy(hooked))
    found = [gradients(hooked, compiled) for _ in range(3)]
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def test_it_is_found_again_among_synchronised_norms():
    hooked = Hooked(create("Shared").eval(), 32)
    images = torch.randn(2, 3, 32, 32)
    wanted = hooked.forward_embedded(images).embedding
    assert torch.equal(models.sync_bn(hooked).forward_embedded(images).embedding, wanted)
    assert len(hooked.bare.fc._forward_pre_hooks) == 1


def test_a_network_without_positions_gives_its_logits_and_what_its_classifier_gets():
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    hooked, images = Hooked(network, 32), torch.randn(2, 3, 32, 32)
    assert torch.equal(hooked(images), network(images)) and hooked.found is None
    logits, _, embedding = hooked.forward_embedded(images)
    assert torch.equal(network[-1](embedding), logits)
    with pytest.raises(UserError, match="has one convolution stage at 32 pixels"):
        hooked.forward_stages(images)
    mlp = Hooked(nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 5)), 2)
    assert (mlp.embedding_width, mlp.forward_embedded(torch.randn(2, 3, 2, 2)).features) == (6, [])


class Prototypes(nn.Module):
    """Its logits are distances, so that no layer gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.places = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(5, 8))

    def forward(self, images: Tensor) -> Tensor:
        return -(self.body(images).relu().mean((2, 3))[:, None] - self.places).square().sum(2)


def test_what_a_layer_before_the_classifier_gets_is_not_taken_for_it():
    hooked = Hooked(Prototypes(), 32)
    assert hooked(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(UserError, match=r"Prototypes has no linear or convolution layer that gives its logits"):
        hooked.forward_embedded(torch.randn(2, 3, 32, 32))


def test_a_network_that_has_no_layer_is_refused_where_it_is_asked_for_alone():
    hooked, images = Hooked(Bare(), 32), torch.randn(2, 3, 32, 32)
    assert hooked(images).shape == (2, 3)
    for ask in (lambda: hooked.embedding_width, lambda: hooked.forward_embedded(images)):
        with pytest.raises(
            UserError, match=r"Bare has no linear or convolution layer that gives its logits, so"
        ) as said:
            ask()
        assert "\n" not in str(said.value)


def test_a_convolution_that_gives_the_logits_is_reached():
    for with_features in (True, False):
        assert models.unreached(Hooked(Convolutional(), 32), 32, with_features) == ["fc.weight", "fc.bias"]
