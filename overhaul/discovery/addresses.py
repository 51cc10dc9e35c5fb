"""Where a later pass finds a tensor of the dry run, and what a module name given by a person stands for."""

from overhaul.discovery.flow import Graph
from overhaul.discovery.graph import Address, Feature, dry_run
from overhaul.system.messages import UserError


def named(net, image, names):
    """Features by module name: what the module gives, before the activation it ends in. NAME#k: its call k; NAME:in, NAME:out: that very tensor."""
    g = Graph(dry_run(net, image))
    features = []
    for name in names:
        path, _, side = name.partition(":")
        path, _, nth = path.partition("#")
        calls = [c for c in g.calls if c.path == path]
        if not calls:
            close = sorted({c.path for c in g.calls if path.rpartition(".")[2] in c.path})[:5]
            raise UserError(
                f"no module {path!r} runs in this network" + (f"; did you mean {', '.join(close)}?" if close else "")
            )
        call = calls[int(nth)] if nth else calls[-1]
        t = call.inputs[0] if side == "in" else call.outputs[0]
        act = g.ungated(t)
        t = g.before(act) if not side and g.is_activation(act) else t
        if g.size(t) is None:
            raise UserError(f"{name!r} gives {g.ops[t].shape}: not a map (batch, channels, height, width)")
        follows = [g.ops[i].activation for i in g.users.get(t, []) if g.is_activation(i)]
        features.append(feature(g, [t], follows[0] if follows else "none", "named"))
    return features


def feature(g, tensors, activation, rule):
    behind = [g.norms(t) for t in tensors]
    how = behind[0][1] if len(tensors) == 1 else "direct" if all(h == "direct" for _, h in behind) else "none"
    names = tuple(n for ns, _ in behind for n in ns) if how != "none" else ()
    return Feature(
        tuple(address(g, t) for t in tensors),
        sum(g.ops[t].shape[1] for t in tensors),
        g.size(tensors[0]),
        activation,
        names,
        how,
        rule,
    )


def address(g, t):
    """The plainest way to tensor t: into an activation module, out of a module, into a module, else a function inside one."""
    acts = [i for i in g.users[t] if g.is_activation(i)]
    written = any(g.ops[i].inplace for i in g.users[t])
    for c in g.calls:
        inside = [g.ops[i] for i in acts if g.calls[g.ops[i].call] is c]
        if (
            c.inputs[:1] == [t]
            and inside
            and not any(d.path.startswith(c.path + ".") for d in g.calls)
            and len(c.outputs) == 1
            and c.outputs[0] - c.first < 8
        ):
            return Address(c.path, c.nth, "in", overwritten=written)
    outs = [c for c in g.calls if c.outputs == [t]]
    if outs:
        c = next((c for c in outs if g.ops[t].call >= 0 and c is g.calls[g.ops[t].call]), outs[0])
        return Address(c.path, c.nth, "out", overwritten=written)
    for c in g.calls:
        if c.inputs[:1] == [t]:
            return Address(c.path, c.nth, "in", overwritten=written)
    op, side = (acts[0], "in") if acts else (t, "out")
    c = g.calls[g.ops[op].call]
    return Address(
        c.path, c.nth, side, g.ops[op].name, sum(o.name == g.ops[op].name for o in g.ops[c.first : op]), written
    )
