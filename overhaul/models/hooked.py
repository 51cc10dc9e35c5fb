"""Any network as a Backbone: its own forward pass, with the features picked up on the way."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from overhaul.discovery import Address, Feature, find, logits_of, named
from overhaul.models.backbone import Backbone, Stages
from overhaul.system.messages import UserError


class Tap(TorchFunctionMode):
    """While one module runs: picks up what goes into (or comes out of) the kth call of one function."""

    def __init__(self, pick, at: Address) -> None:
        super().__init__()
        self.pick, self.at, self.seen = pick, at, 0
        self.spellings = (at.function, at.function + "_")  # no string work below: torch.compile cannot trace str.strip

    def __torch_function__(self, func, types, args=(), kwargs=None):
        wanted = func.__name__ in self.spellings
        if wanted and self.seen == self.at.kth and self.at.side == "in":
            self.pick(args[0])
        out = func(*args, **(kwargs or {}))
        if wanted and self.seen == self.at.kth and self.at.side == "out":
            self.pick(out)
        self.seen += wanted
        return out


class Hooked(Backbone):
    """A network with its features for images of one size, which are looked for when they are first asked for.

    net: left as it is (names, values, forward), but for inplace=False on activations whose input is a feature; the
    state dict has its names. image_size: side in pixels, or height and width. names: see Net.positions; without them
    they are found.
    """

    def __init__(self, net: nn.Module, image_size: int | tuple[int, int], names: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.net, self.image_size, self.names = net, image_size, names
        self.found, self.on, self.picked, self.counts, self.taps = None, False, {}, {}, {}
        self._register_state_dict_hook(drop_prefix)
        self.register_load_state_dict_pre_hook(add_prefix)

    @property
    def features(self) -> list[Feature]:
        """What ends each stage, shallow to deep; UserError where fewer than 2 are found."""
        if self.found is None:
            self.attach()
        return self.found

    def attach(self) -> None:
        sides = self.image_size if isinstance(self.image_size, tuple) else 2 * (self.image_size,)
        image = 3, *sides
        found = named(self.net, image, self.names) if self.names else find(self.net, image)
        if len(found) < 2 and not self.names:
            raise UserError(
                f"{type(self.net).__name__} has {len(found) or 'no'} convolution stage{'s' * (len(found) != 1)} at "
                f"{self.image_size} pixels, and 2 are needed; name the modules to compare"
            )
        self.found, self.addresses = found, [at for each in found for at in each.at]
        for slot, at in enumerate(self.addresses):
            module, copy = self.net.get_submodule(at.path), at.overwritten
            if copy and at.side == "in" and not at.function and getattr(module, "inplace", False):
                module.inplace = copy = False
            if at.function:
                module.register_forward_pre_hook(partial(self.open_tap, slot, at, copy))
                module.register_forward_hook(partial(self.close_tap, slot), always_call=True)
            elif at.side == "in":
                module.register_forward_pre_hook(partial(self.see_input, slot, at.nth, copy))
            else:
                module.register_forward_hook(partial(self.see_output, slot, at.nth, copy))

    def turn(self, slot: int, nth: int) -> bool:
        self.counts[slot] = self.counts.get(slot, -1) + 1
        return self.counts[slot] == nth

    def pick(self, slot: int, copy: bool, tensor: Tensor) -> None:
        self.picked[slot] = tensor.clone() if copy else tensor

    def see_input(self, slot: int, nth: int, copy: bool, module: nn.Module, inputs: tuple) -> None:
        if self.on and self.turn(slot, nth):
            self.pick(slot, copy, inputs[0])

    def see_output(self, slot: int, nth: int, copy: bool, module: nn.Module, inputs: tuple, out) -> None:
        if self.on and self.turn(slot, nth):
            self.pick(slot, copy, out)

    def open_tap(self, slot: int, at: Address, copy: bool, module: nn.Module, inputs: tuple) -> None:
        if self.on and self.turn(slot, at.nth):
            self.taps[slot] = Tap(partial(self.pick, slot, copy), at)
            self.taps[slot].__enter__()

    def close_tap(self, slot: int, module: nn.Module, inputs: tuple, out) -> None:
        if slot in self.taps:
            self.taps.pop(slot).__exit__(None, None, None)

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.net(images))

    def forward_stages(self, images: Tensor) -> Stages:
        features = self.features
        self.on, self.picked, self.counts = True, {}, {}  # fresh ones: cleared ones would cost a second graph
        try:
            logits = logits_of(self.net(images))
        finally:
            self.on = False
        missing = [str(at) for slot, at in enumerate(self.addresses) if slot not in self.picked]
        if missing:
            raise UserError(
                f"this forward pass did not reach {', '.join(missing)}: does the network skip layers at random? name "
                f"other modules"
            )
        maps = iter([self.picked[slot] for slot in range(len(self.addresses))])
        self.picked = {}
        return Stages(logits, [joined([next(maps) for _ in each.at]) for each in features])

    @property
    def norms(self) -> list[list[nn.Module] | None]:
        return [self.closed(each) for each in self.features]

    def closed(self, feature: Feature) -> list[nn.Module] | None:
        """The affine BatchNorms whose scale and shift are a feature's margin; None where there are none."""
        norms = [self.net.get_submodule(name) for name in feature.norms]
        affine = all(isinstance(norm, _BatchNorm) and norm.affine for norm in norms)
        return norms if norms and affine and feature.behind in ("direct", "sum") else None

    @property
    def widths(self) -> list[int]:
        return [each.channels for each in self.features]

    @property
    def bare(self) -> nn.Module:
        return self.net


def joined(maps: list[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)


def drop_prefix(module: nn.Module, state: dict, prefix: str, _local) -> None:
    """Give the state the plain network's names."""
    inner = f"{prefix}net."
    for name in [each for each in state if each.startswith(inner)]:
        state[prefix + name.removeprefix(inner)] = state.pop(name)


def add_prefix(module: nn.Module, state: dict, prefix: str, *_) -> None:
    for name in [each for each in state if each.startswith(prefix)]:
        state[f"{prefix}net.{name.removeprefix(prefix)}"] = state.pop(name)
