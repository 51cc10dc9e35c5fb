"""What of a dry run the logits depend on, and what each of its tensors is."""

import math


class Graph:
    """The live part of a trace: what the logits depend on, and its cut ops (every path from images to logits runs through them)."""

    def __init__(self, trace):
        self.ops, self.calls, self.image = trace.ops, trace.calls, trace.image
        down = set(trace.outputs)
        for i in range(len(self.ops) - 1, -1, -1):
            if i in down:
                down.update(self.ops[i].inputs)
        self.live = sorted(down)
        self.users = {i: [] for i in self.live}
        for i in self.live:
            for j in self.ops[i].inputs:
                self.users[j].append(i)
        self.join_gated_activations()
        self.cuts, reach = [], 0
        for i in self.live:
            if reach <= i:
                self.cuts.append(i)
            reach = max(reach, *self.users[i], 0)
        self.depth = {}
        for i in self.live:
            op = self.ops[i]
            self.depth[i] = max((self.depth[j] for j in op.inputs), default=0) + (
                1 + op.kernel / 100 if op.kind in ("conv", "linear") else 0
            )
        weighted = [i for i in self.live if self.ops[i].kind in ("conv", "linear")]
        self.last_weighted = len(self.ops) if len(self.ops[trace.outputs[0]].shape) == 4 else max(weighted, default=0)

    def join_gated_activations(self):
        """x * f(x) with f elementwise is one activation of x: a swish or h-swish written by hand."""
        for i in self.live:
            op = self.ops[i]
            if op.name not in ("mul", "div") or len(op.inputs) != 2:
                continue
            for x, g in (op.inputs, op.inputs[::-1]):
                chain = []
                while (
                    g != x
                    and len(self.ops[g].inputs) == 1
                    and self.ops[g].shape == op.shape
                    and self.ops[g].kind in ("activation", "alike", "other")
                ):
                    chain.append(self.ops[g])
                    g = chain[-1].inputs[0]
                if g == x and any(c.activation or "sigmoid" in c.name for c in chain):
                    op.kind, op.activation, op.inputs = (
                        "activation",
                        "hardswish" if any(c.activation for c in chain) else "silu",
                        [x, *(j for j in op.inputs if j != x)],
                    )
                    for c in chain:
                        c.kind, c.activation = "other", ""
                    break

    def size(self, i):
        s = self.ops[i].shape
        square = len(s) == 4 and s[2] * s[3] > 1 and s[2] <= self.image[0]
        return (
            tuple(s[2:])
            if square and (s[2] * s[3] <= 16 or abs(s[2] * self.image[1] / (s[3] * self.image[0]) - 1) < 0.26)
            else None
        )

    def octave(self, i):
        """log2 of the stride, rounded: 0, 1, 2 ...; None for what is no map."""
        return None if self.size(i) is None else round(math.log2(self.image[0] / self.size(i)[0]))

    def is_activation(self, i):
        return self.ops[i].kind == "activation"

    def before(self, i):
        return self.ops[i].inputs[0]

    def same(self, i):
        """Back through what passes a map on unchanged."""
        while (
            self.ops[i].kind == "alike"
            and len(self.ops[i].inputs) == 1
            and (self.size(i) == self.size(self.before(i)) or self.ops[i].name == "pad")
        ):
            i = self.before(i)
        return i

    def ungated(self, i):
        """... and through channel gates: a map times one number a channel (squeeze-and-excitation)."""
        while True:
            i = self.same(i)
            gates = [j for j in self.ops[i].inputs if self.is_gate(j)]
            maps = [j for j in self.ops[i].inputs if self.ops[j].shape == self.ops[i].shape and j not in gates]
            if self.ops[i].kind != "mul" or not gates or len(maps) != 1:
                return i
            i = maps[0]

    def is_gate(self, j):
        if self.ops[j].name in ("expand", "expand_as"):
            j = min(self.ops[j].inputs, key=lambda k: math.prod(self.ops[k].shape))
        return len(self.ops[j].shape) == 4 and self.ops[j].shape[2:] == (1, 1)

    def parts(self, i):
        """The activations that tensor i is a (nested) concatenation of, or None."""
        i = self.same(i)
        if self.is_activation(i):
            return [i]
        found = [self.parts(j) for j in self.ops[i].inputs] if self.ops[i].kind == "cat" else [None]
        return None if None in found else [p for f in found for p in f]

    def norms(self, i, hops=12):
        """(module names, how): the norm whose output tensor i is, or contains."""
        i = self.same(i)
        op = self.ops[i]
        if op.kind == "norm":
            return (self.calls[op.call].path,), "direct"
        if op.kind == "add" and hops:
            found = {j: n for j in op.inputs if (n := self.norms(j, hops - 1))[0]}
            names, how = found[max(found, key=self.depth.get)] if found else ((), "none")
            return names, how if how in ("gated", "none") else "sum" if len(found) == 1 else "sums"
        if op.kind == "mul" and hops:
            names = [n for j in op.inputs if self.ops[j].shape == op.shape and (n := self.norms(j, hops - 1)[0])]
            return (names[0], "gated") if names else ((), "none")
        if op.name in ("permute", "transpose", "view", "reshape") and hops:
            return self.norms(self.before(i), hops - 1)
        return (), "none"
