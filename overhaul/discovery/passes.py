"""Runs a network without a trace: on a copy without values, where nothing is computed, or on a true one."""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from overhaul.discovery.trace import Trace, tensors_in
from overhaul.system.messages import UserError, innermost


def dry_run(network: nn.Module, image_size: int, staged: bool = False, training: bool = False) -> Trace:
    """The trace of a pass over images of image_size x image_size; the network stays as it is.

    staged: of forward_stages, which gives the features too. training: in that mode, not in eval mode. UserError for
    whatever the network's code raises.
    """

    def traced(twin: nn.Module, images: Tensor) -> Trace:
        trace = Trace(twin.train(training), images)
        with trace:
            if staged:
                trace.enter("", (images,), {})
            out = twin.forward_stages(images) if staged else twin(images)
        trace.outputs, trace.features = trace.known(logits_of(out)), trace.known(out.features) if staged else []
        if not trace.outputs:
            raise UserError(
                f"the logits of {type(network).__name__} do not depend on the images, as far as can be seen"
            )
        trace.finish()
        return trace

    return on_a_copy(network, image_size, traced)


def on_a_copy(network: nn.Module, image_size: int, run: Callable):
    """run(copy, images) on a copy of the network without values (on the meta device), or on a true one if that fails.

    Two images of image_size x image_size. UserError for what is no network, and for whatever its code raises.
    """
    check(network)
    shape = 2, 3, image_size, image_size
    with undisturbed():
        try:
            return run(copied(network, valueless), torch.empty(shape, device="meta"))
        except Exception:
            pass
        try:
            twin = true_copy(network)
            tensors = [each for each in (*twin.parameters(), *twin.buffers()) if each.is_floating_point()]
            like = tensors[0] if tensors else torch.empty(0, device="cpu")
            return run(twin, torch.randn(shape, device=like.device, dtype=like.dtype))
        except UserError:
            raise
        except Exception as error:
            name = type(getattr(network, "bare", network)).__name__
            raise UserError(
                f"{name} does not run on images of 3 x {image_size} x {image_size}: "
                f"{innermost(error)}; mend it, or choose another image size"
            ) from error


def check(network: nn.Module) -> None:
    """UserError for what cannot be looked into."""
    if not isinstance(network, nn.Module):
        raise UserError(f"a network is an nn.Module, not a {type(network).__name__}: give the module itself")
    for each in network.modules():
        if isinstance(each, torch.jit.ScriptModule):
            raise UserError("a TorchScript network cannot be looked into: give the Python module it was made from")
        if "_orig_mod" in each._modules or each._compiled_call_impl is not None:
            raise UserError("a compiled network cannot be looked into: give the plain one, and compile afterwards")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random numbers of torch, NumPy and Python stay as they are; modes and checkpoints around do not reach in."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
            saved_tensors_hooks(same, same),
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def same(tensor: Tensor) -> Tensor:
    return tensor


def copied(network: nn.Module, become: Callable) -> nn.Module:
    """A copy in which become(tensor) stands for each of the modules' tensors, or a copy where it gives None.

    (torch.func.functional_call would leave the other tensors in a network that has a module under two names.)
    """
    memo = {}
    for module in network.modules():
        for each in tensors_in(vars(module)):
            if id(each) not in memo and (made := become(each)) is not None:
                memo[id(each)] = made
    return copy.deepcopy(network, memo)


def meta_twin(network: nn.Module) -> nn.Module:
    """A copy of a network without values, on the meta device."""
    return copied(network, valueless)


def valueless(tensor: Tensor) -> Tensor:
    """Its shape on the meta device; fp32 for any float, so that weights of several precisions go together."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    made = torch.empty_like(tensor.detach(), device="meta", dtype=dtype)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def true_copy(network: nn.Module) -> nn.Module:
    """A copy with its values, or with zeros for a network that has none."""
    twin = copied(network, lambda tensor: None if tensor.is_leaf else tensor.detach().clone())
    if any(each.is_meta for each in twin.parameters()):
        twin.to_empty(device="cpu")
        with torch.no_grad():
            for each in (*twin.parameters(), *twin.buffers()):
                each.zero_()
    return twin


def logits_of(out) -> Tensor:
    """The logits in what a classifier gives: a tensor, what has `logits`, or a list or tuple that begins with them."""
    if isinstance(out, Tensor):
        return out
    if hasattr(out, "logits"):
        return logits_of(out.logits)
    if isinstance(out, Mapping) and "logits" in out:
        return logits_of(out["logits"])
    if isinstance(out, list | tuple) and out:
        return logits_of(out[0])
    raise UserError(f"the network gives a {type(out).__name__} without logits: let it give a tensor, or `logits` in it")
