"""In place of a CUDA graph: a tape of the operations of a step, which are done again on the same tensors."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Like a graph it keeps numbers, and where tensors lie; what Python does beside it is not done again."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        result = function(*arguments, **(kwargs or {}))
        self.operations.append((function, arguments, kwargs or {}, result))
        return result

    def play(self) -> None:
        for function, arguments, kwargs, result in self.operations:
            again = function(*arguments, **kwargs)
            for place, value in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(place, Tensor) and place.data_ptr() != value.data_ptr():
                    place.copy_(value)


def capture(step: Callable) -> tuple[Callable[[], None], Tensor | None]:
    """graph.capture, but that the step is taken meanwhile: the first replay has been done."""
    tape, played = Tape(), 0
    with tape:
        result = step()

    def replay() -> None:
        nonlocal played
        if played:
            with torch.no_grad():
                tape.play()
        played += 1

    return replay, result
