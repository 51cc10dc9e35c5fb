"""Checkpoint files of every kind: those that are read, and those that are refused without running anything."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.runs import SMALL_NET as NET
from support.runs import same_weights

from overhaul import hub, models

FORMATS = {
    "model.pt": lambda state: {"model": state, "epoch": 3},
    "module.tar": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "bare.pth": lambda state: state,
    "module-under-model.pt": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "with-a-score.tar": lambda state: {"state_dict": state, "best_err1": np.float64(15.6), "best_err5": np.float32(3)},
    "ancient.pth": lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("given", [NET, None], ids=["net given", "net recognised"])
def test_checkpoint_files_in_the_release_formats(tmp_path, network, name, given):
    torch.save(FORMATS[name](network.state_dict()), tmp_path / name)
    assert same_weights(hub.load(str(tmp_path / name), given), network)


def test_a_legacy_torch_file(tmp_path, network):
    torch.save({"model": network.state_dict()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same_weights(hub.load(str(tmp_path / "old.pt")), network)


def test_safetensors(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert same_weights(hub.load(str(tmp_path / "model.safetensors")), network)


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/overhaul-was-here",)


def broken(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    state = models.create(NET).state_dict()
    if name == "code.pt":
        torch.save({"model": state, "extra": Payload()}, path)
    elif name == "code.pkl.pt":
        path.write_bytes(pickle.dumps(Payload()))
    elif name == "text.pt":
        path.write_text("not a checkpoint")
    elif name == "empty.pt":
        path.write_bytes(b"")
    elif name == "half.pt":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "list.pt":
        torch.save([1, 2, 3], path)
    elif name == "tensor.pt":
        torch.save(torch.zeros(3), path)
    elif name == "optimizer.pt":
        torch.save({"state_dict": {"lr": 0.1}}, path)
    elif name == "text.safetensors":
        path.write_text("not a checkpoint")
    elif name == "numbers.pt":
        torch.save({0: torch.zeros(3)}, path)
    elif name == "sparse.pt":
        torch.save({"fc.weight": torch.zeros(3, 3).to_sparse()}, path)
    elif name == "nothing.safetensors":
        save_file({}, path)
    elif name == "other.pt":
        torch.save({"conv.weight": torch.zeros(3, 3)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("code.pt", "holds pickled code"),
        ("code.pkl.pt", "holds pickled code"),
        ("text.pt", "is not a checkpoint"),
        ("empty.pt", "is not a checkpoint"),
        ("half.pt", "is not a checkpoint, or a broken one"),
        ("list.pt", "holds no weights"),
        ("tensor.pt", "holds no weights, but a tensor"),
        ("optimizer.pt", "holds no weights"),
        ("numbers.pt", "holds no weights"),
        ("sparse.pt", "holds no weights"),
        ("nothing.safetensors", "holds no weights"),
        ("text.safetensors", "is not a safetensors file"),
        ("other.pt", "has no weights that fit one of our families"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, words):
    with pytest.raises(ValueError, match=words) as error:
        hub.load(str(broken(tmp_path, name)))
    assert "\n" not in str(error.value)
    assert not Path("/tmp/overhaul-was-here").exists()


def test_bytes_of_any_kind_are_refused(tmp_path):
    """Text, noise, and a legacy torch file cut short or with a byte changed: torch raises errors of many kinds."""
    draw, path = np.random.default_rng(0), tmp_path / "teacher.pt"
    torch.save(models.create(NET).state_dict(), path, _use_new_zipfile_serialization=False)
    legacy = path.read_bytes()
    for case in range(150):
        if case % 3 == 0:
            content = draw.integers(32 * (case % 2), 128, draw.integers(1, 200), dtype=np.uint8).tobytes()
        elif case % 3 == 1:
            content = legacy[: draw.integers(1, 5000)]
        else:
            at = draw.integers(0, 5000)
            content = legacy[:at] + bytes([draw.integers(256)]) + legacy[at + 1 :]
        path.write_bytes(content)
        try:
            hub.load(str(path))
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_names_lose_the_prefixes_of_wrappers(tmp_path, prefix, suffix):
    network = models.create(NET)
    state = {prefix + name: value for name, value in network.state_dict().items()}
    (save_file if suffix == ".safetensors" else torch.save)(state, tmp_path / f"teacher{suffix}")
    assert same_weights(hub.load(str(tmp_path / f"teacher{suffix}")), network)


@pytest.mark.parametrize("kind", ["float16", "bool_", "uint8", "float64"])
def test_accuracies_kept_as_numpy_scalars(tmp_path, kind):
    network = models.create(NET)
    torch.save({"state_dict": network.state_dict(), "best": getattr(np, kind)(1)}, tmp_path / "teacher.tar")
    assert same_weights(hub.load(str(tmp_path / "teacher.tar")), network)
