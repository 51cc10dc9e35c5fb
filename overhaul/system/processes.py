"""What the processes of a run tell one another, and what is said where one is lost.

They tell it over gloo, beside NCCL where that exchanges the gradients: gloo raises an error where one waits too long,
NCCL kills the process. So they meet over gloo before anything else that waits for NCCL, but for the step itself.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from torch import Tensor, distributed, nn

from overhaul.system.messages import UserError, first_line

MEETING = timedelta(minutes=10)  # in which processes, started together, have to find one another
START_UP = timedelta(hours=2)  # how long processes wait for the main one, which may be downloading
LATER = timedelta(minutes=1)  # by which NCCL kills a process later than gloo tells why
GONE = ("closed by peer", "reset by peer", "Broken pipe")  # in the errors of gloo and NCCL
SILENT = ("Timed out waiting", "Socket Timeout", "timed out after", "Watchdog caught collective operation timeout")


def hosts() -> distributed.ProcessGroup | None:
    """The gloo group of a run whose processes exchange gradients by other means; None where gloo does it all.

    To be called by all processes, as the first call makes it.
    """
    if not distributed.is_initialized() or distributed.get_backend() == "gloo":
        return None
    return beside(distributed.group.WORLD)


@lru_cache(maxsize=1)
def beside(_world: distributed.ProcessGroup) -> distributed.ProcessGroup:
    return distributed.new_group(timeout=START_UP, backend="gloo")


def wait() -> None:
    """For all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(torch.zeros(1), group=hosts())


def meet() -> None:
    """Wait for all processes, where the exchange that follows would not tell that one is lost."""
    if hosts() is not None:
        wait()


def gathered(accelerator: Accelerator, tensor: Tensor) -> Tensor:
    """All processes' tensors, one after the other along the first dimension."""
    meet()
    return accelerator.gather(tensor)


def reduced(accelerator: Accelerator, tensor: Tensor, reduction: str) -> Tensor:
    """The "sum" or "mean" of all processes' tensors."""
    meet()
    return accelerator.reduce(tensor, reduction)


def sync_buffers(model: nn.Module) -> None:
    """Give every process the BatchNorm statistics of the main process."""
    meet()
    for buffer in model.buffers():
        buffer.copy_(broadcast(buffer))


def told(accelerator: Accelerator, value: object) -> list:
    """What each process tells, on all of them."""
    found = [value] * accelerator.num_processes
    if len(found) > 1:
        distributed.all_gather_object(found, value, hosts())
    return found


def agreed(accelerator: Accelerator, find: Callable[[], object]) -> object:
    """What the main process finds, on all processes."""
    found = [find() if accelerator.is_main_process else None]
    if accelerator.num_processes > 1:
        distributed.broadcast_object_list(found, 0, hosts())
    return found[0]


class Unsaved(Exception):
    """Something could not be written, and why."""


def all_or_none(accelerator: Accelerator, write: Callable[[], object], folder: Path, main_only: bool = False) -> None:
    """Let every process, or the main one alone, write below a folder.

    Unsaved, on all of them, with the first reason, where one could not.
    """
    reason = None
    try:
        if accelerator.is_main_process or not main_only:
            write()
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: torch's and safetensors' own writers
        full = not isinstance(error, OSError) and shutil.disk_usage(folder).free < 2**20
        reason = "No space left on device" if full else getattr(error, "strerror", None) or first_line(error)
    if reason := next(filter(None, told(accelerator, reason)), None):
        raise Unsaved(reason)


def on_main(accelerator: Accelerator, act: Callable[[], object]) -> None:
    """Let the main process act while the others wait."""
    wait()
    if accelerator.is_main_process:
        act()
    wait()


@contextmanager
def main_first(accelerator: Accelerator) -> Iterator[None]:
    """Let the main process act before the others, which then find what it has downloaded."""
    if not accelerator.is_main_process:
        wait()
    yield
    if accelerator.is_main_process:
        wait()


def limit_waiting(accelerator: Accelerator, time: timedelta) -> None:
    """From now on end a run whose processes wait for one another longer than that."""
    if accelerator.num_processes > 1:
        limit = getattr(distributed, "set_timeout", None) or distributed.distributed_c10d._set_pg_timeout
        if (group := hosts()) is None:
            limit(time)
        else:
            limit(time, group)
            limit(time + LATER)


@contextmanager
def lost_processes_explained(timeout_minutes: float) -> Iterator[None]:
    """One line for a process that is gone or does not answer, which the others see in their next exchange."""
    try:
        yield
    except RuntimeError as error:
        silent, gone = (any(words in str(error) for words in kind) for kind in (SILENT, GONE))
        if not (silent or gone or isinstance(error, distributed.DistError)):
            raise
        fate = f"has not answered for {timeout_minutes:g} minutes (--timeout_minutes)" if silent else "has ended"
        raise UserError(
            f"another process of this run {fate}; look for its own message, or for a lack of memory; the same command "
            f"goes on from the last checkpoint"
        ) from None
