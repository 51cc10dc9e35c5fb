"""Checkpoint files of others, opened without running anything that they hold."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from overhaul.system.messages import UserError, first_line

NUMBERS = [  # NumPy's scalars, in which old checkpoints keep their accuracy
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdg"),
]
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a .safetensors or a torch file: under `model`, under `state_dict`, or bare.

    The names lose the prefixes that wrappers gave them. Raises UserError for a file that is no checkpoint, is broken,
    or holds anything but tensors and plain values.
    """
    contents = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    for key in ("model", "state_dict"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
    if not is_state(contents):
        raise UserError(f"{path} holds no weights: neither under `model` or `state_dict` nor bare")
    while any(all(name.startswith(prefix) for name in contents) for prefix in PREFIXES):
        contents = {name.split(".", 1)[1]: value for name, value in contents.items()}
    return dict(contents)


def is_state(contents) -> bool:
    return isinstance(contents, Mapping) and bool(contents) and all(map(is_entry, contents.items()))


def is_entry(item: tuple) -> bool:
    name, value = item
    return isinstance(name, str) and torch.is_tensor(value) and value.layout == torch.strided and not value.is_quantized


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path} is not a safetensors file, or a broken one: {first_line(error)}") from None


def read_pickle(path: Path):
    """The contents of a torch file; anything in it but tensors and plain values is refused."""
    try:
        with torch.serialization.safe_globals(NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from None
    except Exception as error:  # bytes that are no checkpoint may raise anything
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (refused or path.open("rb").read(1) == b"\x80"):
            code = f"pickled code ({refused[1]})" if refused else "pickled code"
            raise UserError(f"{path} holds {code}, which is never run; save its state_dict alone") from None
        raise UserError(
            f"{path} is not a checkpoint, or a broken one; what is read is what torch.save writes of a state_dict"
        ) from None
