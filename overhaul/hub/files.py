"""Checkpoint files of others, opened without running anything that they hold."""

import argparse
import pathlib
import pickle
import re
import warnings
import zipfile
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
NUMPY = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")  # that torch takes
NESTED = 3  # how deep weights lie in a file
NAMED = 8  # entries of a file that a message lists


def read_contents(path: Path) -> object:
    """The contents of a .safetensors or a torch file.

    Raises UserError for a file that is no checkpoint, is broken, or holds anything but tensors and plain values.
    """
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def states(contents: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The weights in a file's contents, as state dicts, each with the entry that it lies under ("" at the top).

    What lies under several entries is found under the first.
    """
    seen, found = set(), [("", contents)]
    for depth in range(NESTED + 1):
        inner = []
        for entry, value in found:
            if not isinstance(value, Mapping) or id(value) in seen:
                continue
            seen.add(id(value))
            if own := {name: tensor(each) for name, each in value.items() if is_weight(name, each)}:
                yield entry, own
            if depth < NESTED:
                inner += [(f"{entry}.{key}" if entry else str(key), each) for key, each in value.items()]
        found = inner


def is_weight(name: object, value: object) -> bool:
    if not isinstance(name, str) or name == "n_averaged":
        return False
    if isinstance(value, np.ndarray):
        return value.dtype.name in NUMPY and value.dtype.isnative
    return torch.is_tensor(value) and is_whole(value)


def is_whole(value: Tensor) -> bool:
    """Whether a tensor has all of its numbers, one by one, in memory."""
    dense = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    return dense and value.nbytes <= value.untyped_storage().nbytes()


def tensor(value: Tensor | np.ndarray) -> Tensor:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value.detach()


def described(contents: object) -> str:
    """For a message: the entries of a file, and what each is."""
    if not isinstance(contents, Mapping) or all(is_weight(*item) for item in contents.items()):
        return "nothing" if isinstance(contents, Mapping) and not contents else kind(contents)
    more = f" and {len(contents) - NAMED} more" if len(contents) > NAMED else ""
    first = sorted(contents.items(), key=lambda item: is_weight(*item))
    entries = [f"{printable(str(key))[:60]} ({kind(value)})" for key, value in first[:NAMED]]
    return ", ".join(entries) + more


def kind(value: object) -> str:
    if torch.is_tensor(value) or isinstance(value, np.ndarray):
        return f"{'a' if is_weight('', value) else unlike(value)} tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        weights = [name for name, each in value.items() if is_weight(name, each)]
        heads = list(dict.fromkeys(printable(name.split(".")[0])[:60] for name in weights))
        more = ", ..." if len(heads) > NAMED else ""
        return f"{len(weights)} tensors: {', '.join(heads[:NAMED])}{more}" if weights else f"{len(value)} entries"
    return f"a list of {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__


def unlike(value: Tensor | np.ndarray) -> str:
    """What a tensor is that is_weight refuses."""
    if isinstance(value, np.ndarray):
        return f"a {value.dtype}"
    if value.layout != torch.strided:
        return "a sparse"
    if value.is_quantized or value.device.type != "cpu":
        return "a quantised" if value.is_quantized else "an empty"
    return "a stretched"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path} is not a safetensors file, or a broken one: {first_line(error)}") from None


def read_pickle(path: Path) -> object:
    """The contents of a torch file; anything in it but tensors and plain values is refused."""
    refuse_compressed(path)
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


def refuse_compressed(path: Path) -> None:
    """UserError for a zip file whose parts are more than the file, which torch does not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):  # of which torch tells
        return
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise UserError(f"{path} is compressed, and could become any size; save it again with torch.save")
