"""Where the logits of any network come from: the layers whose size is the number of classes, and the last of them."""

from collections.abc import Mapping

from torch import Tensor, nn

from overhaul.discovery import dry_run
from overhaul.system.messages import UserError, first_line

SIDES = (224, 32, 64, 96, 128, 28, 299, 384)  # of images, in pixels: some networks take those of one size alone


def that_follow(few: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The layers that differ between the states of networks that are the same but for their number of classes."""
    names = [name for name in few if name not in more or few[name].shape != more[name].shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def trace(network: nn.Module):
    """The dry run of a network at the first of the usual sizes that it takes."""
    said = ""
    for side in SIDES:
        try:
            return dry_run(network, side)
        except Exception as error:  # code of others may raise anything
            said = said or first_line(error)
    what = type(network).__name__
    raise UserError(f"{what} takes images of none of the usual sizes, so its last layer cannot be told: {said}")


def reach(trace) -> list[str]:
    """The modules of the convolutions and linear maps that the logits depend on, last first."""
    down, found = {*trace.outputs}, []
    for number in range(len(trace.ops) - 1, -1, -1):
        op = trace.ops[number]
        if number in down:
            down.update(op.inputs)
            if op.kind in ("conv", "linear"):
                found.append(trace.calls[op.call].path)
    return found


def last_of(network: nn.Module, layers: tuple[str, ...]) -> str:
    """That of the layers which the logits come from, the others being of auxiliary heads or before it."""
    named = getattr(network, "pretrained_cfg", None) or {}  # as timm has it
    own = named.get("classifier") if isinstance(named, dict) else None
    for name in own if isinstance(own, (list, tuple)) else [own]:
        if name in layers:
            return name
    return next((name for name in reach(trace(network)) if name in layers), layers[-1])


def logits(network: nn.Module) -> tuple[str, int]:
    """The layer that the logits come from, and how many they are, told by a dry run."""
    ran = trace(network)
    shape = ran.ops[ran.outputs[0]].shape if ran.outputs else ()
    found = reach(ran)
    if len(shape) != 2 or not found:
        raise UserError(f"{type(network).__name__} gives no logits [batch, classes], but {list(shape) or 'nothing'}")
    return found[0], shape[1]
