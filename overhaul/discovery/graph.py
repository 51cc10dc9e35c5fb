"""One pass of a network as a graph of functions and module calls, from a dry run that computes nothing."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from overhaul.system.messages import UserError

ACTIVATIONS = {
    "relu": "relu",
    "threshold": "relu",
    "clamp_min": "relu",
    "clamp": "relu",
    "relu6": "relu6",
    "hardtanh": "relu6",
    "silu": "silu",
    "hardswish": "hardswish",
    "gelu": "gelu",
    "leaky_relu": "leaky_relu",
    "rrelu": "leaky_relu",
    "prelu": "prelu",
    "elu": "elu",
    "selu": "elu",
    "celu": "elu",
    "mish": "mish",
    "softplus": "softplus",
}
NORMS = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm")
ALIKE = {
    "dropout",
    "dropout2d",
    "alpha_dropout",
    "contiguous",
    "clone",
    "to",
    "float",
    "half",
    "bfloat16",
    "type_as",
    "pad",
}  # passes a map on unchanged
ARITHMETIC = {"mul", "div", "truediv", "add", "sub"}  # so do these with a number


@dataclass
class Op:
    """One torch function called in the dry run."""

    name: str
    inputs: list
    shape: tuple
    call: int  # the module call it ran in: an index into Trace.calls
    kernel: int = 0
    inplace: bool = False
    kind: str = "other"
    activation: str = ""

    def __post_init__(self):
        several = len(self.inputs) > 1
        if self.name in ACTIVATIONS:
            self.kind, self.activation = "activation", ACTIVATIONS[self.name]
        elif self.name.endswith(NORMS):
            self.kind = "norm"
        elif self.name.startswith("conv"):
            self.kind = "conv"
        elif self.name in ALIKE or (self.name in ARITHMETIC and not several):
            self.kind = "alike"
        elif self.name in ("add", "mul", "cat", "concat", "linear"):
            self.kind = {"concat": "cat"}.get(self.name, self.name)


@dataclass
class Call:
    """One call of one module: the ops that went in and came out, and the ops that ran inside."""

    path: str
    nth: int
    inputs: list
    first: int
    outputs: list = field(default_factory=list)


@dataclass(frozen=True)
class Address:
    """Where a later forward pass finds the tensor: at a side of the nth call of a module, or of the kth call of a function inside it."""

    path: str
    nth: int
    side: str  # in, out
    function: str = ""
    kth: int = 0
    overwritten: bool = False  # something writes into it later

    def __str__(self):
        return f"{self.path or '(net)'}{f'#{self.nth}' if self.nth else ''}{f' {self.function}#{self.kth}' if self.function else ''}:{self.side}"


@dataclass(frozen=True)
class Feature:
    """What ends a stage. Several addresses: to be concatenated."""

    at: tuple
    channels: int
    size: tuple  # height, width
    activation: str  # the one that follows; none: a linear map
    norms: tuple  # modules behind it
    behind: str  # how: direct, sum (one normed branch), sums (several), gated, none
    rule: str


class Trace(TorchFunctionMode):
    """The graph of one forward pass, function by function. Every tensor is kept alive, so that ids stay true."""

    def __init__(self, net, images):
        super().__init__()
        self.ops, self.calls, self.running, self.counts = (
            [Op("input", [], tuple(images.shape), -1, kind="input")],
            [],
            [],
            {},
        )
        self.op_of, self.alive, self.image = {id(images): 0}, [images], tuple(images.shape[-2:])
        self.hooks = [
            h
            for path, m in net.named_modules()
            for h in (
                m.register_forward_pre_hook(
                    lambda m, args, kwargs, path=path: self.enter(path, (args, kwargs)), with_kwargs=True
                ),
                m.register_forward_hook(lambda m, args, out: self.leave(type(m).__name__, out)),
            )
        ]

    def known(self, tree):
        return [self.op_of[id(t)] for t in tree_leaves(tree) if isinstance(t, torch.Tensor) and id(t) in self.op_of]

    def record(self, name, inputs, tensor, **more):
        self.ops.append(
            Op(name, list(dict.fromkeys(inputs)), tuple(tensor.shape), self.running[-1] if self.running else -1, **more)
        )
        self.hold(tensor, len(self.ops) - 1)

    def hold(self, tensor, op):
        self.alive.append(tensor)
        self.op_of[id(tensor)] = op

    def enter(self, path, inputs):
        self.counts[path] = self.counts.get(path, -1) + 1
        self.running.append(len(self.calls))
        self.calls.append(Call(path, self.counts[path], self.known(inputs), len(self.ops)))

    def leave(self, kind, out):
        call = self.calls[self.running[-1]]
        for t in tree_leaves(out):
            if (
                isinstance(t, torch.Tensor) and id(t) not in self.op_of and call.inputs
            ):  # code we cannot see into (TorchScript)
                self.record(f"opaque {kind}", call.inputs, t)
        call.outputs = self.known(out)
        self.running.pop()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        raw = getattr(func, "__name__", "")
        made = [args[0]] if raw == "__setitem__" else [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        inputs = self.known((args, kwargs))
        if not made or not inputs or (raw == "__get__" and not isinstance(out, torch.Tensor)):
            return out
        inplace = (
            bool((kwargs or {}).get("inplace"))
            or raw == "__setitem__"
            or raw.startswith("__i")
            or (raw.endswith("_") and not raw.endswith("__"))
        )
        kernel = (
            next((t.shape[-1] for t in args[1:2] if isinstance(t, torch.Tensor)), 1) if raw.startswith("conv") else 0
        )
        for t in made:
            self.record(plain(raw), inputs, t, kernel=kernel, inplace=inplace)
            if inplace and isinstance(args[0], torch.Tensor):
                self.hold(args[0], len(self.ops) - 1)
                if args[0]._base is not None and id(args[0]._base) in self.op_of:  # written through a view
                    self.record("write", [self.op_of[id(args[0]._base)], len(self.ops) - 1], args[0]._base)
        return out


def plain(name):
    """__iadd__, add_, add -> add."""
    name = name.strip("_")
    return {
        "iadd": "add",
        "radd": "add",
        "imul": "mul",
        "rmul": "mul",
        "itruediv": "div",
        "concatenate": "concat",
        "hard_swish": "hardswish",
    }.get(name, name)


def dry_run(net, image):
    """Trace of net on one image of shape (C, H, W): on the meta device, where nothing is computed; for real where that fails."""
    if hasattr(net, "_orig_mod"):
        raise UserError("give the network itself, and compile afterwards")
    if isinstance(net, torch.jit.ScriptModule):
        raise UserError("a TorchScript network cannot be looked into: give the Python one")
    try:
        return traced(meta_twin(net), torch.empty(1, *image, device="meta"))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return traced(net, torch.randn(2, *image, device=next(net.parameters()).device))


def meta_twin(net):
    """A copy of net without values: deepcopy is told what each tensor becomes. (functional_call would leave meta tensors in a net that names a module twice.)"""
    memo = {}
    for m in net.modules():
        for t in (*m._parameters.values(), *m._buffers.values(), *vars(m).values()):
            if isinstance(t, torch.Tensor):
                memo[id(t)] = (
                    nn.Parameter(t.detach().to("meta"), t.requires_grad)
                    if isinstance(t, nn.Parameter)
                    else t.detach().to("meta")
                )
    return copy.deepcopy(net, memo)


def traced(net, images):
    trace = Trace(net, images)
    training = {m: m.training for m in net.modules()}
    net.eval()
    try:
        with trace, torch.enable_grad():
            trace.outputs = trace.known(logits_of(net(images)))
    finally:
        for h in trace.hooks:
            h.remove()
        for m, was in training.items():
            m.training = was
    return trace


def logits_of(out):
    """The logits in what a classifier may return: a tensor, an object or a dict with logits, a tuple that starts with them."""
    while not isinstance(out, torch.Tensor):
        out = out.logits if hasattr(out, "logits") else out["logits"] if isinstance(out, dict) else out[0]
    return out
