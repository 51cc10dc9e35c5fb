"""Any network with its features picked up on the way: the network stays what it is, the maps are the true ones."""

import copy
import gc
import pickle
import time

import pytest
import timm
import torch
import torchvision
from support.networks import NETWORKS, Auxiliary, Functional, Named, Plain, Shared, shaken
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from overhaul.models.hooked import Hooked
from overhaul.system.messages import UserError

FEW = "timm:resnet10t", "timm:mobilenetv3_small_050", "torchvision:squeezenet1_1", "torchvision:shufflenet_v2_x0_5"
MORE = {
    "timm": """
        convnext_atto cspresnet50 densenet121 dla34 dpn48b edgenext_xx_small efficientnet_b0 efficientnetv2_rw_t
        ese_vovnet19b_dw fasternet_t0 fastvit_t8 ghostnet_050 hardcorenas_a hgnetv2_b0 hrnet_w18_small lcnet_050
        cs3darknet_focus_s legacy_seresnet50 mixnet_s mnasnet_small mobilenetv4_conv_small mobileone_s0 nf_regnet_b0
        regnety_002 repghostnet_050 repvgg_a0 res2net50_14w_8s resnet18 resnet26d resnetv2_50 rexnet_100
        nfnet_l0 selecsls42b skresnet18 starnet_s1 tinynet_e vgg11_bn xception41
    """,
    "torchvision": """
        alexnet densenet121 efficientnet_b0 googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_x_400mf resnet18
        vgg11
    """,
}
ALL = [*NETWORKS, *FEW, *(f"{library}:{name}" for library, names in MORE.items() for name in names.split())]


def create(name: str) -> nn.Module:
    library, _, name = name.partition(":")
    torch.manual_seed(0)
    if not name:
        return shaken(NETWORKS[library]())
    if library == "timm":
        return shaken(timm.create_model(name, num_classes=5))
    more = {"init_weights": False} if name == "googlenet" else {}
    return shaken(torchvision.models.get_model(name, weights=None, num_classes=5, **more))


class Seen(TorchFunctionMode):
    """Copies of all maps at the moment they appear in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() == 4:
            self.maps.append(out.detach().clone())
        return out


def passed(network: nn.Module, run, images: Tensor) -> list[Tensor]:
    """Logits, gradients and buffers of a pass in training mode."""
    torch.manual_seed(1)
    network.train().zero_grad()
    logits = run(images)
    while not isinstance(logits, Tensor):
        logits = getattr(logits, "logits", None) if hasattr(logits, "logits") else logits[0]
    logits.square().sum().backward()
    return [logits.detach(), *(each.grad for each in network.parameters()), *network.buffers()]


def equal(ones: list, others: list) -> bool:
    pairs = zip(ones, others, strict=True)
    return all(torch.equal(one, other) if one is not None else other is None for one, other in pairs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (number >= len(NETWORKS) + len(FEW)))
        for number, name in enumerate(ALL)
    ],
)
def test_capture_changes_nothing_and_gives_the_true_maps(name):
    plain = create(name)
    network = create(name)
    images = torch.randn(4, 3, 64, 64)
    hooked, given = Hooked(network, 64), []
    wanted = passed(plain, plain, images)
    found = passed(network, lambda images: given.append(hooked.forward_stages(images)) or given[0].logits, images)
    assert equal(wanted, found)
    again = create(name).train()
    torch.manual_seed(1)
    with Seen() as seen, torch.no_grad():
        again(images)
    for feature, map in zip(hooked.features, given[0].features, strict=True):
        assert tuple(map.shape[1:]) == (feature.channels, *feature.size)
        if len(feature.at) == 1:
            assert any(map.shape == each.shape and torch.equal(map, each) for each in seen.maps)
        if not feature.is_linear:
            assert (map < 0).any()
    gc.collect()


class Around(nn.Module):
    """A Hooked among modules whose names are like its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.student, self.student2, self.net = Hooked(net, 32), nn.Linear(2, 2), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.student.forward_stages(images)
        return logits, sum(each.square().mean() for each in features)


def trained(module: nn.Module, run=None) -> list[Tensor]:
    """What a step gives."""
    torch.manual_seed(1)
    module.zero_grad()
    logits, loss = (module if run is None else run)(torch.randn(4, 3, 32, 32))
    (logits.square().sum() + loss).backward()
    return [logits.detach(), loss.detach(), *(each.grad.clone() for each in module.student.parameters())]


MAKES = {"in place": Shared, "functions": Functional, "names": Named}


@pytest.fixture(params=MAKES)
def around(request) -> Around:
    return Around(create(MAKES[request.param].__name__)).train()


@pytest.mark.parametrize("attached", [False, True])
def test_copies_and_pickles_are_independent(around, attached):
    if attached:
        around.student.attach()
    copies = copy.deepcopy(around), pickle.loads(pickle.dumps(around))
    wanted = trained(copy.deepcopy(around))
    with torch.no_grad():
        for each in around.parameters():
            each.zero_()
    assert all(equal(trained(each), wanted) for each in copies)


def test_it_lives_through_checkpoints_layouts_and_autocast(around):
    wanted = trained(copy.deepcopy(around))
    assert equal(trained(around, lambda images: checkpoint(around, images, use_reentrant=False)), wanted)
    around.to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    assert all(map.is_contiguous(memory_format=torch.channels_last) for map in around.student.forward_stages(images)[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert {map.dtype for map in around.student.forward_stages(images).features} <= {torch.bfloat16, torch.float32}


def test_it_compiles_to_one_graph(around):
    in_place = isinstance(around.student.net, Functional)
    wanted = trained(copy.deepcopy(around))
    around.student.attach()
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    how = {"fullgraph": True, "dynamic": False, "backend": counter}
    compiled = around.compile(**how) or around if in_place else torch.compile(around, **how)
    for turn in range(3):
        found = trained(around, compiled)
        if not turn:
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1
    if in_place:
        assert isinstance(pickle.loads(pickle.dumps(around)), Around)


def test_the_state_dict_has_the_plain_network_s_names_wherever_it_stands(around):
    plain = type(around.student.net)()
    assert list(around.student.state_dict()) == list(plain.state_dict())
    assert [name for name in around.state_dict() if name.startswith("student.")] == [
        f"student.{name}" for name in plain.state_dict()
    ]
    plain.load_state_dict(around.student.state_dict())
    outer = nn.ModuleDict({"one": around, "two": nn.Sequential(nn.Identity(), Hooked(type(plain)(), 32))})
    other = copy.deepcopy(outer)
    for each in other.parameters():
        nn.init.normal_(each)
    for assign in (False, True):
        other.load_state_dict({name: each.clone() for name, each in outer.state_dict().items()}, assign=assign)
        assert equal([*other.state_dict().values()], [*outer.state_dict().values()])
    with torch.device("meta"):
        valueless = Hooked(type(plain)(), 32)
    valueless.load_state_dict(plain.state_dict(), assign=True)
    assert equal([*valueless.state_dict().values()], [*plain.state_dict().values()])
    with pytest.raises(RuntimeError, match=r'Missing key.*"student\.stage1\.0\.weight"'):
        around.load_state_dict({name: each for name, each in around.state_dict().items() if "stage1.0" not in name})


def test_an_error_in_the_network_ends_the_capture():
    hooked = Hooked(create("Functional"), 32)
    hooked.attach()
    with pytest.raises(RuntimeError):
        hooked.forward_stages(torch.randn(2, 4, 32, 32))
    assert not torch._C._len_torch_function_stack()
    assert not (hooked.on or hooked.picked or hooked.taps)
    hooked(torch.randn(2, 3, 32, 32))
    assert not hooked.picked
    assert len(hooked.forward_stages(torch.randn(2, 3, 32, 32)).features) == 3


def test_a_map_that_the_pass_does_not_reach_is_named():
    class Skips(Plain):
        def forward(self, images: Tensor) -> Tensor:
            x = self.activate(self.stage2(self.activate(self.stage1(images))))
            return (
                self.head(self.activate(self.stage3(x)))
                if not self.training
                else self.fc(x.mean((2, 3)).repeat(1, 2)[:, :24])
            )

    hooked = Hooked(Skips(), 32)
    hooked.attach()
    with pytest.raises(UserError, match=r"did not reach stage3\.1:out"):
        hooked.train().forward_stages(torch.randn(2, 3, 32, 32))


def test_one_tensor_may_be_named_twice():
    hooked = Hooked(create("Shared"), 32, ("stage1", "act#0:in", "stage1.1:out", "stage1#0"))
    maps = hooked.forward_stages(torch.randn(2, 3, 32, 32)).features
    assert all(map.equal(maps[0]) for map in maps) and (maps[0] < 0).any()


def test_two_in_one_process_do_not_meet():
    one, other = Hooked(create("Shared"), 32), Hooked(create("Auxiliary"), 64)
    images = torch.randn(2, 3, 64, 64)
    wanted = [each.clone() for each in one.eval().forward_stages(images).features]
    other.eval().forward_stages(images)
    assert all(map(torch.equal, one.forward_stages(images).features, wanted))
    assert isinstance(other.net, Auxiliary) and len(other.norms) == 3
    assert [norm for (norm,) in other.norms] == [
        stage[1] for stage in (other.net.stage1, other.net.stage2, other.net.stage3)
    ]


@pytest.mark.speed
@pytest.mark.parametrize("name", ["timm:resnet18", "timm:mobilenetv3_small_100", "timm:efficientnet_b0"])
def test_capture_costs_at_most_3_percent_of_a_step(name):
    network = create(name).train()
    images, hooked = torch.randn(16, 3, 64, 64), Hooked(copy.deepcopy(network), 64).train()
    hooked.attach()
    seconds = {"plain": [], "captured": []}
    for _ in range(12):
        for what, run in (("plain", network), ("captured", lambda images: hooked.forward_stages(images).logits)):
            begun = time.process_time()
            run(images).sum().backward()
            seconds[what].append(time.process_time() - begun)
    plain, captured = (sorted(each)[len(each) // 2] for each in seconds.values())
    print(f"{name}: {plain * 1e3:.0f} ms, captured {captured * 1e3:.0f} ms")
    assert captured < 1.03 * plain


@pytest.mark.speed
def test_a_dry_run_takes_a_second():
    with torch.device("meta"):
        networks = [timm.create_model(name) for name in ("resnet18", "efficientnet_b0", "convnext_tiny", "resnet152")]
    for number, network in enumerate(networks):
        begun = time.process_time()
        assert Hooked(network, 224).features
        print(f"{type(network).__name__}: {time.process_time() - begun:.2f} s")
        assert time.process_time() - begun < (1 if number else 2)
