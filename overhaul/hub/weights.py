"""Weights in, from a run, a checkpoint file, torchvision or the Hub; students out, as folders."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from overhaul import models
from overhaul.hub import client
from overhaul.hub.config import net_of, read_config, student_config
from overhaul.hub.files import read_weights
from overhaul.models.backbone import Backbone
from overhaul.recipe import Net, Setup
from overhaul.run.folder import RunFolder, is_student
from overhaul.system.files import folder_beside, sha256, write_folder
from overhaul.system.messages import UserError, check_repo

SUFFIXES = (".pt", ".pth", ".tar", ".safetensors")
ACCOUNTS = ("README.md", "overhaul.json", "metrics.jsonl", "curves.png")  # that a student's repository may have
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Weights:
    """Trained weights with the net they belong to.

    config: what their config.json says ({} for a bare file); file: where they lie; revision: the commit on the Hub.
    """

    net: Net
    state: dict[str, Tensor]
    config: dict
    source: str
    file: Path
    revision: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256(self.file)


def load(source: str, net: Net | None = None) -> Backbone:
    """A trained network in eval mode.

    source: the folder of a run or of a student; a checkpoint file (.pt, .pth, .tar, .safetensors; weights under
    `model`, under `state_dict`, or bare; nothing in it is executed); `torchvision` (ImageNet ResNets); or a Hub id
    USER/REPO[@REVISION], a repository in timm's layout. net: what a file or `torchvision` should hold; files are
    recognised without it. Raises UserError when the source does not exist, cannot be had, is no checkpoint or does
    not fit.
    """
    return build(fetch(source, net))


def fetch(source: str, net: Net | None = None) -> Weights:
    """The weights of a source (see load) and the net they belong to, not yet built."""
    path = Path(source).expanduser()
    if source == "torchvision":
        return from_torchvision(net)
    if path.is_dir():
        return from_folder(path)
    if path.is_file():
        return from_file(path, net)
    if not is_hub_id(source):
        raise UserError(f"{source}: there is no such file or folder, and it is not a Hub id (USER/REPO)")
    repo, _, revision = source.partition("@")
    return from_hub(repo, revision or None)


def at_commit(source: str) -> str:
    """The source, at the one commit that its revision resolves to if it is on the Hub."""
    if source == "torchvision" or Path(source).expanduser().exists() or not is_hub_id(source):
        return source
    repo, _, revision = source.partition("@")
    return f"{repo}@{client.download(repo, 'config.json', revision or None).parent.name}"


def is_hub_id(source: str) -> bool:
    """Whether it may be one, and not a misspelt path."""
    path = Path(source).expanduser()
    in_a_folder = path.parent.is_dir() and path.parent != Path(".")
    local = path.is_absolute() or source.startswith((".", "~")) or path.suffix in SUFFIXES or in_a_folder
    return not local and bool(HUB_ID.fullmatch(source))


def from_folder(folder: Path) -> Weights:
    """Of a student's folder, or of the final student of a run's folder."""
    for candidate in (folder, RunFolder(folder).student("final")):
        if is_student(candidate):
            config, file = read_config(candidate / "config.json"), candidate / "model.safetensors"
            return Weights(known_net(config, str(folder)), read_weights(file), config, str(folder), file)
    unfinished = (
        "the run has not finished yet; its best student so far may be in best/"
        if RunFolder(folder).config_file.exists()
        else "it is neither a student nor a run"
    )
    raise UserError(f"{folder} holds no config.json and model.safetensors, nor does its final/: {unfinished}")


def known_net(config: dict, source: str) -> Net:
    try:
        return net_of(config)
    except UserError as error:
        raise UserError(f"{source} cannot be loaded: {error}") from None


def from_file(path: Path, net: Net | None) -> Weights:
    state = read_weights(path)
    looks_like = models.identify(state)
    if net is None and looks_like is None:
        raise UserError(f"{path} holds {len(state)} tensors ({next(iter(state))}, ...) that fit none of our families")
    return Weights(net or looks_like, state, {}, str(path), path)


def from_torchvision(net: Net | None) -> Weights:
    if net is None or net.family != "resnet":
        raise UserError(f"torchvision has weights for our ImageNet ResNets only, not for {net or 'an unnamed net'}")
    import torchvision

    enum = torchvision.models.get_model_weights(f"resnet{net.kwargs['depth']}")
    try:
        state = enum.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise UserError(
            f"torchvision's weights could not be downloaded ({error}); give a file with --teacher"
        ) from None
    file = Path(torch.hub.get_dir(), "checkpoints", enum.IMAGENET1K_V1.url.rpartition("/")[2])
    return Weights(replace(net, kwargs={**net.kwargs, "num_classes": 1000}), state, {}, "torchvision", file)


def from_hub(repo: str, revision: str | None) -> Weights:
    """Config and weights of a Hub repository, both at the one commit that the revision resolves to."""
    file = client.download(repo, "config.json", revision)
    config, commit = read_config(file), file.parent.name
    net = known_net(config, repo)
    try:
        file = client.download(repo, "model.safetensors", commit, largest=2 * bytes_of(net) + 2**20)
    except client.Missing as missing:
        pickles = [name for name in client.files(repo, commit) if name.endswith(client.PICKLES)]
        but = f" and has pickled weights ({pickles[0]}), which are never read from the Hub" if pickles else ""
        raise UserError(f"{missing}{but}") from None
    return Weights(net, read_weights(file), config, repo, file, commit)


def pull(source: str, out: str | Path) -> dict:
    """Copy a student from the Hub, USER/REPO[@REVISION], into a new folder, which appears whole.

    Returns {"folder", "repo", "revision": the commit, "left_out": the accounts of the student that the cache lacks
    where the Hub does not answer}. Raises UserError for a folder in use, and for what load would refuse.
    """
    out, (repo, _, revision) = Path(out).expanduser(), source.partition("@")
    check_repo("overhaul pull", repo)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is in use; name a folder that is not there yet")
    weights = from_hub(repo, revision or None)
    build(weights)
    files = {"config.json": weights.file.parent / "config.json", weights.file.name: weights.file}
    left_out = []
    for name in ACCOUNTS:
        try:
            files[name] = client.download(repo, name, weights.revision)
        except client.Missing:
            continue
        except client.Unreachable:
            left_out.append(name)
    try:
        with folder_beside(out) as made:
            whole = made / out.name
            whole.mkdir()
            for name, file in files.items():
                shutil.copyfile(file, whole / name)
            whole.rename(out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written to: {error.strerror}") from None
    return {"folder": str(out), "repo": repo, "revision": weights.revision, "left_out": left_out}


def bytes_of(net: Net) -> int:
    """Bytes of a net's parameters and buffers; UserError for one that cannot be built."""
    return sum(value.nbytes for value in models.outline(net).state_dict().values())


def build(weights: Weights) -> Backbone:
    """The network with its weights, strictly, in eval mode."""
    check_fit(weights)
    network = models.create(weights.net)
    network.load_state_dict({**counters(network), **weights.state}, strict=True)
    return network.eval()


def counters(network: Backbone) -> dict[str, Tensor]:
    """BatchNorm's step counters, which checkpoints older than PyTorch 0.4.1 lack."""
    return {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}


def check_fit(weights: Weights) -> None:
    """UserError with the first missing, unexpected and misshapen entries, and the net that the weights look like."""
    network = models.outline(weights.net)
    expected, found = network.state_dict(), weights.state
    optional = counters(network)
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    whole = [name for name in found if name in expected and expected[name].is_floating_point()]
    odd = [name for name in whole if not found[name].is_floating_point() or not found[name].isfinite().all()]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen), ("not finite numbers", odd))
    faults = [f"{len(names)} {kind} ({names[0]})" for kind, names in kinds if names]
    if faults:
        looks_like = models.identify(found) or "none of our families"
        raise UserError(f"{weights.source} does not fit {weights.net}: {', '.join(faults)}; it looks like {looks_like}")


def student_files(network: Backbone, setup: Setup, classes: Sequence[str]) -> dict[str, bytes]:
    """The files of a student's folder: config.json and model.safetensors (fp32, contiguous)."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    config = json.dumps(student_config(setup, classes), indent=2) + "\n"
    return {"model.safetensors": safetensors.torch.save(state, {"format": "pt"}), "config.json": config.encode()}


def save(folder: Path, network: Backbone, setup: Setup, classes: Sequence[str]) -> None:
    """Write a student's folder, each file replaced in one step."""
    write_folder(folder, student_files(network, setup, classes))
