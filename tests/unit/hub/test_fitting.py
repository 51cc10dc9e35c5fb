"""Checkpoint files as other trainers write them: which weights are taken, what is said of it, and what is refused."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.runs import SMALL_NET as NET
from support.runs import same_weights

from overhaul import hub, models
from overhaul.recipe import Net
from overhaul.setups import SETUPS

SETUP = SETUPS["digits"]

ARGS = argparse.Namespace(model="wrn_10_1", lr=0.1, lr_decay_epochs=[150, 180], out=Path("runs/1"))


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def changed(state: dict, change) -> dict:
    return {name: change(value) if value.is_floating_point() else value for name, value in state.items()}


def other(state: dict) -> dict:
    return changed(state, lambda value: value + 1)


STEPS = {"n_averaged": torch.tensor(3)}
FOREIGN = {  # what a file holds, of the network's state, and words that are said
    "RepDistiller": (lambda s: {"opt": ARGS, "model": s, "best_acc": torch.tensor(7.0)}, None),
    "timm": (lambda s: {"arch": "x", "state_dict": s, "args": ARGS, "version": 2, "metric": 75.6}, None),
    "timm, averaged": (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "under state_dict_ema are taken"),
    "averaged alone": (lambda s: {"state_dict_ema": s}, None),
    "torchvision": (lambda s: {"model": under("module.", s), "args": ARGS}, "without module. in names"),
    "torchvision, averaged": (
        lambda s: {"model": other(s), "model_ema": {**STEPS, **under("module.", s)}},
        "under model_ema.module are taken; model would fit too",
    ),
    "AveragedModel": (lambda s: {**STEPS, **under("module.", s)}, "without module."),
    "Lightning": (lambda s: {"state_dict": under("model.", s), "hyper_parameters": {"lr": 0.1}}, "without model."),
    "Lightning, net": (lambda s: {"state_dict": under("net.", s)}, "without net."),
    "backbone": (lambda s: under("backbone.", s), "without backbone."),
    "teacher and student": (
        lambda s: {"state_dict": {**under("teacher.", other(s)), **under("student.", s)}},
        "under state_dict.student are taken; state_dict.teacher would fit too",
    ),
    "the release's d_net": (
        lambda s: {**under("t_net.", other(s)), **under("s_net.", s), "Connectors.0.weight": torch.zeros(3, 3)},
        "under s_net are taken",
    ),
    "wrapped three times": (lambda s: under("_orig_mod.module.model.", s), "without _orig_mod.module.model."),
    "net": (lambda s: {"net": s, "acc": 75.6}, None),
    "params": (lambda s: {"params": s}, None),
    "model_state_dict": (lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}}, None),
    "beside numbers": (lambda s: {**s, "epoch": 3, "optimizer": {"state": {}}}, None),
    "linear": (lambda s: {n.replace("fc.", "linear."): v for n, v in s.items()}, "is called linear, ours fc"),
    "head": (lambda s: under("m.", {n.replace("fc.", "head."): v for n, v in s.items()}), "is called head, ours fc"),
    "backbone, and a bare classifier": (
        lambda s: {n if n.startswith("fc.") else f"backbone.{n}": v for n, v in s.items()},
        "without backbone.",
    ),
    "averaged by SWA": (lambda s: {"state_dict": other(s), "swa_state_dict": s}, "under swa_state_dict are taken"),
    "half": (lambda s: changed(s, lambda value: value.half().float().half()), None),
    "NumPy": (lambda s: {"state_dict": {name: value.numpy() for name, value in s.items()}}, None),
}


@pytest.fixture(scope="module")
def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", FOREIGN)
def test_weights_of_other_trainers_are_found_and_what_was_done_is_said(tmp_path, network, state, kind):
    write, said = FOREIGN[kind]
    torch.save(write(state), tmp_path / "file.pth.tar")
    for net in (NET, None):
        weights = hub.fetch(str(tmp_path / "file.pth.tar"), net)
        assert weights.net == NET
        if kind == "half":
            assert torch.allclose(hub.build(weights).fc.weight, network.fc.weight, atol=1e-3)
        else:
            assert same_weights(hub.build(weights), network)
        assert (said in " ".join(weights.notes)) if said else not weights.notes


def test_a_key_names_the_weights_where_several_fit(tmp_path, network, state, capsys):
    path = str(tmp_path / "file.pth")
    torch.save({"state_dict": state, "state_dict_ema": other(state)}, path)
    assert not same_weights(hub.load(path), network)
    assert "state_dict_ema are taken; state_dict would fit too" in capsys.readouterr().err
    assert same_weights(hub.load(path, key="state_dict"), network)
    torch.save({"state_dict": {**under("teacher.", state), **under("student.", other(state))}}, path)
    assert same_weights(hub.load(path, key="teacher"), network)
    assert same_weights(hub.load(path, key="state_dict.teacher"), network)
    torch.save({"model": other(state), "shadow": {"module": state}}, path)
    assert same_weights(hub.load(path, key="shadow"), network)
    torch.save({"state_dict": {**under("teacher.", state), **under("student.", other(state))}}, path)
    with pytest.raises(ValueError, match=r"no weights under 'ema', but state_dict \(9\d tensors: teacher"):
        hub.load(path, key="ema")
    hub.save(tmp_path / "student", network, SETUP, list("0123456789"))
    with pytest.raises(ValueError, match="is no checkpoint file, so its weights have no key 'ema'"):
        hub.load(str(tmp_path / "student"), key="ema")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda s: {"optimizer": {"state": {}}, "epoch": 3},
            "no weights, but optimizer (1 entries), epoch (int)",
        ),
        (lambda s: [s], "holds no weights, but a list of 1"),
        (lambda s: {"state_dict": {**s, "criterion.weight": torch.ones(10)}}, "1 unexpected (criterion.weight)"),
        (
            lambda s: {n: v for n, v in s.items() if "running" not in n and "batches" not in n},
            "14 missing (block1.layer.0.bn1.running_mean, ",
        ),
        (lambda s: {"encoder.stages.0.layers.0.convolution.weight": torch.zeros(3, 3)}, "those of transformers"),
        (lambda s: {"a": {"x.weight": torch.zeros(3)}, "b": 1}, "it holds a (1 tensors: x), b (int)"),
    ],
)
def test_what_is_refused_is_told_with_what_the_file_holds(tmp_path, state, write, words):
    torch.save(write(state), tmp_path / "file.pt")
    with pytest.raises(ValueError) as error:
        hub.load(str(tmp_path / "file.pt"))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_deeper_network_is_not_taken_for_the_shallower_one_that_it_begins_with(tmp_path):
    torch.save(models.create("wide_resnet", depth=16, width=1, num_classes=10).state_dict(), tmp_path / "file.pt")
    with pytest.raises(ValueError, match="unexpected"):
        hub.load(str(tmp_path / "file.pt"), NET)


def test_a_net_that_is_named_in_part_must_be_what_the_file_holds(tmp_path, network, state):
    path = str(tmp_path / "file.pt")
    torch.save(state, path)
    assert same_weights(hub.load(path, Net(family="wide_resnet")), network)
    assert same_weights(hub.load(path, Net(family="wide_resnet", kwargs={"depth": 10, "width": 1})), network)
    with pytest.raises(ValueError, match="holds wide_resnet depth=10 width=1 num_classes=10, not resnet"):
        hub.load(path, Net(family="resnet"))
    with pytest.raises(ValueError, match="does not fit wide_resnet depth=16"):
        hub.load(path, Net(family="wide_resnet", kwargs={"depth": 16, "width": 1}))


def test_weights_for_another_number_of_classes_are_the_same_net(tmp_path, state):
    head = {"fc.weight": torch.zeros(100, 64), "fc.bias": torch.zeros(100)}
    torch.save({**state, **head}, tmp_path / "file.pt")
    free = Net(family="wide_resnet", kwargs={"depth": 10, "width": 1})
    assert hub.fetch(str(tmp_path / "file.pt"), free).net.kwargs["num_classes"] == 100


def test_folders_of_transformers_are_named_for_what_they_are(tmp_path, state):
    (tmp_path / "config.json").write_text('{"architectures": ["ResNetForImageClassification"], "model_type": "resnet"}')
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights and no model.safetensors: name the file itself"):
        hub.load(str(tmp_path))
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"a model of transformers .*ResNetForImageClassification"):
        hub.load(str(tmp_path))


def test_a_file_may_hold_paths_and_numpy_and_nothing_that_runs(tmp_path, state):
    path = tmp_path / "file.pt"
    torch.save({"model": state, "args": ARGS, "best": np.float64(1), "curve": np.arange(3)}, path)
    hub.load(str(path))
    torch.save({"model": state, "args": argparse.Namespace(kind=argparse.ArgumentParser)}, path)
    with pytest.raises(ValueError, match=r"pickled code \(argparse.ArgumentParser\)"):
        hub.load(str(path))
