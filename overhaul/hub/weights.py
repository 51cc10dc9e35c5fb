"""Weights in, from a run, a checkpoint file, torchvision or the Hub; students out, as folders."""

import json
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
from overhaul.hub.config import net_of, normalised, read_config, student_config
from overhaul.hub.files import read_contents, read_safetensors
from overhaul.hub.fitting import COUNTERS, Expected, find, same
from overhaul.models.backbone import Backbone
from overhaul.recipe import Net, Setup
from overhaul.run.folder import RunFolder, is_student
from overhaul.system.files import folder_beside, sha256, write_folder
from overhaul.system.messages import UserError, check_repo, check_source, is_hub_id, warn

ACCOUNTS = ("README.md", "overhaul.json", "metrics.jsonl", "curves.png")  # that a student's repository may have


@dataclass(frozen=True)
class Weights:
    """Trained weights with the net they belong to.

    config: what their config.json says ({} for a bare file); file: where they lie; revision: the commit on the Hub;
    notes: what a person should be told of how they were found.
    """

    net: Net
    state: dict[str, Tensor]
    config: dict
    source: str
    file: Path
    revision: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256(self.file)


def load(source: str, net: Net | None = None, key: str | None = None) -> Backbone:
    """A trained network in eval mode.

    source: the folder of a run or of a student; a checkpoint file (.pt, .pth, .tar, .safetensors; its weights may lie
    under any entry and have names with any prefix; nothing in it is executed); `torchvision` (ImageNet ResNets); or a
    Hub id USER/REPO[@REVISION], a repository in timm's layout. net: what it must be; files are recognised without it.
    key: the entry or prefix of a file where several fit. Raises UserError when the source does not exist, cannot be
    had, is no checkpoint or does not fit.
    """
    return build(fetch_named(replace(net or Net(), weights=source, key=key)))


def fetch(source: str, net: Net | None = None, usual: Net | None = None, key: str | None = None) -> Weights:
    """The weights of a source (see load) and the net they belong to, not yet built.

    net: what it must be, without num_classes of any number; usual: what it probably is, which a file is tried for
    first, and what `torchvision` is asked for.
    """
    path = Path(source).expanduser()
    check_source(source)
    if path.is_file():
        return from_file(path, net, usual, key)
    if key is not None:
        raise UserError(f"{source} is no checkpoint file, so its weights have no key {key!r}")
    if source == "torchvision":
        return from_torchvision(net or usual)
    repo, _, revision = source.partition("@")
    weights = from_folder(path) if path.is_dir() else from_hub(repo, revision or None)
    if net and not same(net, weights.net):
        raise UserError(f"{source} holds {weights.net}, not {net}; leave out its family and kwargs")
    return weights


def fetch_named(net: Net | str, row: Setup | None = None) -> Weights:
    """The weights of a net's source, as far as the net is named, or of a source; with a word on how they were found.

    Their config.json has the net's mean and std where it says none itself; row: see config.normalised.
    """
    net = Net(weights=net) if isinstance(net, str) else net
    net.check()
    weights = fetch(net.weights, net.named, key=net.key)
    for note in weights.notes:
        warn(note)
    return replace(weights, config=normalised(weights.config, weights.net, weights.source, net, row))


def at_commit(source: str) -> str:
    """The source, at the one commit that its revision resolves to if it is on the Hub."""
    if source == "torchvision" or Path(source).expanduser().exists() or not is_hub_id(source):
        return source
    repo, _, revision = source.partition("@")
    return f"{repo}@{client.download(repo, 'config.json', revision or None).parent.name}"


def from_folder(folder: Path) -> Weights:
    """Of a student's folder, or of the final student of a run's folder."""
    for candidate in (folder, RunFolder(folder).student("final")):
        if is_student(candidate):
            config, file = read_config(candidate / "config.json"), candidate / "model.safetensors"
            return Weights(known_net(config, str(folder)), read_safetensors(file), config, str(folder), file)
    check_foreign(folder)
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


def check_foreign(folder: Path) -> None:
    """UserError for a folder whose weights are pickled."""
    pickles = sorted(file for file in folder.iterdir() if file.name.endswith(client.PICKLES))
    if (folder / "config.json").is_file() and pickles:
        raise UserError(f"{folder} has pickled weights and no model.safetensors: name the file itself, {pickles[0]}")


def from_file(path: Path, net: Net | None, usual: Net | None, key: str | None) -> Weights:
    found = find(str(path), read_contents(path), net, usual, key)
    return Weights(found.net, found.state, {}, str(path), path, notes=found.notes)


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
    return Weights(net, read_safetensors(file), config, repo, file, commit)


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


def build(weights: Weights, image_size: int = 224) -> Backbone:
    """The network with its weights, strictly, in eval mode. image_size: see models.create."""
    if faults := Expected(weights.net).faults(weights.state):
        looks_like = models.identify(weights.state) or "none of our families"
        raise UserError(f"{weights.source} does not fit {weights.net}: {', '.join(faults)}; it looks like {looks_like}")
    network = models.create(weights.net, image_size)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith(COUNTERS)}
    network.load_state_dict({**counters, **weights.state}, strict=True)
    return network.eval()


def student_files(network: Backbone, setup: Setup, classes: Sequence[str]) -> dict[str, bytes]:
    """The files of a student's folder: config.json and model.safetensors (fp32, contiguous)."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    config = json.dumps(student_config(setup, classes, models.classifier(setup.student)), indent=2) + "\n"
    return {"model.safetensors": safetensors.torch.save(state, {"format": "pt"}), "config.json": config.encode()}


def save(folder: Path, network: Backbone, setup: Setup, classes: Sequence[str]) -> None:
    """Write a student's folder, each file replaced in one step."""
    write_folder(folder, student_files(network, setup, classes))
