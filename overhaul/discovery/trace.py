"""One pass of a network, written down as a graph of the functions and the modules that were called."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from overhaul.discovery.functions import ACTIVATIONS, NORMS, UNSEEN, kind, plain


def tensors_in(tree) -> Iterator[Tensor]:
    """The tensors in a nest of lists, tuples, dicts and dataclasses."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple | Mapping):
        for each in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_in(each)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from tensors_in([getattr(tree, each.name) for each in fields(tree)])


@dataclass
class Op:
    """One tensor that a function gave.

    inputs: the ops that went in. call: the module call it ran in, an index into Trace.calls. number: how many functions
    of this name ran before. head: the op that was the first argument. kernel: side of a convolution's kernel. owner:
    the module whose scale a norm has. writes: whether the function wrote into its first argument. written: whether
    something writes into the tensor later.
    """

    name: str
    inputs: list[int]
    shape: tuple[int, ...]
    call: int = 0
    number: int = 0
    head: int | None = None
    kernel: int = 0
    owner: str | None = None
    writes: bool = False
    written: bool = False
    kind: str = ""
    activation: str = ""

    def __post_init__(self) -> None:
        self.kind = kind(self.name, len(self.inputs) > 1)
        self.activation = ACTIVATIONS[self.name] if self.kind == "activation" else ""


@dataclass
class Call:
    """The nth call of a module.

    first, last: how many ops there were when it began and ended. before: how often each function had run. inputs,
    outputs: ops; input and output where the first argument, and what it gave, are tensors. leaf: whether it called no
    other module.
    """

    path: str
    nth: int
    first: int
    before: Counter
    inputs: list[int]
    input: int | None
    outputs: list[int] = field(default_factory=list)
    output: int | None = None
    last: int = 0
    leaf: bool = True


class Trace(TorchFunctionMode):
    """The ops and calls of one pass; every tensor is kept, so that ids stay true. Hooks stay in the network: a copy."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.running: list[int] = []
        self.times, self.ran = Counter(), Counter()  # calls of each module, and of each function
        self.tensors: list[tuple[Tensor, int]] = []  # of each op, with its version
        self.op_of: dict[int, int] = {}
        self.apart: dict[int, Tensor] = {}  # those that do not depend on the images, by id
        self.outputs: list[int] = []  # the logits
        self.features: list[int] = []  # the maps, where the pass gave them
        self.image_size = images.shape[-1]
        self.hold(Op("input", [], tuple(images.shape)), images)
        modules = list(network.named_modules())
        names = {module: path for path, module in modules}
        self.paths = {path: names[each] for path, each in network.named_modules(remove_duplicate=False)}
        self.owners = {id(each): path for path, module in modules for each in module.parameters(recurse=False)}
        self.affine = {path for path, module in modules if isinstance(module, _BatchNorm) and module.affine}
        for path, module in modules:
            self.apart.update({id(each): each for each in tensors_in(vars(module))})
            module.register_forward_pre_hook(lambda _, *given, path=path: self.enter(path, *given), with_kwargs=True)
            module.register_forward_hook(lambda module, _, out: self.leave(type(module).__name__, out))

    def known(self, tree) -> list[int]:
        """The ops of the tensors in it, see tensors_in.

        One that nothing visible gave, of the last op's shape, comes from a function that cannot be looked into.
        """
        tensors = list(tensors_in(tree))
        for each in tensors:
            if id(each) not in self.op_of and id(each) not in self.apart and each.shape == self.ops[-1].shape:
                self.record(UNSEEN, [len(self.ops) - 1], each)
        return list(dict.fromkeys(self.op_of[id(each)] for each in tensors if id(each) in self.op_of))

    def hold(self, op: Op, tensor: Tensor) -> None:
        self.op_of[id(tensor)] = len(self.ops)
        self.ops.append(op)
        self.tensors.append((tensor, tensor._version))

    def record(self, name: str, inputs: list[int], tensor: Tensor, **more) -> None:
        call = self.running[-1] if self.running else 0
        self.hold(Op(name, inputs, tuple(tensor.shape), call, **more), tensor)

    def enter(self, path: str, args: tuple, kwargs: dict) -> None:
        if self.running:
            self.calls[self.running[-1]].leaf = False
        inputs = self.known((args, kwargs))
        first = self.op_of.get(id(args[0])) if args else None
        self.running.append(len(self.calls))
        call = Call(path, self.times[path], len(self.ops), self.ran.copy(), inputs, first)
        self.calls.append(call)
        self.times[path] += 1

    def leave(self, what: str, out) -> None:
        call = self.calls[self.running[-1]]
        for each in tensors_in(out):
            if id(each) not in self.op_of and call.inputs:
                self.record(f"opaque {what}", call.inputs, each)  # of code that cannot be looked into
        call.outputs, call.output, call.last = self.known(out), self.op_of.get(id(out)), len(self.ops)
        self.running.pop()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args and isinstance(args[0], Tensor) else None
        version = None if target is None else target._version
        inputs, head = self.known((args, kwargs)), self.op_of.get(id(target))
        name = plain(getattr(func, "__name__", ""))
        skipped = name == "batch_norm" and target is not None and target.is_meta  # half of the time, for a known shape
        out = torch.empty_like(target) if skipped else func(*args, **kwargs)
        wrote = target is not None and target._version != version
        made = [each for each in tensors_in(out) if wrote or each is not target]
        if inputs:
            more = {"number": self.ran[name], "head": head, "writes": wrote, **self.weights(name, args, kwargs)}
            for tensor in made or [target] * wrote:
                self.record(name, inputs, tensor, **more)
            if wrote and target._base is not None and id(target._base) in self.op_of:
                self.write_through(target, name)
            if head is not None and kwargs.get("inplace"):  # a dropout writes in training only
                self.ops[head].written = True
        else:
            self.apart.update({id(each): each for each in made})
        self.ran[name] += 1
        return out

    def write_through(self, view: Tensor, name: str) -> None:
        """A function that wrote into a view has changed its base: the same function of all of it, or a part of it."""
        whole, base = view.numel() == view._base.numel(), self.op_of[id(view._base)]
        self.record(name if whole else "write", [base] if whole else [base, len(self.ops) - 1], view._base)

    def weights(self, name: str, args: tuple, kwargs: dict) -> dict:
        """What the weights of a convolution and of a norm say."""
        tensors = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, Tensor)]
        if name.startswith("conv") and tensors:
            return {"kernel": tensors[0].shape[-1]}
        if name.endswith(NORMS):
            return {"owner": next((self.owners[id(each)] for each in tensors if id(each) in self.owners), None)}
        return {}

    def finish(self) -> None:
        """End the calls that still run; see which tensors were written into after they were made."""
        for number in self.running:
            self.calls[number].last = len(self.ops)
        for op, (tensor, version) in zip(self.ops, self.tensors, strict=True):
            op.written |= tensor._version != version
