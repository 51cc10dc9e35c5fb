"""One pass of a network, written down as a graph of the functions and the modules that were called."""

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from overhaul.discovery.functions import ACTIVATIONS, NORMS, kind, plain


@dataclass
class Op:
    """One tensor that a function gave.

    inputs: the ops that went in. call: the module call it ran in, an index into Trace.calls. number: how many functions
    of this name ran before. head: the op that was the first argument. kernel: side of a convolution's kernel. owner:
    the module whose scale a norm has. written: whether something writes into the tensor later.
    """

    name: str
    inputs: list[int]
    shape: tuple[int, ...]
    call: int = 0
    number: int = 0
    head: int | None = None
    kernel: int = 0
    owner: str | None = None
    written: bool = False
    kind: str = ""
    activation: str = ""

    def __post_init__(self) -> None:
        self.kind = kind(self.name, len(self.inputs) > 1)
        self.activation = ACTIVATIONS[self.name] if self.kind == "activation" else ""


@dataclass
class Call:
    """The nth call of a module.

    first: how many ops there were when it began. before: how often each function had run. inputs, outputs: ops; input
    and output where the first argument, and what it gave, are tensors. leaf: whether it called no other module.
    """

    path: str
    nth: int
    first: int
    before: Counter
    inputs: list[int]
    input: int | None
    outputs: list[int] = field(default_factory=list)
    output: int | None = None
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
            module.register_forward_pre_hook(lambda _, *given, path=path: self.enter(path, *given), with_kwargs=True)
            module.register_forward_hook(lambda module, _, out: self.leave(type(module).__name__, out))

    def known(self, tree) -> list[int]:
        """The ops whose tensors a nest of lists, tuples and dicts holds."""
        found = (self.op_of.get(id(leaf)) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
        return list(dict.fromkeys(each for each in found if each is not None))

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
        self.running.append(len(self.calls))
        first = self.op_of.get(id(args[0])) if args else None
        call = Call(path, self.times[path], len(self.ops), self.ran.copy(), self.known((args, kwargs)), first)
        self.calls.append(call)
        self.times[path] += 1

    def leave(self, what: str, out) -> None:
        call = self.calls[self.running[-1]]
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and id(leaf) not in self.op_of and call.inputs:
                self.record(f"opaque {what}", call.inputs, leaf)  # of code that cannot be looked into
        call.outputs, call.output = self.known(out), self.op_of.get(id(out))
        self.running.pop()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        target = args[0] if args and isinstance(args[0], Tensor) else None
        version = None if target is None else target._version
        inputs, head = self.known((args, kwargs)), self.op_of.get(id(target))
        out = func(*args, **kwargs)
        name = plain(getattr(func, "__name__", ""))
        wrote = target is not None and target._version != version
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and (wrote or leaf is not target)]
        if inputs:
            more = {"number": self.ran[name], "head": head, **self.weights(name, args, kwargs)}
            for tensor in made or [target] * wrote:
                self.record(name, inputs, tensor, **more)
            if wrote and target._base is not None and id(target._base) in self.op_of:  # through a view
                self.record("write", [self.op_of[id(target._base)], len(self.ops) - 1], target._base)
            if head is not None and kwargs.get("inplace"):  # a dropout writes in training only
                self.ops[head].written = True
        self.ran[name] += 1
        return out

    def weights(self, name: str, args: tuple, kwargs: dict) -> dict:
        """What the weights of a convolution and of a norm say."""
        tensors = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, Tensor)]
        if name.startswith("conv") and tensors:
            return {"kernel": tensors[0].shape[-1]}
        if name.endswith(NORMS):
            return {"owner": next((self.owners[id(each)] for each in tensors if id(each) in self.owners), None)}
        return {}

    def finish(self) -> None:
        """See which tensors were written into after they were made."""
        for op, (tensor, version) in zip(self.ops, self.tensors, strict=True):
            op.written |= tensor._version != version
