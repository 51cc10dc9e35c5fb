"""From the graph of a dry run to the stage ends: the rules, and nothing else."""

from overhaul.discovery.addresses import feature
from overhaul.discovery.flow import Graph
from overhaul.discovery.graph import dry_run


def stage_end(g, end):
    """The tensors that make the feature of the stage whose last cut op is `end`, the activation that follows, and the rule."""
    last = g.same(end)
    size, op = g.size(last), g.ops[last]
    if g.is_activation(g.ungated(last)):
        act = g.ungated(last)
        return [g.before(act)], g.ops[act].activation, "before its activation"
    if g.norms(last)[1] == "direct":
        return [last], "none", "a norm's output"
    if op.kind == "cat" and g.parts(last):
        acts = g.parts(last)
        return [g.before(a) for a in acts], g.ops[acts[0]].activation, "concatenated activations"
    ahead = [i for i in g.live if i > end and g.size(i) == size]
    for i in ahead:
        if g.is_activation(i) and g.size(g.before(i)) == size:
            return [g.before(i)], g.ops[i].activation, "the next activation at this size"
    for i in ahead:
        if g.ops[i].kind == "norm":
            return [i], "none", "the next norm at this size"
    i = last
    while g.ops[i].kind in ("conv", "norm", "alike") and g.size(g.before(i)) == size:
        i = g.before(i)
        if g.is_activation(i):
            return [g.before(i)], g.ops[i].activation, "the activation behind"
    if op.kind == "add":
        branch = g.ungated(max(op.inputs, key=g.depth.get))
        if g.is_activation(branch) and g.size(branch) == size:
            return [g.before(branch)], g.ops[branch].activation, "the last branch"
    return [last], "none", "as it is"


def find(net, image, stages=4):
    """The `stages` deepest stage ends of net for images of shape (C, H, W), shallow to deep."""
    g = Graph(dry_run(net, image))
    convs = [g.octave(i) for i in g.live if g.ops[i].kind == "conv" and i < g.last_weighted and g.octave(i) is not None]
    first = min((i for i in g.live if g.ops[i].kind == "conv"), default=0)
    ends, deepest = {}, 0
    for i in g.cuts:
        octave = g.octave(i)
        if (
            octave is not None and octave >= deepest and first <= i < g.last_weighted
        ):  # a map that grows again ends no stage
            deepest = octave
            ends[octave] = i
    ends = {o: i for o, i in ends.items() if o in convs}  # pooling alone makes no stage
    streams = [o for o in convs if ends and o not in ends and min(ends) < o < max(ends)]
    features = []
    for o in sorted({*ends, *streams}):
        if streams:  # parallel resolutions (HRNet): no op is a cut
            acts = [i for i in g.live if g.is_activation(i) and i < g.last_weighted and g.octave(g.before(i)) == o]
            found = (
                ([g.before(acts[-1])], g.ops[acts[-1]].activation, "the last activation at this size") if acts else None
            )
        else:
            found = stage_end(g, ends[o])
        if found:
            features.append((o, feature(g, *found)))
    features = features[-stages:]
    if len(features) > 3 and features[0][0] == convs[0] and convs.count(convs[0]) == 1:  # only the stem lives there
        features.pop(0)
    return [f for _, f in features]
