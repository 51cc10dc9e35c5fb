"""What a network may be asked for by a file that others wrote: plain arguments, and a size that a machine can hold."""

import math
import re

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from overhaul.nets import REFUSED
from overhaul.system.messages import UserError, printable

TEXT = re.compile(r"[\w.+-]{1,64}", re.ASCII)
NAME = re.compile(r"[a-z]\w{0,63}", re.ASCII)
LARGEST_NUMBER = 100_000
LONGEST = 64  # list, and number of arguments
LARGEST_BYTES = 8 * 2**30  # of a network's tensors: two billion fp32 numbers
MOST_TENSORS = 15_000


def plain_arguments(arguments: object) -> dict:
    """The model_args of a config.json, its lists as tuples; UserError for what is no plain value of bounded size."""
    if not isinstance(arguments or {}, dict):
        raise UserError("a model's config.json may have model_args, an object")
    if len(arguments or {}) > LONGEST:
        raise UserError(f"its model_args has {len(arguments)} entries, and {LONGEST} are the most")
    for name in arguments or {}:
        if not NAME.fullmatch(name):
            raise UserError(f"its model_args has {printable(name)[:60]!r}, which is no argument's name")
        if REFUSED.fullmatch(name):
            raise UserError(f"its model_args has {name}, which no config.json may set; take it out")
    return {name: plain(name, value) for name, value in (arguments or {}).items()}


def plain(name: str, value: object, depth: int = 2) -> object:
    if isinstance(value, list) and depth and len(value) <= LONGEST:
        return tuple(plain(name, each, depth - 1) for each in value)
    number = type(value) in (int, float) and math.isfinite(value) and abs(value) <= LARGEST_NUMBER
    if number or value is None or isinstance(value, bool) or (isinstance(value, str) and TEXT.fullmatch(value)):
        return value
    raise UserError(
        f"its model_args has {name}={printable(str(value)[:200])[:40]!r}, which is no plain value of bounded size"
    )


class Budget(TorchFunctionMode):
    """Ends the making of a network without values as soon as its tensors are too many or too large."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.tensors = 0

    @property
    def spent(self) -> bool:
        return self.bytes > LARGEST_BYTES or self.tensors > MOST_TENSORS

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not any(isinstance(each, Tensor) for each in args):
            self.bytes, self.tensors = self.bytes + out.nbytes, self.tensors + 1
            if self.spent:
                raise UserError(
                    f"it is larger than any network that is read: {LARGEST_BYTES >> 30} GiB and {MOST_TENSORS:,} "
                    f"tensors are the most"
                )
        return out


class Hollow(TorchFunctionMode):
    """Keeps tensors off the machine that wait for values; those that are computed with while a network is made stay."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class Unfilled(TorchFunctionMode):
    """Leaves tensors without values as they are where they would be filled at random, which takes its time."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.normal_, Tensor.uniform_, Tensor.erfinv_) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))
