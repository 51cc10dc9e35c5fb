"""From the host's memory to the run's device."""

import torch
from torch import Tensor


def pinned(tensor: Tensor, pin: bool) -> Tensor:
    """In memory that a CUDA GPU fetches from by itself, if asked for."""
    return tensor.pin_memory() if pin else tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On the device; the host goes on while a CUDA GPU fetches what is pinned, and waits for every other copy.

    Of other memory the host may take back what a device has not read yet.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda" and tensor.is_pinned())
