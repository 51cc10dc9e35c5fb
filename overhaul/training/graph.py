"""The whole step as one CUDA graph: captured once, replayed for every batch that follows."""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from overhaul.nets import FUNCTION
from overhaul.options import Run
from overhaul.recipe import Setup
from overhaul.system.messages import UserError, innermost

WARM_UP = 2  # steps in which libraries choose their kernels and take the memory that they work in


class Graphed:
    """A step that is captured after its first ones and replayed from then on: the same work on the same tensors.

    body: a step of a batch on the device, which reads no value from there. Of all that it reads, what changes from one
    step to another must lie in tensors that stay where they are; the batches are copied to such ones.
    """

    def __init__(self, body: Callable) -> None:
        self.body, self.steps, self.replay = body, 0, None

    def __call__(self, *batch: Tensor) -> Tensor | None:
        """What the body gives; once captured, in a tensor that the next step writes over."""
        self.steps += 1
        if self.steps <= WARM_UP:
            return aside(lambda: self.body(*batch))
        if self.replay is None:
            self.batch = [each.clone() for each in batch]
            self.replay, self.result = capture(lambda: self.body(*self.batch))
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.replay()
        return self.result


def graphed(body: Callable, compile: str) -> Callable:
    """The body of a step, captured if --compile asks for that."""
    return Graphed(body) if compile == "graph" else body


def aside(step: Callable) -> Tensor | None:
    """What a step gives on a stream of its own, as a step must be warmed up that is to be captured."""
    here, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        result = step()
    here.wait_stream(stream)
    return result


def capture(step: Callable) -> tuple[Callable[[], None], Tensor | None]:
    """What replays a step, which is not taken yet, and where it leaves what it gives; UserError where it cannot be."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may pin the next batch meanwhile
            result = step()
    except RuntimeError as error:
        raise UserError(
            f"this step cannot be captured as one CUDA graph ({innermost(error)}); train without --compile graph"
        ) from None
    return graph.replay, result


def check(setup: Setup, run: Run, accelerator: Accelerator) -> None:
    """UserError for a run whose steps cannot be captured."""
    if run.compile != "graph":
        return
    if accelerator.device.type != "cuda":
        raise UserError(f"--compile graph is of CUDA GPUs, and this run is on {accelerator.device}")
    if accelerator.num_processes > 1:
        raise UserError("--compile graph is of one process; with several use --compile default")
    if accelerator.mixed_precision == "fp16":
        raise UserError("--compile graph takes bf16 or fp32: with fp16 a step asks each time whether it is skipped")
    for role in ("student", "teacher"):
        net = getattr(setup, role)
        if net and FUNCTION.fullmatch(net.family):
            raise UserError(
                f"--compile graph takes no {role} of a user's file, whose Python would run once alone; use --compile "
                f"default"
            )
