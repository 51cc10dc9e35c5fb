"""Weights in: from a run, a student's folder, a checkpoint file, torchvision or the Hub."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from overhaul import models
from overhaul.hub import client, entries, zoo
from overhaul.hub.config import net_of, normalised, preprocessing, read_config
from overhaul.hub.files import read_contents, read_safetensors
from overhaul.hub.fitting import COUNTERS, Expected, find, same
from overhaul.hub.renaming import bytes_in, converted
from overhaul.models.backbone import Backbone
from overhaul.recipe import Net, Setup
from overhaul.run.folder import RunFolder, is_student
from overhaul.system.files import sha256
from overhaul.system.messages import UserError, check_source, is_hub_id, printable, some, warn


@dataclass(frozen=True)
class Weights:
    """Trained weights with the net they belong to.

    config: what their config.json says ({} for a bare file); file: where they lie; revision: the commit on the Hub;
    notes: what a person should be told of how they were found; licence: as the Hub or its author calls it, where known.
    """

    net: Net
    state: dict[str, Tensor]
    config: dict
    source: str
    file: Path
    revision: str | None = None
    notes: tuple[str, ...] = ()
    licence: str | None = None

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
    if source == "torchvision" and not any(map(is_student, (path, RunFolder(path).student("final")))):
        return from_torchvision(net or usual)
    if zoo.is_entry(source):
        weights = from_entry(source, net)
    else:
        weights = from_folder(path, net) if path.is_dir() else from_hub(*client.parts(source), net)
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


def told(named: Net) -> tuple[Net, dict]:
    """The net that a source's weights are of, and their config.json ({} of a bare file), which alone is read if it can.

    named: with the source as its weights, and what else is known of it.
    """
    source, path = named.weights, Path(named.weights).expanduser()
    check_source(source)
    if is_hub_id(source) and not path.exists():
        config, _ = config_on_hub(*client.parts(source))
        return known_net(config, source, named.named), config
    weights = fetch(source, named.named, key=named.key)
    return weights.net, weights.config


def at_commit(source: str) -> str:
    """The source, at the one commit that its revision resolves to if it is on the Hub; of torchvision, at one entry."""
    if zoo.is_entry(source):
        return zoo.resolved(source)
    if source == "torchvision" or Path(source).expanduser().exists() or not is_hub_id(source):
        return source
    repo, revision = client.parts(source)
    return f"{repo}@{client.download(repo, 'config.json', revision).parent.name}"


def from_folder(folder: Path, named: Net | None) -> Weights:
    """Of a student's folder, or of the final student of a run's folder."""
    for candidate in (folder, RunFolder(folder).student("final")):
        if is_student(candidate):
            config, file = read_config(candidate / "config.json"), candidate / "model.safetensors"
            net = known_net(config, str(folder), named)
            return of_config(Weights(net, read_safetensors(file), config, str(folder), file))
    check_foreign(folder)
    unfinished = (
        "the run has not finished yet; its best student so far may be in best/"
        if RunFolder(folder).config_file.exists()
        else "it is neither a student nor a run"
    )
    raise UserError(f"{folder} holds no config.json and model.safetensors, nor does its final/: {unfinished}")


def known_net(config: dict, source: str, named: Net | None) -> Net:
    try:
        return net_of(config, named)
    except UserError as error:
        raise UserError(f"{source} cannot be loaded: {error}") from None


def of_config(weights: Weights) -> Weights:
    """Weights with the licence that their config.json names, and what it tells of their code; timm's in its names."""
    notes = entries.file_notes(weights.config, weights.net) if entries.is_of_file(weights.config) else ()
    own = weights.config.get("pretrained_cfg")
    licence = own.get("license") if isinstance(own, dict) else None
    known = printable(licence)[:200] if isinstance(licence, str) and licence else None
    state = weights.state
    if Expected(weights.net).faults(state):
        state = converted(weights.net, state)
    return replace(weights, state=state, notes=notes, licence=known)


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

    entry = torchvision.models.get_model_weights(f"resnet{net.kwargs['depth']}").IMAGENET1K_V1
    state, file = zoo.download(entry, "of torchvision")
    return Weights(replace(net, kwargs={**net.kwargs, "num_classes": 1000}), state, {}, "torchvision", file)


def from_entry(source: str, named: Net | None) -> Weights:
    if named and named.family != source.partition("@")[0]:
        raise UserError(f"{source} are weights of another network than {named}; leave out its family and kwargs")
    net, state, config, file = zoo.fetch(source, named)
    return of_config(Weights(net, state, config, source, file))


def from_hub(repo: str, revision: str | None, named: Net | None = None) -> Weights:
    """Config and weights of a Hub repository, both at the one commit that the revision resolves to."""
    config, commit = config_on_hub(repo, revision)
    net = known_net(config, repo, named)
    file = download_weights(repo, commit, largest=2 * bytes_of(net) + 2**20)
    weights = of_config(Weights(net, read_safetensors(file), config, repo, file, commit))
    return weights if weights.licence else replace(weights, licence=licence_of(repo, commit))


def config_on_hub(repo: str, revision: str | None) -> tuple[dict, str]:
    """The config.json of a repository, and the commit that it is of."""
    file = client.download(repo, "config.json", revision)
    return read_config(file), file.parent.name


def download_weights(repo: str, commit: str, largest: int) -> Path:
    try:
        return client.download(repo, "model.safetensors", commit, largest=largest)
    except client.Missing as missing:
        pickles = [name for name in client.files(repo, commit) if name.endswith(client.PICKLES)]
        but = f" and has pickled weights ({pickles[0][:200]}), which are never read from the Hub" if pickles else ""
        raise UserError(f"{missing}{but}") from None


def licence_of(repo: str, commit: str) -> str | None:
    """What the card of a repository says, where the cache has it, else timm of its own ones; nobody is asked."""
    from huggingface_hub import metadata_load, try_to_load_from_cache

    card = try_to_load_from_cache(repo, "README.md", revision=commit)
    try:
        said = (metadata_load(card) or {}).get("license") if isinstance(card, str) else None
        if not said and repo.startswith("timm/"):
            from timm.models import get_pretrained_cfg

            told = get_pretrained_cfg(repo.removeprefix("timm/"))
            said = told and told.license
    except Exception:  # a card of others may hold anything
        said = None
    return printable(said)[:200] if isinstance(said, str) and said else None


def bytes_of(net: Net) -> int:
    """Bytes of a net's parameters and buffers; UserError for one that cannot be built."""
    return bytes_in(models.tensors(net))


def build(weights: Weights, image_size: int | None = None) -> Backbone:
    """The network with its weights, strictly, in eval mode.

    image_size: side in pixels of the images that features are looked for with; that of the config.json unless named.
    """
    if faults := Expected(weights.net).faults(weights.state):
        looks_like = models.identify(weights.state) or "none of our families"
        raise UserError(f"{weights.source} does not fit {weights.net}: {', '.join(faults)}; it looks like {looks_like}")
    show = None if image_size else preprocessing(weights.config, weights.source)
    network = models.create(weights.net, image_size or (show.size if show else 224))
    put(network, weights.state)
    return network.eval()


def put(network: Backbone, state: dict[str, Tensor]) -> None:
    """Load a state of the plain network's names, strictly but for counters, which old files lack."""
    whole = network.bare.state_dict()  # knows which version of its class it is of
    missing = [name for name in whole if name not in state and not name.endswith(COUNTERS)]
    if missing:
        raise UserError(f"the weights lack {some(missing)}")
    whole.update(state)
    network.bare.load_state_dict(whole, strict=True)
