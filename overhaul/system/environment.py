"""What launchers leave in the environment: it may say where a run is and with whom, but not how it is trained."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
from accelerate.state import AcceleratorState
from torch import distributed

from overhaul.system.messages import UserError, choose, first_line, launched, printable

PRECISIONS = ("no", "bf16", "fp16")
ON, OFF = ("1", "true", "t", "yes", "y", "on"), ("0", "false", "f", "no", "n", "off")  # as Accelerate reads them
SWITCHES = ("ACCELERATE_USE_CPU", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "FORK_LAUNCHED")
PLAIN = "these networks are small: launch plain multi-GPU, and unset it"
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": PLAIN,
    "ACCELERATE_USE_FSDP": PLAIN,
    "ACCELERATE_USE_MEGATRON_LM": PLAIN,
    "ACCELERATE_USE_PARALLELISM_CONFIG": PLAIN,
    "ACCELERATE_DYNAMO_BACKEND": "--compile is what compiles; unset it",
    "ACCELERATE_FP8_BACKEND": f"--mixed_precision is one of {', '.join(PRECISIONS)}; unset it",
    "ACCELERATE_DOWNCAST_BF16": f"--mixed_precision is one of {', '.join(PRECISIONS)}; unset it",
}


def check_environment() -> None:
    """UserError for variables that would have Accelerate train in another way, or that it cannot read."""
    for name, advice in REFUSED.items():
        if (value := os.environ.get(name, "")).lower() not in ("", *OFF):
            raise UserError(f"{name}={printable(value)[:80]} in the environment is of no use here: {advice}")
        os.environ.pop(name, None)  # as Accelerate reads "no" in several ways
    for name in SWITCHES:
        if (value := os.environ.get(name, OFF[0])).lower() not in (*ON, *OFF):
            raise UserError(f"{name} in the environment is true or false, not {printable(value)[:80]!r}; unset it")
    level = os.environ.get("ACCELERATE_LOG_LEVEL", "INFO")
    if not isinstance(logging.getLevelName(level.upper()), int):
        raise UserError(f"ACCELERATE_LOG_LEVEL={printable(level)[:80]} in the environment is no level; unset it")
    check_device("ACCELERATE_TORCH_DEVICE")
    check_processes()


def check_processes() -> None:
    """UserError for numbers of processes that no launcher leaves."""
    rank, world = launched("RANK"), launched("WORLD_SIZE", 1)
    local = launched("LOCAL_RANK"), launched("LOCAL_WORLD_SIZE", world)
    for name, number, of in (("RANK", rank, world), ("LOCAL_RANK", *local)):
        if number >= of:
            raise UserError(f"{name}={number} in the environment is of {of} processes, counted from 0; unset it")
    if world == 1:
        return
    if lacking := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
        raise UserError(f"{' and '.join(lacking)} are not in the environment of {world} processes: use a launcher")
    if not 0 < launched("MASTER_PORT") < 2**16:
        raise UserError(f"MASTER_PORT={launched('MASTER_PORT')} in the environment is no port: name one up to 65535")


def check_device(name: str) -> None:
    """UserError for a variable whose device this machine has not."""
    if (value := os.environ.get(name)) is None:
        return
    try:
        torch.zeros(1, device=value).item()
    except (AssertionError, RuntimeError) as error:  # the first: of a PyTorch that was built without the device
        reason = printable(first_line(error))
        raise UserError(
            f"{name}={printable(value)[:80]} in the environment cannot be had ({reason}); unset it"
        ) from None


def mixed_precision_of(asked: str | None) -> str:
    """The precision that was asked for, or else the one that a launcher has left in the environment; UserError."""
    if asked:
        return choose("--mixed_precision", asked, PRECISIONS)
    name = "ACCELERATE_MIXED_PRECISION"
    return choose(f"{name} in the environment", os.environ.get(name) or "no", PRECISIONS)


@contextmanager
def refusals_explained() -> Iterator[None]:
    """One line for what Accelerate itself cannot read in the environment, or has no package for."""
    try:
        yield
    except UserError:
        raise
    except distributed.DistError as error:
        AcceleratorState._reset_state(reset_partial_state=True)
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the {launched('WORLD_SIZE', 1)} processes do not find one another at {printable(where)[:80]} "
            f"({printable(first_line(error))[:200]}); check the address, and that all of them are started"
        ) from None
    except (ImportError, NotImplementedError, ValueError) as error:
        AcceleratorState._reset_state(reset_partial_state=True)  # which is half made, and would spoil the next start
        raise UserError(f"Accelerate cannot start with this environment: {printable(first_line(error))}") from None


def restarts() -> int:
    """How often torchrun or accelerate launch has started these processes again."""
    return launched("TORCHELASTIC_RESTART_COUNT")


def meet_again(_url: str, timeout: timedelta, **_) -> Iterator[tuple]:
    """Where restarted processes find one another: the launcher's store, but not under the names of the dead ones.

    `accelerate launch` keeps its store over a restart (--rdzv_backend static, its default), with their addresses.
    """
    store, rank, world = next(distributed.rendezvous("env://", timeout=timeout))
    yield distributed.PrefixStore(f"restart-{restarts()}", store), rank, world


@cache
def know_restarts() -> None:
    """Let processes that were started again meet at the address "restarted://"."""
    distributed.register_rendezvous_handler("restarted", meet_again)
