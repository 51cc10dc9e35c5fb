"""Batches made ahead by worker processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from overhaul.data.images import Broken
from overhaul.data.transfer import pinned
from overhaul.system import preemption
from overhaul.system.messages import UserError, first_line, launched

SHARED = "/dev/shm"
SPARE = 2**20  # bytes for labels


class Shared(Dataset):
    """Batches whose pixels travel in shared memory that is used again and again, as fresh memory is slow to get.

    A slot is written again when the batch after the one that it held has been asked for; load_batches copies it before.
    """

    def __init__(self, batches: Dataset, drawn: list, workers: int) -> None:
        self.batches, self.drawn = batches, drawn
        shape = batches.shape(drawn[0]) if drawn else (0,)
        slots = torch.empty((2 * workers + 1, *shape), dtype=torch.uint8)
        check_shared(slots.nbytes)
        self.slots = slots.share_memory_()

    def __len__(self) -> int:
        return len(self.drawn)

    def __getitem__(self, step: int) -> tuple[int, int, Tensor, list[Broken]]:
        pixels, labels, broken = self.batches[self.drawn[step]]
        slot = step % len(self.slots)
        self.slots[slot, : len(pixels)] = pixels
        return slot, len(pixels), labels, broken


def load_batches(
    batches: Dataset, drawn: list, workers: int, pin: bool = False
) -> Iterator[tuple[Tensor, Tensor, list[Broken]]]:
    """The batches in the order of `drawn`, made ahead by worker processes. pin: see transfer.pinned."""
    if not workers:
        for each in drawn:
            pixels, labels, broken = batches[each]
            yield pinned(pixels, pin), pinned(labels, pin), broken
        return
    shared = Shared(batches, drawn, workers)
    for slot, n, labels, broken in work(shared, workers):
        pixels = shared.slots[slot, :n]
        yield pixels.pin_memory() if pin else pixels.clone(), pinned(labels, pin), broken


def check_workers(workers: int, nbytes: int) -> None:
    """check_shared for batches of so many bytes in all processes of this machine, before any takes its part."""
    if workers:
        check_shared(launched("LOCAL_WORLD_SIZE", 1) * (2 * workers + 1) * nbytes)


def check_shared(needed: int) -> None:
    """UserError where there are not so many bytes of shared memory left, of which a container may have 64 MiB."""
    if not os.path.isdir(SHARED):  # not on macOS
        return
    about = os.statvfs(SHARED)
    if (free := about.f_bavail * about.f_frsize) < needed + SPARE:
        raise UserError(
            f"the workers that decode images need {needed + SPARE:,} bytes of shared memory, and {SHARED} has {free:,} "
            f"left; enlarge it (docker run --shm-size), or take fewer --workers: --workers 0 needs none"
        )


def work(batches: Dataset, workers: int) -> Iterator[tuple]:
    """What a dataset makes in worker processes, each of which keeps two items ahead; their errors as ours."""
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator(),  # else it would draw from the global one
        worker_init_fn=leave_signals,
    )
    try:
        with deaths_explained():
            yield from loader
    except ValueError as error:  # at the end of a process that stops amid its batches, UserError may be gone
        if not str(error).startswith("Caught UserError"):
            raise
        raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2]) from None


def work_pinned(batches: Dataset, workers: int, pin: bool) -> Iterator[tuple]:
    """The same for batches of pixels, labels and more, of batches.nbytes of pixels. pin: see transfer.pinned."""
    if workers:
        check_shared((2 * workers + 1) * batches.nbytes)
    for pixels, labels, *more in work(batches, workers):
        yield pinned(pixels, pin), pinned(labels, pin), *more


def count_workers(workers: int | None) -> int:
    """Worker processes of this process: as asked for, or its share of the machine's cores, up to 16."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, max(1, cores // launched("LOCAL_WORLD_SIZE", 1)))


@contextmanager
def deaths_explained() -> Iterator[None]:
    """One line for the death of a worker, which PyTorch raises wherever the main process happens to be."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise UserError(
            f"a worker that decodes images died, perhaps for lack of (shared) memory: the same command goes on, "
            f"perhaps with fewer --workers ({first_line(error)})"
        ) from None


def leave_signals(worker: int) -> None:
    """Let the main process alone answer to Ctrl-C and preemption, of which all may be told; it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, preemption.signals())
        threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """End at the signal of the main process, which at its own end tells its workers to stop and waits for them."""
    while signal.sigwaitinfo(preemption.signals()).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)
