"""Every family keeps the contract of overhaul.models.backbone."""

import pytest
import torch
import torchvision
from support.runs import OF_OURS
from torch import nn

from overhaul import models
from overhaul.setups import SETUPS, Net

NETS = {
    "wide_resnet": {"depth": 10, "width": 2},
    "cifar_resnet": {"depth": 14},
    "pyramidnet": {"depth": 20, "alpha": 11, "bottleneck": True},
    "pyramidnet basic": {"depth": 14, "alpha": 11, "bottleneck": False},
    "mobilenet": {},
    **{f"resnet {depth}": {"depth": depth} for depth in (18, 50, 152)},
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    return Net(family=request.param.split()[0], kwargs={**NETS[request.param], "num_classes": 7})


@pytest.fixture(scope="module")
def network(net):
    torch.manual_seed(0)
    return models.create(net)


@pytest.fixture(scope="module")
def images(net):
    return torch.randn(2, 3, *((64, 64) if net.family in ("resnet", "mobilenet") else (32, 32)))


def test_every_family_is_tried_here():
    assert {name.split()[0] for name in NETS} == set(models.FAMILIES)


def test_forward_gives_the_logits_of_forward_stages(network, images):
    network.eval()
    with torch.no_grad():
        logits, features = network.forward_stages(images)
        assert logits.shape == (2, 7)
        assert torch.equal(network(images), logits)
    sides = [feature.shape[-1] for feature in features]
    assert sides == [images.shape[-1] // stride for stride in ((1, 2, 4) if len(sides) == 3 else (4, 8, 16, 32))]


def test_norms_have_the_channels_of_the_features(network, images):
    with torch.no_grad():
        features = network.eval().forward_stages(images).features
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in network.norms)
    assert [norm.num_features for norm in network.norms] == [feature.shape[1] for feature in features]


def test_features_are_taken_before_the_relu(network, images):
    with torch.no_grad():
        features = network.train().forward_stages(images).features
    assert all((feature < 0).any() and (feature > 0).any() for feature in features)


def test_no_layer_runs_twice_in_a_pass(network, images):
    calls = []
    layers = [m for m in network.modules() if isinstance(m, (nn.BatchNorm2d, nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(lambda module, *_: calls.append(module)) for layer in layers]
    with torch.no_grad():
        network.forward_stages(images)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(set(calls)) == len(layers)


def test_features_survive_the_rest_of_the_pass(network, images):
    """No later in-place operation changes a map that was already handed out."""
    network.eval()
    seen = {}
    hooks = [norm.register_forward_hook(lambda m, _, out: seen.setdefault(m, out.clone())) for norm in network.norms]
    with torch.no_grad():
        features = network.forward_stages(images).features
    for hook in hooks:
        hook.remove()
    for norm, feature in zip(network.norms, features, strict=True):
        if not isinstance(norm, nn.Identity) and net_feature_is_norm(network):
            assert torch.equal(seen[norm], feature)


def net_feature_is_norm(network) -> bool:
    """In the residual families the feature is a sum; in the others it is the norm's own output."""
    return type(network).__name__ in ("WideResNet", "PyramidNet", "MobileNet")


def test_initialisation(net, network):
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4000]
    for convolution in convolutions:
        height, width = convolution.kernel_size
        expected = (2 / (height * width * convolution.out_channels)) ** 0.5
        if net.family != "mobilenet":
            assert convolution.weight.std().item() == pytest.approx(expected, rel=0.1)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert torch.all(norm.weight == 1) and torch.all(norm.bias == 0)
    if net.family == "wide_resnet":
        assert torch.all(network.fc.bias == 0)


def test_a_state_dict_tells_its_net(net, network):
    assert models.identify(network.state_dict()) == net


def test_identify_knows_what_it_does_not_know():
    assert models.identify({"weight": torch.zeros(2)}) is None
    assert models.identify({"fc.weight": torch.zeros(10, 2)}) is None


@pytest.mark.parametrize("name", OF_OURS)
def test_every_setup_can_be_built_and_recognised(name):
    for net in filter(None, (SETUPS[name].teacher, SETUPS[name].student)):
        with torch.device("meta"):
            network = models.create(net)
        found = models.identify(network.state_dict())
        assert (found.family, found.kwargs) == (net.family, net.kwargs)
        assert len(network.norms) == (4 if SETUPS[name].data == "imagenet" else 3)


@pytest.mark.parametrize("depth", [18, 50, 152])
def test_resnet_loads_torchvision_weights_and_gives_its_logits(depth):
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).eval()
    ours = models.create("resnet", depth=depth, num_classes=1000).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnets_have_torchvision_s_tensors(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
        ours = models.create("resnet", depth=depth, num_classes=1000).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert models.identify(ours).kwargs["depth"] == depth


@pytest.mark.parametrize(
    ("family", "kwargs", "words"),
    [
        ("wide_resnt", {}, "families are"),
        ("wide_resnet", {"depth": 28, "num_classes": 10}, "wide_resnet takes depth, width, num_classes"),
        ("wide_resnet", {"depth": 27, "width": 1, "num_classes": 10}, "6n \\+ 4"),
        ("cifar_resnet", {"depth": 57, "num_classes": 10}, "6n \\+ 2"),
        ("pyramidnet", {"depth": 111, "alpha": 84, "bottleneck": False, "num_classes": 10}, "6n \\+ 2"),
        ("resnet", {"depth": 51, "num_classes": 10}, "18, 34, 50"),
    ],
)
def test_networks_that_cannot_be_are_refused(family, kwargs, words):
    with pytest.raises(ValueError, match=words):
        models.create(family, **kwargs)
