"""What timm asks of each of its networks, of each network that overhaul.timm_models registers."""

import copy
import fnmatch
import math
from functools import partial

import pytest
import timm
import torch
from timm.models import FeatureInfo, create_feature_extractor, get_graph_node_names, save_for_hf

from overhaul import hub, models, timm_models
from overhaul.hub.config import student_config
from overhaul.listing import PARAMETERS

TOLD = ("classifier", "first_conv", "pool_size")
LIGHT = ("overhaul_wrn_10_1", "overhaul_wrn_16_2")
SMALL = {
    "overhaul_wide_resnet": {"depth": 10, "width": 1},
    "overhaul_cifar_resnet": {"depth": 8},
    "overhaul_pyramidnet": {"depth": 11, "alpha": 5, "bottleneck": True},
    "overhaul_mobilenet": {},
}
NETS = {
    **{f"{name} {kwargs}": (name, kwargs) for name, kwargs in SMALL.items()},
    **{name: (name, {}) for name in (*LIGHT, "overhaul_torchvision")},
}
HEAVY = {name: (name, {}) for name in timm_models.NAMED if name not in LIGHT}
EVERY = [*NETS, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]
every = pytest.mark.parametrize("made", EVERY, indirect=True)


@pytest.fixture
def made(request):
    """made(**options): the network, with fresh weights, the same each time."""
    name, kwargs = {**NETS, **HEAVY}[request.param]

    def make(**options):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **kwargs, **options)

    return make


def images_for(network, batch: int, largest: int = 96) -> torch.Tensor:
    return torch.randn(batch, *(min(each, largest) for each in network.default_cfg["input_size"]))


def test_the_networks_of_the_settings_have_names():
    assert set(timm.list_models("overhaul_*")) >= set(timm_models.NAMED)
    names = "wrn_28_4 wrn_16_4 wrn_28_2 wrn_16_2 wrn_10_1 resnet56_cifar pyramidnet_200 pyramidnet_110 mobilenet"
    assert set(timm_models.NAMED) == {f"overhaul_{name}" for name in names.split()} | set(SMALL)
    assert set(timm_models.OURS) | {"resnet"} == set(models.FAMILIES)
    for name in timm_models.NAMED:
        network = timm.create_model(name, device="meta", dtype=torch.float32)
        assert models.parameters(network) == PARAMETERS[str(timm_models.NAMED[name].student)]


def test_a_folder_tells_of_our_networks_what_timm_does():
    for name in (*LIGHT, "overhaul_cifar_resnet", "overhaul_mobilenet"):
        row = timm_models.NAMED[name]
        told = student_config(row, ["x"] * row.student.kwargs["num_classes"])["pretrained_cfg"]
        assert {key: told[key] for key in TOLD} == {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in timm_models.default_cfg(row).items()
            if key in TOLD
        }


def test_what_timm_saves_of_a_named_network_is_read_here(tmp_path):
    network = timm.create_model("overhaul_wrn_10_1", num_classes=7).eval()
    save_for_hf(network, tmp_path, safe_serialization=True)
    ours = hub.load(str(tmp_path)).eval()
    images = images_for(network, 2)
    assert torch.equal(ours(images), network(images))


@pytest.mark.parametrize("name", ["squeezenet1_1", "regnet_x_400mf", "mobilenet_v2"])
def test_every_network_of_torchvision_gives_logits_and_features(name):
    make = partial(timm.create_model, "overhaul_torchvision", name=name)
    network, images = make(num_classes=7, drop_rate=0.5).eval(), torch.randn(2, 3, 64, 64)
    cfg, names = network.default_cfg, set(network.state_dict())
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= names
    features = make(features_only=True).eval()
    features.model.load_state_dict(network.state_dict(), strict=False)
    assert network(images).shape == (2, 7)
    assert all(map(torch.equal, features(images), network.forward_stages(images).features))
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)
    network.reset_classifier(5)
    assert network(images).shape == (2, 5) and set(network.state_dict()) == names
    if name.startswith("regnet"):
        logits = network.forward_head(network.forward_features(images))
        torch.testing.assert_close(logits, network(images), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(ValueError, match="has more than means and fc behind its last map"):
            make(num_classes=0, global_pool="")


@every
def test_forward_and_backward(made):
    network = made().eval()
    images = images_for(network, 1)
    logits = network(images)
    assert logits.shape == (1, network.default_cfg["num_classes"]) and logits.isfinite().all()
    assert torch.equal(logits, network.forward_stages(images).logits)
    network = made(num_classes=42).train()
    logits = network(images_for(network, 2))
    logits.mean().backward()
    assert logits.shape == (2, 42) and logits.isfinite().all()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@every
def test_default_cfg(made):
    """As timm does on the meta device, where nothing is computed."""
    network = made(device="meta", dtype=torch.float32).eval()
    cfg, names = network.default_cfg, set(network.state_dict())
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= names
    assert network.in_chans == cfg["input_size"][0] == cfg["test_input_size"][0] and network.num_classes > 0
    images = torch.empty(1, *cfg["input_size"], device="meta")
    maps = (1, network.num_features, *cfg["pool_size"])
    assert network.forward_features(images).shape == maps
    means = network.forward_head(network.forward_features(images), pre_logits=True).shape
    assert means == (1, network.head_hidden_size)
    assert network.to(torch.bfloat16)(images.to(torch.bfloat16)).dtype == torch.bfloat16
    network.to(torch.float64)
    for classes, pool, shape in ((0, None, means), (0, "", maps), (2, None, (1, 2))):
        network.reset_classifier(classes, pool)
        assert network.num_classes == classes and network(images.double()).shape == shape
        assert all((each.device.type, each.dtype) == ("meta", torch.float64) for each in network.parameters())
        assert not any(module.training for module in network.modules())
    for options, shape in (({}, means), ({"global_pool": ""}, maps)):
        network = made(num_classes=0, device="meta", dtype=torch.float32, **options)
        assert network(torch.empty(2, *images.shape[1:], device="meta")).shape[1:] == shape[1:]
        assert all(each.device.type == "meta" for each in (*network.parameters(), *network.buffers()))
        assert set(network.state_dict()) == {
            name for name in names if not fnmatch.fnmatch(name, f"{cfg['classifier']}.*")
        }
    with pytest.raises(TypeError, match=r"takes .*not_an_argument"):
        made(not_an_argument=1)


@every
def test_features(made):
    """features_only gives the maps of forward_stages, at the strides and from the modules that feature_info names."""
    network, getter = made().eval(), made(features_only=True).eval()
    images = images_for(network, 1)
    last, maps = network.forward_intermediates(images)
    assert torch.equal(last, network.forward_features(images))
    stages, found = network.forward_stages(images).features, getter(images)
    assert 3 <= len(stages) == len(found) == len(maps) == len(getter.feature_info.channels())
    sides = [math.ceil(images.shape[-1] / stride) for stride in getter.feature_info.reduction()]
    expected = [(1, width, side, side) for width, side in zip(getter.feature_info.channels(), sides, strict=True)]
    for each in (found, maps):
        assert [tuple(x.shape) for x in each] == expected
        assert all(map(torch.equal, each, stages))
    two = network.forward_intermediates(images, indices=[0, -1], intermediates_only=True)
    assert len(two) == 2 and torch.equal(two[0], stages[0]) and torch.equal(two[1], stages[-1])
    for how in ({"out_indices": 2}, {"out_indices": (-2, -1)}, {"out_indices": (len(maps) - 2, len(maps) - 1)}):
        assert all(map(torch.equal, made(features_only=True, **how).eval()(images), stages[-2:]))
    for kind in ("hook", "fx"):
        if not isinstance(network, models.Backbone):
            with pytest.raises(ValueError, match="by feature_cls='getter' alone"):
                made(features_only=True, feature_cls=kind)
            continue
        other = made(features_only=True, feature_cls=kind, out_indices=(0, 1, 2)).eval()
        assert all(map(torch.equal, other(images), stages[:3]))
    assert FeatureInfo(network.feature_info, (0,)).channels() == [stages[0].shape[1]]
    sum(each.mean() for each in getter.train()(images_for(network, 2))).backward()
    assert not [name for name, parameter in getter.named_parameters() if parameter.grad is None]


@every
def test_fx(made):
    network = made(num_classes=42).train()
    images, plain = images_for(network, 2), copy.deepcopy(network)
    traced = create_feature_extractor(copy.deepcopy(network), [get_graph_node_names(network)[0][-1]])
    for each in (plain, traced):
        each.train()
        logits = each(images)
        logits = logits if each is plain else next(iter(logits.values()))
        logits.square().mean().backward()
        each.logits = logits
    assert torch.equal(plain.logits, traced.logits) and plain.logits.shape == (2, 42)
    gradients = dict(traced.named_parameters())
    assert set(gradients) == {name for name, _ in plain.named_parameters()}
    assert all(torch.equal(each.grad, gradients[name].grad) for name, each in plain.named_parameters())
    with torch.inference_mode():
        assert torch.equal(next(iter(traced.eval()(images).values())), plain.eval()(images))


@pytest.mark.parametrize("made", NETS, indirect=True)
def test_dropout_is_before_the_classifier_and_in_training_alone(made):
    network = made(drop_rate=0.5, num_classes=7)
    images = images_for(network, 2)
    network.reset_classifier(9)
    first, second = network.train()(images), network(images)
    assert network(images).shape == (2, 9) and not torch.equal(first, second)
    assert list(network.state_dict()) == list(made().state_dict())
    network.eval()
    plain = copy.deepcopy(network)
    assert torch.equal(network(images), network(images)) and torch.equal(plain(images), network(images))
    network.reset_classifier(0)
    assert not torch.equal(network.train()(images), network(images))
    made(drop_rate=0.5, num_classes=7).load_state_dict(made(num_classes=7).state_dict())


@pytest.mark.parametrize("made", [name for name in NETS if "mobile" in name or "pyramid" in name], indirect=True)
def test_one_graph_and_an_export(made):
    network = made(num_classes=7).eval()
    images = images_for(network, 2, 32)
    compiled = torch.compile(copy.deepcopy(network), backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), network(images))
    exported = torch.export.export(network, (images,)).module()
    torch.testing.assert_close(exported(images), network(images), rtol=1e-5, atol=1e-5)
