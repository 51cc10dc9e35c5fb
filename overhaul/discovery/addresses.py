"""Where a later pass finds a tensor of the dry run, and what a person calls that place."""

import math
import re
from dataclasses import dataclass

from overhaul.discovery.flow import Graph
from overhaul.discovery.functions import NEGATIVE
from overhaul.discovery.trace import Call, Trace
from overhaul.system.messages import UserError, nearest, some

ROOT = "(net)"  # what the network itself is called
NAME = re.compile(r"(?P<path>[^#: ]+)(#(?P<nth>\d+))?( (?P<function>\w+)#(?P<kth>\d+))?(:(?P<side>in|out))?")


@dataclass(frozen=True)
class Address:
    """A side (in, out) of the nth call of a module, or of the kth call of a function inside it.

    overwritten: whether something writes into the tensor later in the pass.
    """

    path: str
    nth: int
    side: str
    function: str = ""
    kth: int = 0
    overwritten: bool = False

    def __str__(self) -> str:
        function = f" {self.function}#{self.kth}" if self.function else ""
        return f"{self.path or ROOT}#{self.nth}{function}:{self.side}"


@dataclass(frozen=True)
class Feature:
    """A map that is compared.

    name: as a position is named; the same text names it again. channels, size (height, width), stride: of the map.
    activation: what follows, or none. norms: the modules of the norms behind it. behind: how they stand there, see
    Graph.norms. closed: whether they are BatchNorms whose scale and shift give the margin; otherwise it is measured.
    rule: why the map is taken. is_branch: whether it is that of one branch beside others. at: where it is picked up;
    the tensors at several addresses are concatenated.
    """

    name: str
    channels: int
    size: tuple[int, int]
    stride: int
    activation: str
    norms: tuple[str, ...]
    behind: str
    closed: bool
    rule: str
    is_branch: bool
    at: tuple[Address, ...]

    @property
    def is_linear(self) -> bool:
        """No activation follows."""
        return self.activation == "none"

    @property
    def is_smooth(self) -> bool:
        """The activation lets part of the negative side through, so that the margin is an approximation."""
        return self.activation in NEGATIVE


@dataclass(frozen=True)
class Embedding:
    """What the layer that gives the logits gets.

    name: of its place, for people. at: where it is picked up. width: its channels. positions: the dimensions of it, the
    batch being 0, over which it is averaged to [batch, channels].
    """

    name: str
    at: tuple[Address]
    width: int
    positions: tuple[int, ...]


def feature(
    graph: Graph, tensors: list[int], activation: str, rule: str, is_branch: bool = False, name: str = ""
) -> Feature:
    """What is known of the map that the tensors make, concatenated where they are several."""
    found = [graph.norms(i) for i in tensors]
    together = len(tensors) == 1 or all(how == "direct" for _, how in found)
    behind = found[0][1] if together else "none"
    norms = tuple(each for names, _ in found for each in names) if together else ()
    at = tuple(address(graph, i) for i in tensors)
    size = graph.ops[tensors[0]].shape[2:]
    return Feature(
        name or " + ".join(address_text(graph, each) for each in at),
        sum(graph.ops[i].shape[1] for i in tensors),
        size,
        2 ** round(math.log2(graph.image_size / size[0])),
        activation,
        norms,
        behind,
        bool(norms) and behind in ("direct", "sum") and graph.trace.affine.issuperset(norms),
        rule,
        is_branch,
        at,
    )


def address(graph: Graph, i: int) -> Address:
    """The plainest way to op i's tensor: into an activation's module, out of a module, into one, else a function.

    Modules that are called once come first, as nobody need count.
    """
    ops, calls, times = graph.ops, graph.calls, graph.trace.times
    written = ops[i].written
    activations = {ops[user].call for user in graph.users[i] if graph.is_activation(user)}
    into = [call for call in calls if call.input == i]
    acting = next((call for call in into if call.leaf and any(calls[each] is call for each in activations)), None)
    out_of = sorted((call for call in calls if call.output == i), key=lambda call: call is not calls[ops[i].call])
    giving = min(out_of, key=lambda call: times[call.path] > 1, default=None)
    if acting and not (giving and times[giving.path] == 1 < times[acting.path]):
        return Address(acting.path, acting.nth, "in", overwritten=written)
    if giving:
        return Address(giving.path, giving.nth, "out", overwritten=written)
    if into:
        return Address(into[0].path, into[0].nth, "in", overwritten=written)
    readers = [user for user in graph.users[i] if ops[user].head == i]
    places = [
        *((user, "in") for user in readers if not ops[user].writes),
        (i, "out"),
        *((user, "in") for user in readers),
    ]
    op, side = next((each for each in places if not ops[each[0]].writes), places[-1])  # torch.compile hides torch.relu_
    call, name = calls[ops[op].call], ops[op].name
    return Address(call.path, call.nth, side, name, ops[op].number - call.before[name], written)


def embedding(graph: Graph, layer: int) -> Embedding:
    """Of the convolution or the linear map that op `layer` is."""
    op, i = graph.ops[layer], graph.before(layer)
    shape, call = graph.ops[i].shape, graph.calls[op.call]
    # into the layer's module: before it may be a dropout, which gives another tensor in training alone
    into = Address(call.path, call.nth, "in", overwritten=graph.ops[i].written)
    at = into if call.input == i else address(graph, i)
    channels = 1 if op.kind == "conv" else len(shape) - 1
    positions = tuple(each for each in range(1, len(shape)) if each != channels)
    return Embedding(address_text(graph, at), (at,), shape[channels], positions)


def text(graph: Graph, path: str, nth: int) -> str:
    """A module's call as a name that is taken back."""
    return f"{path or ROOT}#{nth}" if graph.trace.times[path] > 1 else path or ROOT


def address_text(graph: Graph, at: Address) -> str:
    function = f" {at.function}#{at.kth}" if at.function else ""
    return f"{text(graph, at.path, at.nth)}{function}:{at.side}"


def tensor_of(graph: Graph, name: str) -> tuple[int, bool]:
    """The op that a name stands for, and whether it is the very tensor or what a module gives.

    UserError for what no module has, and what did not run in the dry run.
    """
    match = NAME.fullmatch(name)
    if not match:
        raise UserError(f"{name!r} is no position: say NAME, NAME#2 (its third call), NAME:in or NAME:out")
    call, side = call_of(graph, name, **match.groupdict()), match["side"]
    if match["function"]:
        return function_of(graph, call, name, match), True
    found = call.inputs if side == "in" else call.outputs
    if not found:
        raise UserError(f"position {name!r}: no tensor goes {'into' if side == 'in' else 'out of'} it")
    return found[0], bool(side)


def call_of(graph: Graph, name: str, path: str, nth: str | None, **_) -> Call:
    """The named call of a module, the last where none is named."""
    paths = graph.trace.paths
    path = "" if path == ROOT else path
    if path not in paths:
        ran = sorted({call.path for call in graph.calls} - {""})
        near = [each for each in ran if path.rpartition(".")[2] in each.split(".")]
        hint = f" (there are {some(near)})" if near else nearest(path, ran)
        raise UserError(f"position {name!r}: the network has no module {path!r}{hint}")
    calls = [call for call in graph.calls if call.path == paths[path]]
    if not calls:
        raise UserError(f"position {name!r}: this module does not run in a pass over images; name another one")
    if nth and int(nth) >= len(calls):
        raise UserError(
            f"position {name!r}: calls are counted from 0, and the last one of this module is {len(calls) - 1}"
        )
    return calls[int(nth) if nth else -1]


def function_of(graph: Graph, call: Call, name: str, match: re.Match) -> int:
    number = call.before[match["function"]] + int(match["kth"])
    for i in range(call.first, call.last):
        op = graph.ops[i]
        if op.name == match["function"] and op.number == number:
            found = i if match["side"] != "in" else op.head
            if found is not None:
                return found
    raise UserError(f"position {name!r}: no such function runs there")


def calls(trace: Trace, at: Address) -> tuple[int, list[int]]:
    """How often the module of an address was called, and its function in each of these calls."""
    found = [call for call in trace.calls if call.path == at.path]
    return len(found), [sum(op.name == at.function for op in trace.ops[call.first : call.last]) for call in found]
