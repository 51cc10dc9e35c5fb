"""The only place that configures Accelerate: processes, precision, kernels, trackers."""

import ctypes
import gc
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DDPCommunicationHookType,
    GradientAccumulationPlugin,
    KwargsHandler,
    ProjectConfiguration,
    TorchDynamoPlugin,
    patch_environment,
)
from torch import nn

from overhaul.system.environment import (
    check_environment,
    know_restarts,
    mixed_precision_of,
    refusals_explained,
    restarts,
)
from overhaul.system.messages import UserError, launched, warn
from overhaul.system.processes import MEETING, START_UP, limit_waiting

DYNAMO_OFF = dict(backend="no", mode="default", fullgraph=False, dynamic=False, use_regional_compilation=False)
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # of mallopt


def start(
    mixed_precision: str | None = None,
    *,
    comm_hook: str = "no",
    deterministic: bool = False,
    tf32: bool = True,
    tracker: str | None = None,
    folder: Path | None = None,
) -> Accelerator:
    """The Accelerator of this process; UserError for a launch, a precision or a tracker that cannot work.

    mixed_precision: no, bf16 or fp16; as the launcher says unless named. comm_hook: the same, of gradients between
    processes. folder: the tracker's.
    """
    if tracker and not find_spec(tracker):
        raise UserError(f"--tracker {tracker} is not installed: pip install {tracker}")
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor lacks a part of it
    check_environment()
    AcceleratorState._reset_state()  # else a second run of one Python process could not have another precision
    know_restarts()
    precision = mixed_precision_of(mixed_precision)
    with refusals_explained():
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else processes on CPUs would not find each other
            mixed_precision=precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_plugin=TorchDynamoPlugin(**DYNAMO_OFF),
            log_with=tracker,
            project_config=folder and ProjectConfiguration(str(folder), logging_dir=str(folder / "logs")),
            kwargs_handlers=between_processes(comm_hook),
        )
    set_up_backends(accelerator.device, deterministic, tf32)
    limit_waiting(accelerator, START_UP)
    check_launch(accelerator)
    return accelerator


def between_processes(comm_hook: str) -> list[KwargsHandler]:
    """How processes find one another and exchange gradients."""
    return [
        DistributedDataParallelKwargs(
            broadcast_buffers=False, gradient_as_bucket_view=True, comm_hook=DDPCommunicationHookType(comm_hook)
        ),
        InitProcessGroupKwargs(timeout=MEETING, **({"init_method": "restarted://"} if restarts() else {})),
    ]


def check_launch(accelerator: Accelerator) -> None:
    """UserError for processes that do not find each other, and for what these networks or this device cannot do."""
    world, together = launched("WORLD_SIZE", 1), accelerator.num_processes
    if world != together:
        raise UserError(
            f"{world} processes were launched, but each would train alone on {accelerator.device}; launch with "
            f"`accelerate launch --multi_gpu --num_processes {world}`, on CPUs after ACCELERATE_USE_CPU=true"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU use bf16")


def set_up_backends(device: torch.device, deterministic: bool, tf32: bool) -> None:
    """What PyTorch leaves to its user: the kernels of the whole process, and where compiled ones are kept."""
    on_cuda, tf32 = device.type == "cuda", tf32 and not deterministic
    # for --deterministic, if only of a later run of this process, as PyTorch reads it once, before the first product
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = on_cuda and not deterministic
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if on_cuda and tf32 else "highest")  # "high" changes CPUs' bits, too
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overhaul" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))


def keep_memory(device: torch.device) -> None:
    """Keep freed memory for the next step, for the whole process: fresh pages are slow to get.

    Where tensors live on a CPU and the C library is glibc.
    """
    if device.type == "cpu" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def forget_runs(device: torch.device) -> None:
    """Let go of the memory of a GPU that an earlier run of this process holds: its parts know one another."""
    if device.type != "cpu":
        gc.collect()


def threads(accelerator: Accelerator) -> int | None:
    """Those that a step is computed by, where that is on a CPU."""
    return torch.get_num_threads() if accelerator.device.type == "cpu" else None


def describe_devices(accelerator: Accelerator) -> str:
    device = accelerator.device.type
    name = torch.cuda.get_device_name() if device == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    return f"{accelerator.num_processes} x {name}, {precision}"


def log(accelerator: Accelerator, line: dict) -> None:
    """Show an epoch's line of metrics.jsonl to the tracker, whose full disk stops no training."""
    try:
        accelerator.log({key: value for key, value in line.items() if key != "epoch"}, step=line["epoch"])
    except OSError as error:
        warn(f"the tracker cannot write ({error}); training goes on")


def end(accelerator: Accelerator) -> None:
    """Finish the tracker, and part from the other processes."""
    try:
        accelerator.end_training()
    except OSError as error:
        warn(f"the tracker cannot write ({error})")


def other_gpus_hidden(accelerator: Accelerator) -> AbstractContextManager:
    """Let Accelerate save and load no random numbers of GPUs, which it would start, in a run on another device."""
    return patch_environment(**({} if accelerator.device.type == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}))


def all_finite(model: nn.Module) -> bool:
    """Whether every parameter and BatchNorm statistic is a finite number."""
    values = [each for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()]
    return bool(torch.stack([torch.isfinite(each).all() for each in values]).all())


class Nobody:
    """In place of what only the main process has: every call does nothing."""

    def __call__(self, *_, **__) -> None:
        pass

    def __getattr__(self, name: str) -> "Nobody":
        return self


def of_main(accelerator: Accelerator, make: Callable[[], object]) -> object:
    """What `make` gives on the main process; on the others a stand-in that does nothing."""
    return make() if accelerator.is_main_process else Nobody()


def warn_all(accelerator: Accelerator, texts: list[str]) -> None:
    """Let the main process say each on stderr."""
    for text in texts:
        of_main(accelerator, lambda: warn)(text)


def start_tracker(accelerator: Accelerator, name: str, config: dict, run: str, epoch: int, tracker_id: str) -> None:
    """Start a tracker, which goes on after the finished epochs. config: plain values by flat names; run: its name."""
    plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in config.items()}
    goes_on = {
        "tensorboard": {"purge_step": epoch + 1},
        "wandb": {"name": run, "id": tracker_id, "resume": "allow"},
        "trackio": {"name": run, "resume": "allow"},
    }
    accelerator.init_trackers("overhaul", config=plain, init_kwargs={name: goes_on[name]})
