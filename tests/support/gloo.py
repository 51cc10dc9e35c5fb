"""Processes that share a GPU, which NCCL refuses, so that they exchange over gloo.

As a script it is the command of one of them. To Accelerate each is the first process of a node, as it takes the GPU by
its place there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from overhaul.cli.main import command
from overhaul.system import accelerator
from support.gpu import trained_on
from support.one_step import one_step

PLACE = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


@contextmanager
def over_gloo() -> Iterator[None]:
    between_processes = accelerator.between_processes

    def by_gloo(comm_hook: str) -> list:
        ddp, group = between_processes(comm_hook)
        group.backend = "gloo"
        return [ddp, group]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "between_processes", by_gloo)
        yield


def step_on(device: str, *arguments) -> dict[str, torch.Tensor]:
    """See one_step."""
    with over_gloo():
        found = one_step(*arguments)
    trained_on(device)
    return found


if __name__ == "__main__":
    with over_gloo():
        command()
