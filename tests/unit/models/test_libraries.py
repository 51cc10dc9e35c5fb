"""Networks of libraries and of users' files: what they are, and one line for everything that may be wrong with them."""

import copy
import hashlib
import pickle
import sys
import textwrap

import pytest
import torch

from overhaul import models
from overhaul.models import libraries
from overhaul.nets import Net, named
from overhaul.system.messages import UserError

BLOCKS = """
import torch

class Block(torch.nn.Conv2d): {}
"""
NETWORK = """
import functools
import torch
from torch import nn
from my_blocks import Block

MEAN = torch.tensor([0.5, 0.25])
made = nn.Linear(2, 2)
number = 3

class Net(nn.Module):
    def __init__(self, num_classes=5, width: int = 4):
        super().__init__()
        self.drops = [each.item() for each in torch.linspace(0, 0.1, 3)]  # which no meta tensor gives
        self.conv, self.fc = Block(3, width, 3), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.conv(images).mean((2, 3)))

def make_net(num_classes, width=4):
    import my_late
    return Net(num_classes, width)

def fixed(): return Net()
def open_to_all(**kwargs): return Net(**kwargs)
def needy(num_classes, depth): return Net(num_classes)
def empty(): pass
def several(): return Net(), 1
def scripted(): return torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1)))
def partly_scripted(): return nn.Sequential(scripted())
def partly_compiled(): return nn.Sequential(torch.compile(nn.Sequential(nn.Conv2d(3, 3, 1))))
def compiled(): return torch.compile(Net())
def lazy(): return nn.LazyConv2d(3, 3)
def raising(): raise KeyError("no such\\nlayer")
def leaving(): raise SystemExit(3)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the files lie, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("my_net.py", NETWORK), ("my_blocks.py", BLOCKS.format("pass")), ("my_late.py", "")):
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def refusal(family: str, **kwargs) -> str:
    with pytest.raises(UserError) as raised:
        libraries.make(family, kwargs)
    assert "\n" not in str(raised.value) and "Traceback" not in str(raised.value)
    return str(raised.value)


def test_a_file_is_imported_once_and_its_networks_can_be_copied_and_pickled(folder):
    path = list(sys.path)
    with torch.device("meta"):
        outline = libraries.make("my_net.py:make_net", {"num_classes": 7, "width": 3})
    assert {each.device.type for each in outline.parameters()} == {"meta"} and outline.fc.weight.shape == (7, 3)
    network = libraries.make(f"{folder}/my_net.py:make_net", {"num_classes": 7})
    module = sys.modules[type(network).__module__]
    assert type(network) is type(outline) and module.MEAN.tolist() == [0.5, 0.25] and sys.path == path
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other.fc.weight, network.fc.weight)
    content = (folder / "my_net.py").read_bytes()
    assert libraries.sha256_of("my_net.py:make_net") == hashlib.sha256(content).hexdigest()
    assert libraries.sha256_of("timm:resnet18") is None and libraries.sha256_of(None) is None


def test_a_file_that_has_changed_and_another_of_its_name_are_others(folder):
    first = libraries.make("my_net.py:fixed", {})
    (folder / "my_net.py").write_text(NETWORK + "\nNet.size = 3\n")
    assert libraries.make("my_net.py:fixed", {}).size == 3 and not hasattr(first, "size")
    (folder / "other").mkdir()
    (folder / "other" / "my_blocks.py").write_text(BLOCKS.format("other = True"))
    (folder / "other" / "my_net.py").write_text(NETWORK)
    assert libraries.make("other/my_net.py:fixed", {}).conv.other
    assert not hasattr(libraries.make("my_net.py:fixed", {}).conv, "other")


def test_making_a_network_without_values_draws_no_random_numbers(folder):
    state = torch.get_rng_state()
    with torch.device("meta"):
        libraries.make("my_net.py:fixed", {})
    assert torch.equal(torch.get_rng_state(), state)


def test_a_function_gets_the_number_of_classes_where_it_takes_it(folder):
    for function, classes in (("make_net", 7), ("Net", 7), ("open_to_all", 7), ("fixed", 5)):
        assert libraries.make(f"my_net.py:{function}", {"num_classes": 7}).fc.out_features == classes
    assert models.create(Net(family="my_net.py:Net", kwargs={"num_classes": 3})).bare.fc.out_features == 3


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("makenet", "has no makenet (did you mean make_net?)"),
        ("xyz", "it has Net, make_net, fixed"),
        ("made", "is a network already: name the function or class that makes it"),
        ("number", "is of the type int"),
        ("needy", "needs depth: give them as kwargs"),
        ("empty", "gives a NoneType, not an nn.Module"),
        ("several", "gives a tuple, not an nn.Module"),
        ("scripted", "TorchScript"),
        ("partly_scripted", "TorchScript"),
        ("compiled", "compiled module"),
        ("partly_compiled", "compiled module"),
        ("lazy", "lazy layers"),
        ("raising", "cannot be used: KeyError: 'no such\\nlayer' (line 34)"),
        ("leaving", "cannot be used: SystemExit: 3 (line 35)"),
    ],
)
def test_what_a_function_of_a_file_may_do(folder, function, words, recwarn):
    assert words in refusal(f"my_net.py:{function}", num_classes=7)
    assert not [each for each in recwarn if each.category is FutureWarning]


def test_arguments_that_a_function_does_not_take(folder):
    assert "takes no argument depth; those that it takes: width" in refusal("my_net.py:make_net", depth=3)
    assert "unexpected keyword argument 'depth' (line 25)" in refusal("my_net.py:open_to_all", depth=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:", "SyntaxError: "),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind' (line 1)"),
        ("from .x import y", "ImportError: "),
        ("raise SystemExit(1)", "SystemExit: 1 (line 1)"),
        ("x = 1\nx['a']", "TypeError: 'int' object is not subscriptable (line 2)"),
        ("\0", "null byte"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, text, words):
    file = tmp_path / "broken.py"
    file.write_text(text)
    for _ in range(2):
        assert words in refusal(f"{file}:f") and not [name for name in sys.modules if name.startswith("broken_")]


def test_a_file_that_is_not_there(tmp_path):
    assert "there is no such file" in refusal(f"{tmp_path}/my_net.py:f")
    (tmp_path / "my_net.py").mkdir()
    assert "cannot be read: Is a directory" in refusal(f"{tmp_path}/my_net.py:f")


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("timm:resnt18", "timm has no network resnt18; the nearest are resnet18"),
        ("timm:resnet18.a1_in1k", "say timm/resnet18.a1_in1k"),
        ("timm:hf-hub:timm/resnet18", "timm has no network"),
        ("torchvision:resnet_18", "torchvision has no network resnet_18; the nearest are resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier of images"),
    ],
)
def test_networks_that_a_library_has_not(family, words):
    assert words in refusal(family)


def test_timm_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm is not installed, so timm:resnet18 cannot be made: pip install timm" in refusal("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("pretrained", True), ("checkpoint_path", "/etc/passwd"), ("pretrained_cfg", "x"), ("weights", "DEFAULT")),
        *(("pretrained_cfg_overlay", "x"), ("cache_dir", "x"), ("scriptable", True), ("features_only", True)),
        *(("exportable", True), ("no_jit", True), ("weights_backbone", "x"), ("device", "cuda"), ("in_chans", 1)),
        *(("width", 1e9), ("width", float("nan")), ("act_layer", "x" * 101), ("layers", [10_000, 1])),
        *(("layers", [1] * 65), ("layers", [[[1]]]), ("block_args", {"a": 1}), ("layers", 10**400)),
    ],
)
def test_arguments_that_no_network_gets(name, value):
    said = refusal("timm:resnet18", **{name: value})
    assert f"kwargs.{name} " in said and len(said) < 300
    assert f"kwargs.{name} " in refusal("torchvision:resnet18", **{name: value})


def test_arguments_of_a_library(folder):
    network = libraries.make("timm:resnet18", {"num_classes": 3, "drop_rate": 0.1, "layers": (1, 1, 1, 1)})
    assert network.drop_rate == 0.1 and len(network.layer1) == 1
    assert "timm:resnet18 takes no argument foo" in refusal("timm:resnet18", foo=1)
    assert "torchvision:mobilenet_v2 takes no argument foo" in refusal("torchvision:mobilenet_v2", foo=1)
    assert "timm:resnet18 cannot be used: KeyError: 'nope'" in refusal("timm:resnet18", act_layer="nope")


def test_auxiliary_heads_are_there_and_the_logits_first():
    with torch.device("meta"):
        network = models.create(Net(family="torchvision:googlenet", kwargs={"num_classes": 3}))
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 3) and network.bare.aux1 is not None


def test_how_a_library_says_that_images_are_shown():
    shown = libraries.images_of("timm:inception_v4")
    assert (shown.size, shown.resize, shown.mean, shown.interpolation) == (299, 341, (0.5,) * 3, "bicubic")
    shown = libraries.images_of("torchvision:mobilenet_v2@DEFAULT")
    assert (shown.size, shown.resize, shown.interpolation) == (224, 232, "bilinear")
    for name in ("torchvision:mobilenet_v2", "my_net.py:make_net", "timm:overhaul_wide_resnet", None):
        if not (name or "").startswith("timm"):
            assert libraries.images_of(name) is None
    with pytest.raises(UserError, match="has no weights V3; it has IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        libraries.images_of("torchvision:mobilenet_v2@V3")


@pytest.mark.parametrize(
    ("text", "family", "weights"),
    [
        ("timm:resnet18", "timm:resnet18", None),
        ("torchvision:resnet18", "torchvision:resnet18", None),
        ("torchvision:resnet18@DEFAULT", "torchvision:resnet18", "torchvision:resnet18@DEFAULT"),
        ("../nets/my_net.py:make", "../nets/my_net.py:make", None),
        ("USER/REPO@main", None, "USER/REPO@main"),
        ("runs/x", None, "runs/x"),
        ("a:b.pt", None, "a:b.pt"),
    ],
)
def test_networks_named_in_a_word(text, family, weights):
    assert named(text) == Net(family=family, weights=weights)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timm:x@y", "say timm/x.TAG"),
        ("timm:resnet18.a1_in1k", "say timm/resnet18.a1_in1k$"),
        ("timm:", "is not whole"),
        ("torchvision:x@", "torchvision:NAME@DEFAULT"),
        ("tim:resnet18", "timm:NAME, torchvision:NAME or FILE.py:FUNCTION"),
        ("my_nets.small:Net", "FILE.py:FUNCTION"),
        ("my_net.py", "FILE.py:FUNCTION"),
        ("my_net.py:a.b", "FILE.py:FUNCTION"),
    ],
)
def test_words_that_name_no_network(text, words):
    with pytest.raises(UserError, match=words):
        named(text)
