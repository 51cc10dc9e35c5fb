"""What a checkpoint holds, read back without running anything: JSON, safetensors, and of pickles plain values alone.

Not by Accelerate's load_state, which runs what the pickles of registered objects say, and passes over random numbers
that it cannot read.
"""

import codecs
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import SAFE_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn

from overhaul.run import checkpoints
from overhaul.run.state import State
from overhaul.system.files import read_json
from overhaul.system.messages import UserError

STATE_FILE = "state.json"
OLD_STATE_FILE = "custom_checkpoint_0.pkl"  # of a run that Accelerate kept
OPTIMIZER_FILE, SCALER_FILE, RANDOM_FILE = "optimizer.bin", "scaler.pt", "random_states_{}.pkl"  # Accelerate's
OF_NUMPY = [  # what its random numbers are pickled with
    codecs.encode,
    *((np._core.multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]


def state(checkpoint: Path) -> State:
    """The state of a run; an error of any kind for files that hold none."""
    found, kept = checkpoints.files(checkpoint), State()
    old = STATE_FILE not in found and OLD_STATE_FILE in found
    content = plain(found[OLD_STATE_FILE]) if old else read_json(listed(found, STATE_FILE))
    if not isinstance(content, dict):
        raise UserError(f"{STATE_FILE} is not what a run writes")
    kept.load_state_dict(content)
    kept.check()
    return kept


def everything(accelerator: Accelerator, checkpoint: Path, processes: int) -> None:
    """Load the rest: weights, momentum, the scale of gradients, and this process's random numbers.

    processes: of those that wrote it; one more keeps the random numbers that it has. Any error where a file is missing
    or does not fit.
    """
    found = checkpoints.files(checkpoint)
    (model,), (optimizer,) = accelerator._models, accelerator._optimizers
    load_model(model, listed(found, SAFE_WEIGHTS_NAME))
    optimizer.load_state_dict(plain(listed(found, OPTIMIZER_FILE)))
    check_optimizer(optimizer)
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(plain(listed(found, SCALER_FILE)))
    if accelerator.process_index < processes:
        file = listed(found, RANDOM_FILE.format(accelerator.process_index))
        set_random_numbers(plain(file), accelerator.device.type)


def listed(found: dict[str, Path], name: str) -> Path:
    if name not in found:
        raise UserError(f"{name} is missing")
    return found[name]


def plain(file: Path) -> dict:
    """The dict in a file of torch.save; tensors and plain values are read, and nothing that such a file may run."""
    with torch.serialization.safe_globals(OF_NUMPY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # bytes may raise anything, at length
            content = None
    if not isinstance(content, dict):
        raise UserError(f"{file.name} holds something else than tensors and plain values, which is not read")
    return content


def load_model(model: nn.Module, file: Path) -> None:
    """Load the model, in which a tensor may have several names and the file only one of them.

    In place of the function of safetensors, which cannot compare tensors in channels_last. RuntimeError where they do
    not fit.
    """
    read, own = load_file(file), model.state_dict()
    there = {own[name].untyped_storage().data_ptr() for name in read.keys() & own.keys()}
    same = {name: each for name, each in own.items() if each.untyped_storage().data_ptr() in there}
    model.load_state_dict({**same, **read})


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """UserError where what an optimiser has taken over does not have the shapes of its parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state.get(parameter, {})
            tensors = [each for each in kept.values() if torch.is_tensor(each)]
            if any(each.ndim and each.shape != parameter.shape for each in tensors):
                raise UserError(f"{OPTIMIZER_FILE} is of other parameters")


def set_random_numbers(kept: dict, device: str) -> None:
    """Go on with the random numbers of Python, NumPy and PyTorch, and of the GPUs that both runs have."""
    random.setstate(kept["random_state"])
    np.random.set_state(kept["numpy_random_seed"])
    torch.set_rng_state(kept["torch_manual_seed"])
    if of_device := kept.get(f"torch_{device}_manual_seed"):
        module = torch.get_device_module(device)
        for number, each in enumerate(of_device[: module.device_count()]):
            module.set_rng_state(each, number)
