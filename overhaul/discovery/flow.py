"""What of a dry run the logits depend on, and what each of its tensors is."""

import math

from overhaul.discovery.trace import Op, Trace

HOPS = 12  # sums and gates that are looked through for a norm
GATES = {  # x times one of these functions of x is an activation
    **dict.fromkeys(("sigmoid", "expit"), "silu"),
    **dict.fromkeys(("relu6", "clamp", "hardtanh", "hardsigmoid"), "hardswish"),
    **dict.fromkeys(("erf", "tanh"), "gelu"),
    **dict.fromkeys(("gt", "ge", "relu"), "relu"),
    "softplus": "mish",
}


class Graph:
    """The live part of a trace.

    live: the ops that the logits (or the features) depend on, in the order of execution. users: of each, the live ops
    that it goes into. cuts: those that every path from the images to the logits runs through. depth: the layers before.
    last_weighted: the layer that gives the logits.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace, self.ops, self.calls, self.image_size = trace, trace.ops, trace.calls, trace.image_size
        self.live = self.find_live([*trace.outputs, *trace.features])
        self.users: dict[int, list[int]] = {i: [] for i in self.live}
        for i in self.live:
            for j in self.ops[i].inputs:
                self.users[j].append(i)
        for i in self.live:
            self.join_gated_activation(i)
        for i in self.live:
            self.pass_on_a_second_activation(self.ops[i])
        self.cuts = self.find_cuts()
        self.depth = self.find_depths()
        weighted = [i for i in self.live if self.ops[i].kind in ("conv", "linear")]
        gives_map = len(self.ops[trace.outputs[0]].shape) == 4
        self.last_weighted = len(self.ops) if gives_map else max(weighted, default=0)

    def find_live(self, ends: list[int]) -> list[int]:
        live = set(ends)
        for i in reversed(range(len(self.ops))):
            if i in live:
                live.update(self.ops[i].inputs)
        return sorted(live)

    def find_cuts(self) -> list[int]:
        cuts, reach = [], 0
        for i in self.live:
            if reach <= i:
                cuts.append(i)
            reach = max(reach, *self.users[i], 0)
        return cuts

    def find_depths(self) -> dict[int, float]:
        """Layers on the longest way to each op; a larger kernel counts a little more."""
        depth: dict[int, float] = {}
        for i in self.live:
            op = self.ops[i]
            own = 1 + op.kernel / 100 if op.kind in ("conv", "linear") else 0
            depth[i] = own + max((depth[j] for j in op.inputs), default=0)
        return depth

    def join_gated_activation(self, i: int) -> None:
        """x * f(x), with f a sigmoid or an activation of each number, is one activation of x: a swish by hand."""
        op = self.ops[i]
        if op.name not in ("mul", "div") or len(op.inputs) != 2:
            return
        for x, gate in (op.inputs, op.inputs[::-1]):
            x, chain = self.same(x), []
            while gate != x and self.is_elementwise(self.ops[gate], op.shape):
                chain.append(self.ops[gate])
                gate = self.before(gate)
            activation = next((GATES[each.name] for each in reversed(chain) if each.name in GATES), None)
            if gate == x and activation:
                op.kind, op.activation = "activation", activation
                op.inputs = [x, *(j for j in op.inputs if j != x)]
                self.users[x] = sorted({*self.users[x], i})
                for each in chain:
                    each.kind, each.activation = "other", ""
                return

    @staticmethod
    def is_elementwise(op: Op, shape: tuple[int, ...]) -> bool:
        return len(op.inputs) == 1 and op.shape == shape and op.kind in ("activation", "alike", "other")

    def pass_on_a_second_activation(self, op: Op) -> None:
        """What an activation gives goes through another, such as the clamp of a pooling, as it is."""
        if op.kind == "activation" and self.ops[self.same(op.inputs[0])].kind == "activation":
            op.kind, op.activation = "alike", ""

    def size(self, i: int) -> tuple[int, int] | None:
        """(height, width) of a map larger than 1 x 1; None for what is no such map of square images."""
        shape = self.ops[i].shape
        if len(shape) != 4 or shape[2] * shape[3] <= 1 or shape[2] > self.image_size:
            return None
        height, width = shape[2:]
        return (height, width) if height * width <= 16 or abs(height / width - 1) < 0.26 else None

    def octave(self, i: int) -> int | None:
        """log2 of the stride, rounded: 0, 1, 2 ...; None for what is no map."""
        size = self.size(i)
        return None if size is None else round(math.log2(self.image_size / size[0]))

    def is_activation(self, i: int) -> bool:
        return self.ops[i].kind == "activation"

    def before(self, i: int) -> int:
        return self.ops[i].inputs[0]

    def same(self, i: int) -> int:
        """The op whose tensor op i passes on, scaled at most."""
        while self.ops[i].kind == "alike" and len(self.ops[i].inputs) == 1:
            if self.size(i) != self.size(self.before(i)) and self.ops[i].name != "pad":
                break
            i = self.before(i)
        return i

    def ungated(self, i: int) -> int:
        """The same through channel gates too: a map times one number a channel (squeeze and excitation)."""
        while True:
            i = self.same(i)
            op = self.ops[i]
            gates = [j for j in op.inputs if self.is_gate(j)]
            maps = [j for j in op.inputs if self.ops[j].shape == op.shape and j not in gates]
            if op.kind != "mul" or not gates or len(maps) != 1:
                return i
            i = maps[0]

    def is_gate(self, i: int) -> bool:
        if self.ops[i].name in ("expand", "expand_as"):
            i = min(self.ops[i].inputs, key=lambda j: math.prod(self.ops[j].shape))
        return len(self.ops[i].shape) == 4 and self.ops[i].shape[2:] == (1, 1)

    def parts(self, i: int) -> list[int] | None:
        """The activations that tensor i is a concatenation of, nested or not; None for anything else."""
        i = self.same(i)
        if self.is_activation(i):
            return [i]
        found = [self.parts(j) for j in self.ops[i].inputs] if self.ops[i].kind == "cat" else [None]
        return None if None in found else [part for each in found for part in each]

    def follows(self, i: int) -> str:
        """The activation that tensor i goes into next, or none."""
        for user in self.users[i]:
            if self.is_activation(user):
                return self.ops[user].activation
        through = [user for user in self.users[i] if self.ungated(user) == self.ungated(i)]
        return next((found for user in through if (found := self.follows(user)) != "none"), "none")

    def norms(self, i: int, hops: int = HOPS) -> tuple[tuple[str, ...], str]:
        """The modules of the norms behind tensor i, and how they stand there.

        direct: it is what the norm gives; sum: one of the summands is; sums: several are, and the deepest is named;
        gated: a factor is; none.
        """
        i = self.same(i)
        op = self.ops[i]
        if op.kind == "norm":
            return (self.calls[op.call].path if op.owner is None else op.owner,), "direct"
        if not hops:
            return (), "none"
        if op.kind == "add":
            found = {j: each for j in op.inputs if (each := self.norms(j, hops - 1))[0]}
            names, how = found[max(found, key=self.depth.__getitem__)] if found else ((), "none")
            return names, how if how in ("gated", "none") else "sum" if len(found) == 1 else "sums"
        if op.kind == "mul":
            found = [self.norms(j, hops - 1)[0] for j in op.inputs if self.ops[j].shape == op.shape]
            return next(((names, "gated") for names in found if names), ((), "none"))
        if op.name in ("permute", "transpose", "view", "reshape"):
            return self.norms(self.before(i), hops - 1)
        return (), "none"
