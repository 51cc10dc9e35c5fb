"""How long steps take beside one another, on whatever device."""

from collections.abc import Callable, Sequence

from torch import Tensor

from overhaul.bench import Clock


def seconds(steps: Sequence[Callable], images: Tensor, labels: Tensor, rounds: int, warm_up: int = 1) -> list[float]:
    """Medians of rounds, in which the steps are taken in turn, after some that are not timed.

    images, labels: on the device of the steps.
    """
    clock = Clock(images.device)
    for _ in range(warm_up + rounds):
        for number, step in enumerate(steps):
            step(images, labels)
            clock(str(number))
    return list(clock.medians(warm_up).values())
