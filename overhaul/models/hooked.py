"""Any network as a Backbone: its own forward pass, with the features picked up on the way."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from overhaul.discovery import Address, Embedding, Feature, Found, check, find, logits_of, spellings
from overhaul.models.backbone import Backbone, Embedded, Stages
from overhaul.system.messages import UserError


class Tap(TorchFunctionMode):
    """While one module runs: picks up what goes into (or comes out of) the kth call of one function."""

    def __init__(self, pick, at: Address, names: tuple[str, ...]) -> None:
        super().__init__()
        self.pick, self.at, self.names, self.seen = pick, at, names, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wanted = func.__name__ in self.names
        if wanted and self.seen == self.at.kth and self.at.side == "in":
            self.pick(args[0])
        out = func(*args, **(kwargs or {}))
        if wanted and self.seen == self.at.kth and self.at.side == "out":
            self.pick(out)
        self.seen += wanted
        return out


class Hooked(Backbone):
    """A network with its features and what its classifier gets, looked for when they are first asked for.

    net: left as it is; the state dict has its names. image_size: side in pixels of the images that they are looked for
    with. names: see recipe.Net.positions; without them the positions are found.
    """

    def __init__(self, net: nn.Module, image_size: int, names: tuple[str, ...] | None = None) -> None:
        check(net)
        super().__init__()
        self.net, self.image_size, self.names = net, image_size, names
        self.found: Found | None = None
        self.hooks: list = []
        self.on = 0  # the slots that are picked up in the pass that runs
        self.picked, self.counts, self.taps = {}, {}, {}
        self.prefix = ""  # of this module, in the state that is being loaded
        self.register_load_state_dict_pre_hook(lead_inwards)
        self.register_load_state_dict_post_hook(name_plainly)
        for module in net.modules():
            if type(module)._version != nn.Module._version and not isinstance(module, _NormBase):
                module._load_from_state_dict = partial(load_own_version, module)

    @property
    def features(self) -> list[Feature]:
        """What ends each stage, shallow to deep; UserError where fewer than 2 are found."""
        features = self.attached().features
        if len(features) < 2 and not self.names:
            stages = "no convolution stages" if not features else "one convolution stage"
            raise UserError(
                f"{type(self.net).__name__} has {stages} at {self.image_size} pixels, and 2 are needed: name the "
                f"modules whose maps are compared (--student.positions, --teacher.positions)"
            )
        return features

    @property
    def embedding(self) -> Embedding:
        """What the layer that gives the logits gets; UserError where there is no such layer."""
        found = self.attached().embedding
        if found is None:
            raise UserError(
                f"{type(self.net).__name__} has no linear or convolution layer that gives its logits, so what its "
                f"classifier gets cannot be compared: choose another --method"
            )
        return found

    def attached(self) -> Found:
        if self.found is None:
            self.attach()
        return self.found

    def attach(self) -> None:
        """Find what is to be picked up, and hook onto the modules that give it."""
        self.found = find(self.net, self.image_size, self.names)
        places = *self.found.features, *([self.found.embedding] if self.found.embedding else [])
        for slot, at in enumerate(at for each in places for at in each.at):
            self.hooks += self.hook(self.net.get_submodule(at.path), slot, at)

    def hook(self, module: nn.Module, slot: int, at: Address) -> list:
        """Hooks are partials of methods, which pickle, and which a deepcopy binds to the copy."""
        if at.function:
            tap = partial(self.open_tap, slot, at, spellings(at.function))
            untap = module.register_forward_hook(partial(self.close_tap, slot), always_call=True)
            return [module.register_forward_pre_hook(tap), untap]
        if at.side == "in":
            return [module.register_forward_pre_hook(partial(self.see_input, slot, at))]
        return [module.register_forward_hook(partial(self.see_output, slot, at))]

    def detach(self) -> None:
        """Take the hooks away; the features are looked for anew when they are asked for."""
        for each in self.hooks:
            each.remove()
        self.found, self.hooks = None, []

    def turn(self, slot: int, nth: int) -> bool:
        self.counts[slot] = self.counts.get(slot, -1) + 1
        return self.counts[slot] == nth

    def pick(self, slot: int, at: Address, tensor: Tensor) -> None:
        self.picked[slot] = tensor.clone() if at.overwritten else tensor

    def see_input(self, slot: int, at: Address, module: nn.Module, inputs: tuple) -> None:
        if slot < self.on and self.turn(slot, at.nth):
            self.pick(slot, at, inputs[0])

    def see_output(self, slot: int, at: Address, module: nn.Module, inputs: tuple, out) -> None:
        if slot < self.on and self.turn(slot, at.nth):
            self.pick(slot, at, out)

    def open_tap(self, slot: int, at: Address, names: tuple[str, ...], module: nn.Module, inputs: tuple) -> None:
        if slot < self.on and self.turn(slot, at.nth):
            self.taps[slot] = Tap(partial(self.pick, slot, at), at, names)
            self.taps[slot].__enter__()

    def close_tap(self, slot: int, module: nn.Module, inputs: tuple, out) -> None:
        if slot in self.taps:
            self.taps.pop(slot).__exit__(None, None, None)

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.net(images))

    def forward_stages(self, images: Tensor) -> Stages:
        return Stages(*self.picked_up(images, self.features))

    def forward_embedded(self, images: Tensor) -> Embedded:
        """The logits, as many features as there are, and what the classifier gets; see Backbone."""
        embedding = self.embedding
        logits, (*maps, last) = self.picked_up(images, [*self.found.features, embedding])
        return Embedded(logits, maps, last.mean(embedding.positions) if embedding.positions else last)

    def picked_up(self, images: Tensor, places: list[Feature | Embedding]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the tensors of the first places that were found, in one pass."""
        self.on = sum(len(each.at) for each in places)
        self.picked, self.counts = {}, {}  # fresh ones: cleared ones would cost a second graph
        try:
            logits = logits_of(self.net(images))
            return logits, self.gathered(places)
        finally:
            self.on, self.picked = 0, {}
            for slot in list(self.taps):
                self.taps.pop(slot).__exit__(None, None, None)

    def gathered(self, places: list[Feature | Embedding]) -> list[Tensor]:
        """What the running pass has there; UserError for a place that it did not reach."""
        found, slot = [], 0
        for each in places:
            slots, slot = range(slot, slot + len(each.at)), slot + len(each.at)
            if not all(number in self.picked for number in slots):
                raise UserError(
                    f"this forward pass did not reach {each.name}: does the network skip layers at random, or take "
                    f"another way in training? name other modules"
                )
            tensors = [self.picked[number] for number in slots]
            found.append(tensors[0] if len(tensors) == 1 else torch.cat(tensors, 1))
        return found

    @property
    def norms(self) -> list[list[nn.Module] | None]:
        return [
            [self.net.get_submodule(name) for name in each.norms] if each.closed else None for each in self.features
        ]

    @property
    def widths(self) -> list[int]:
        return [each.channels for each in self.features]

    @property
    def embedding_width(self) -> int:
        return self.embedding.width

    @property
    def bare(self) -> nn.Module:
        return self.net

    def state_dict(self, *args, **kwargs) -> dict:
        """The plain network's, under its names, wherever this module stands in another."""
        return self.net.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        return self.net.load_state_dict(*args, **kwargs)


def load_own_version(module: nn.Module, state: dict, prefix: str, metadata: dict, *more) -> None:
    """MNASNet asks a state for its version, which a safetensors file has no place for."""
    type(module)._load_from_state_dict(module, state, prefix, {"version": module._version, **metadata}, *more)


def lead_inwards(module: Hooked, state: dict, prefix: str, *_) -> None:
    """Where the state of a module around it is loaded: the plain names are those of the network inside."""
    module.prefix = prefix
    mine = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    state.update({f"{prefix}net.{name.removeprefix(prefix)}": value for name, value in mine.items()})


def name_plainly(module: Hooked, keys) -> None:
    """The same backwards, for the names that did not fit."""
    for names in (keys.missing_keys, keys.unexpected_keys):
        inside = f"{module.prefix}net."
        names[:] = [module.prefix + name.removeprefix(inside) if name.startswith(inside) else name for name in names]
