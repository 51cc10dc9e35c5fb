"""What a compiled step of several processes does in turn: pieces of its backward pass, and gradients sent."""

from dataclasses import replace

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from overhaul import distill, models
from overhaul.options import Run
from overhaul.setups import wide_resnet
from overhaul.training import optimisation
from overhaul.training.build import start_accelerator
from support.runs import DIGITS_TEACHER


def backward_and_exchanges() -> list[str]:
    """Of the second step of a network of 5 MB, which DistributedDataParallel sends in two buckets."""
    done = []

    def backward(module: torch.nn.Module, _inputs):
        return make_boxed_func(lambda *arguments: done.append("backward") or module(*arguments))

    def noted(_state, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        done.append("sent")
        return allreduce_hook(None, bucket)

    setup = replace(DIGITS_TEACHER, student=wide_resnet(10, 4, num_classes=10))
    run = Run(compile="default")
    accelerator, method = start_accelerator(run), distill.make("original", models.create(setup.student), None)
    backend = aot_autograd(fw_compiler=lambda module, _: make_boxed_func(module.forward), bw_compiler=backward)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(optimisation.COMPILE, "default", {"dynamic": False, "backend": backend})
        model, optimizer, teach = optimisation.make_ready(method, None, setup, run, accelerator)
    model.register_comm_hook(None, noted)
    images = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    for _ in range(2):  # the first lays out the buckets
        done.clear()
        optimisation.training_step(accelerator, model, teach, optimizer, images, torch.arange(4), 0.0)
    return done
