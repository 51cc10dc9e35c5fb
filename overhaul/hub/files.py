"""Checkpoint files of others, opened without running anything that they hold."""

import argparse
import pathlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from overhaul.system.messages import UserError, first_line, printable

PLAIN = [  # beside tensors: what trainers keep with the weights, and NumPy's arrays and scalars
    argparse.Namespace,
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")
      for function in (np._core.multiarray.scalar, np._core.multiarray._reconstruct)),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdg"),
]  # fmt: skip
NESTED = 3  # how deep weights lie in a file
NAMED = 8  # entries of a file that a message lists


def read_contents(path: Path) -> object:
    """The contents of a .safetensors or a torch file.

    Raises UserError for a file that is no checkpoint, is broken, or holds anything but tensors and plain values.
    """
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def states(contents: object, entry: str = "", depth: int = NESTED) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights in a file's contents, as state dicts, each with the entry that it lies under ("" at the top)."""
    if not isinstance(contents, Mapping):
        return
    if own := {name: tensor(value) for name, value in contents.items() if is_weight(name, value)}:
        yield entry, own
    if depth:
        for key, value in contents.items():
            yield from states(value, f"{entry}.{key}" if entry else str(key), depth - 1)


def is_weight(name: object, value: object) -> bool:
    if isinstance(value, np.ndarray):
        return isinstance(name, str) and value.dtype.kind in "fiub"
    dense = torch.is_tensor(value) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and name != "n_averaged" and dense


def tensor(value: Tensor | np.ndarray) -> Tensor:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()


def described(contents: object) -> str:
    """For a message: the entries of a file, and what each is."""
    if not isinstance(contents, Mapping) or all(is_weight(*item) for item in contents.items()):
        return "nothing" if isinstance(contents, Mapping) and not contents else kind(contents)
    more = f" and {len(contents) - NAMED} more" if len(contents) > NAMED else ""
    entries = [f"{printable(str(key))[:60]} ({kind(value)})" for key, value in list(contents.items())[:NAMED]]
    return ", ".join(entries) + more


def kind(value: object) -> str:
    if torch.is_tensor(value) or isinstance(value, np.ndarray):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        weights = [name for name, each in value.items() if is_weight(name, each)]
        heads = list(dict.fromkeys(printable(name.split(".")[0])[:60] for name in weights))
        more = ", ..." if len(heads) > NAMED else ""
        return f"{len(weights)} tensors: {', '.join(heads[:NAMED])}{more}" if weights else f"{len(value)} entries"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path} is not a safetensors file, or a broken one: {first_line(error)}") from None


def read_pickle(path: Path) -> object:
    """The contents of a torch file; anything in it but tensors and plain values is refused."""
    try:
        with torch.serialization.safe_globals(PLAIN), warnings.catch_warnings():
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
