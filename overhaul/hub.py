"""Weights in, from a run, a checkpoint file, torchvision or the Hub; students out, as folders."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from overhaul import models
from overhaul.checkpoint_file import read_weights
from overhaul.models.backbone import Backbone
from overhaul.run_folder import write_text
from overhaul.setups import Net, Setup, first_line

SUFFIXES = (".pt", ".pth", ".tar", ".safetensors")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Weights:
    """Trained weights with the net they belong to; config: what their folder says of them ({} for a bare file)."""

    net: Net
    state: dict[str, Tensor]
    config: dict
    source: str
    revision: str | None = None


@dataclass(frozen=True)
class Preprocessing:
    """size: of a test image's side in pixels; resize: of the short side before the centre is cropped."""

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load(source: str, net: Net | None = None) -> Backbone:
    """A trained network in eval mode.

    source: the folder of a run or of a student; a checkpoint file (.pt, .pth, .tar, .safetensors; weights under
    `model`, under `state_dict`, or bare; nothing in it is executed); `torchvision` (ImageNet ResNets); or a Hub id
    USER/REPO[@REVISION]. net: what a file or `torchvision` should hold; files are recognised without it.
    Raises ValueError when the source does not exist, is no checkpoint or does not fit.
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
    in_a_folder = path.parent.is_dir() and path.parent != Path(".")
    local = path.is_absolute() or source.startswith((".", "~")) or path.suffix in SUFFIXES or in_a_folder
    if local or not HUB_ID.fullmatch(source):
        raise ValueError(f"{source}: there is no such file or folder, and it is not a Hub id (USER/REPO)")
    return from_hub(*source.partition("@")[::2])


def from_folder(folder: Path) -> Weights:
    """Of a student's folder, or of the final student of a run's folder."""
    for candidate in (folder, folder / "final"):
        if (candidate / "config.json").is_file() and (candidate / "model.safetensors").is_file():
            config = read_config(candidate / "config.json")
            return Weights(config_to_net(config), read_weights(candidate / "model.safetensors"), config, str(folder))
    unfinished = (
        "the run has not finished yet; its best student so far may be in best/"
        if (folder / "config.yaml").exists()
        else "it is neither a student nor a run"
    )
    raise ValueError(f"{folder} holds no config.json and model.safetensors, nor does its final/: {unfinished}")


def from_file(path: Path, net: Net | None) -> Weights:
    state = read_weights(path)
    looks_like = models.identify(state)
    if net is None and looks_like is None:
        raise ValueError(f"{path} holds {len(state)} tensors ({next(iter(state))}, ...) that fit none of our families")
    return Weights(net or looks_like, state, {}, str(path))


def from_torchvision(net: Net | None) -> Weights:
    if net is None or net.family != "resnet":
        raise ValueError(f"torchvision has weights for our ImageNet ResNets only, not for {net or 'an unnamed net'}")
    import torchvision

    enum = torchvision.models.get_model_weights(f"resnet{net.kwargs['depth']}")
    try:
        state = enum.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise ValueError(
            f"torchvision's weights could not be downloaded ({error}); give a file with --teacher"
        ) from None
    return Weights(replace(net, kwargs={**net.kwargs, "num_classes": 1000}), state, {}, "torchvision")


def from_hub(repo: str, revision: str) -> Weights:
    """Config and weights of a Hub repository, both at the one commit that the revision resolves to."""
    from huggingface_hub import errors, hf_hub_download

    try:
        config_file = Path(hf_hub_download(repo, "config.json", revision=revision or None))
        commit = config_file.parent.name
        weights_file = Path(hf_hub_download(repo, "model.safetensors", revision=commit))
    except errors.GatedRepoError:
        reason = "it is gated: ask for access on its page, then `hf auth login`"
    except errors.RepositoryNotFoundError:
        reason = "there is no such file, folder or repository, or it is private: check the name, or `hf auth login`"
    except errors.RevisionNotFoundError:
        reason = f"it has no revision {revision}"
    except errors.LocalEntryNotFoundError:
        reason = "there is no such file or folder here, and the Hub cannot be reached"
    except errors.EntryNotFoundError as error:
        reason = f"it lacks config.json or model.safetensors ({first_line(error)})"
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        reason = first_line(error)
    else:
        config = read_config(config_file)
        return Weights(config_to_net(config), read_weights(weights_file), config, repo, commit)
    raise ValueError(f"{repo} cannot be loaded: {reason}")


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
    """ValueError with the first missing, unexpected and misshapen entries, and the net that the weights look like."""
    with torch.device("meta"):
        network = models.create(weights.net)
    expected, found = network.state_dict(), weights.state
    optional = counters(network)
    missing = [name for name in expected if name not in found and name not in optional]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
    faults = [f"{len(names)} {kind} ({names[0]})" for kind, names in kinds if names]
    if faults:
        looks_like = models.identify(found) or "none of our families"
        raise ValueError(
            f"{weights.source} does not fit {weights.net}: {', '.join(faults)}; it looks like {looks_like}"
        )


def read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a model's configuration")
    return config


def config_to_net(config: dict) -> Net:
    """The net of a config.json in timm's layout."""
    architecture, classes, arguments = (config.get(key) for key in ("architecture", "num_classes", "model_args"))
    if type(classes) is not int or classes < 1 or not isinstance(arguments or {}, dict):
        raise ValueError("a model's config.json needs num_classes, a number, and may have model_args, an object")
    if match := re.fullmatch(r"resnet(\d+)", str(architecture)):
        return Net(family="resnet", kwargs={"depth": int(match[1]), "num_classes": classes})
    family = str(architecture).removeprefix("overhaul_")
    if family not in models.FAMILIES:
        raise ValueError(f"the architecture {architecture} is none of ours: {', '.join(models.FAMILIES)}")
    return Net(family=family, kwargs={**(arguments or {}), "num_classes": classes})


def preprocessing(weights: Weights) -> Preprocessing | None:
    """What the weights' folder says of its images, in timm's terms; None where it says nothing."""
    own = weights.config.get("pretrained_cfg")
    if not own:
        return None
    try:
        size, mean, std = own["input_size"][-1], *(tuple(map(float, own[key])) for key in ("mean", "std"))
        resize = int(size / own.get("crop_pct", 1.0) + 1e-6)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not 1 <= size <= resize:
            raise ValueError
    except (TypeError, KeyError, IndexError, ValueError, ZeroDivisionError, AttributeError):
        raise ValueError(
            f"the config.json of {weights.source} has a pretrained_cfg whose input_size, mean, std or crop_pct is wrong"
        ) from None
    return Preprocessing(size, resize, mean, std)


def net_to_config(net: Net) -> dict:
    """The entries of a config.json in timm's layout that say which net it is."""
    arguments = {key: value for key, value in net.kwargs.items() if key != "num_classes"}
    if net.family == "resnet":
        return {"architecture": f"resnet{arguments['depth']}", "num_classes": net.kwargs["num_classes"]}
    config = {"architecture": f"overhaul_{net.family}", "num_classes": net.kwargs["num_classes"]}
    return {**config, "model_args": arguments}


def save(folder: Path, network: Backbone, setup: Setup, classes: Sequence[str]) -> None:
    """The student's folder: config.json and model.safetensors (fp32, contiguous), each replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    size = setup.image_size
    images = {"input_size": [3, size, size], "crop_pct": size / (setup.test_resize or size)}
    images |= {"mean": list(setup.mean), "std": list(setup.std)}
    config = {**net_to_config(setup.student), "label_names": list(classes), "pretrained_cfg": images}
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    temporary = folder / ".model.safetensors"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(folder / "model.safetensors")
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
