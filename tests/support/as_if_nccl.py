"""Two processes over gloo whose gradients seem to travel over NCCL: what they tell one another, and by which way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import distributed

from overhaul.system.accelerator import start
from overhaul.system.messages import UserError
from overhaul.system.processes import gathered, hosts, limit_waiting, lost_processes_explained
from overhaul.training import step as room
from support.runs import command

EXCHANGES = (
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce"),
    *("barrier", "broadcast", "broadcast_object_list"),
)


@contextmanager
def recorded(backend: str = "nccl") -> Iterator[list[tuple[str, str]]]:
    """What this process exchanges beside the gradients, and whether over the hosts' group, "main" or of a "step"."""
    found = []

    def watched(name: str, exchange):
        def call(*arguments, **kwargs):
            over_hosts = any(isinstance(each, distributed.ProcessGroup) for each in (*arguments, *kwargs.values()))
            found.append((name, "hosts" if over_hosts else "main"))
            return exchange(*arguments, **kwargs)

        return call

    def step(*arguments):
        found.append(("step", "step"))
        return training_step(*arguments)

    training_step = room.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "get_backend", lambda *_: backend)
        patch.setattr(room, "training_step", step)
        for name in EXCHANGES:
            patch.setattr(distributed, name, watched(name, getattr(distributed, name)))
        yield found


def training(backend: str, *argv) -> SimpleNamespace:
    """A command, and what its process exchanged."""
    with recorded(backend) as found:
        result = command(*argv)
    result.exchanged = found
    return result


def one_hangs(seconds: float) -> SimpleNamespace:
    """The second process comes too late to an exchange; what the first one is told, after which time."""
    with recorded() as found:
        accelerator = start()
        limit_waiting(accelerator, timedelta(seconds=seconds))
        sums = gathered(accelerator, torch.ones(1)).sum().item()
        del found[:]
        began, words = time.monotonic(), ""
        if not accelerator.is_main_process:
            time.sleep(2 * seconds)
        try:
            with lost_processes_explained(seconds / 60):
                gathered(accelerator, torch.ones(1))
        except UserError as error:
            words = str(error)
        return SimpleNamespace(sums=sums, words=words, seconds=time.monotonic() - began, exchanged=found)


def timeouts(seconds: float) -> list[float]:
    """How long the hosts' group waits, and the main one."""
    with recorded():
        accelerator = start()
        limit_waiting(accelerator, timedelta(seconds=seconds))
        groups = hosts(), distributed.group.WORLD
        return [each._get_backend(torch.device("cpu")).options._timeout.total_seconds() for each in groups]
