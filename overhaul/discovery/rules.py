"""From a dry run to the maps that are compared: where a stage ends, and what names stand for."""

from typing import NamedTuple

from torch import nn

from overhaul.discovery.addresses import Embedding, Feature, calls, embedding, feature, tensor_of, text
from overhaul.discovery.flow import Graph
from overhaul.discovery.passes import dry_run
from overhaul.system.messages import UserError

MOST = 4  # stages that are compared: the deepest


class End(NamedTuple):
    """The tensors that make a stage's map, the activation that follows, the rule that took them; see Feature."""

    tensors: list[int]
    activation: str
    rule: str
    is_branch: bool = False
    name: str = ""


class Found(NamedTuple):
    """The maps of a network, shallow to deep, and what its classifier gets; None where no layer gives the logits."""

    features: list[Feature]
    embedding: Embedding | None


def find(network: nn.Module, image_size: int, names: tuple[str, ...] | None = None) -> Found:
    """What a dry run tells of a network for images of image_size x image_size.

    names: of the maps, see recipe.Net.positions; without them those that end a stage are found. UserError for names
    that no module has, or that stand for no map.
    """
    graph = Graph(dry_run(network, image_size))
    features = [named(graph, each) for each in names] if names else stage_ends(graph)
    return Found(features, embedding(graph, graph.last_weighted) if gives_logits(graph) else None)


def gives_logits(graph: Graph) -> bool:
    """Whether the last layer has a channel for each logit; that of prototypes, whose distances are taken, has not."""
    last = graph.last_weighted
    if not 0 < last < len(graph.ops):
        return False
    channels = 1 if graph.ops[last].kind == "conv" else -1
    return graph.ops[last].shape[channels] == graph.ops[graph.trace.outputs[0]].shape[-1]


def stage_ends(graph: Graph) -> list[Feature]:
    """The deepest ends of stages, shallow to deep; none of an MLP."""
    convolved = convolutions(graph)
    cuts = last_cuts(graph, convolved)
    streams = [octave for octave in convolved if cuts and min(cuts) < octave < max(cuts) and octave not in cuts]
    found = {}
    for octave in sorted({*cuts, *streams}):
        end = last_activation(graph, octave) if streams else stage_end(graph, cuts[octave])
        if end:
            found[octave] = feature(graph, *end)
    octaves = sorted(found)[-MOST:]
    stem = convolved[0] if convolved else None
    if len(octaves) == MOST and octaves[0] == stem and convolved.count(stem) == 1:
        octaves.pop(0)
    return [found[octave] for octave in octaves]


def convolutions(graph: Graph) -> list[int]:
    """The octave of each convolution's map, the layer that gives the logits apart."""
    maps = [i for i in graph.live if graph.ops[i].kind == "conv" and i < graph.last_weighted]
    return [octave for i in maps if (octave := graph.octave(i)) is not None]


def last_cuts(graph: Graph, convolved: list[int]) -> dict[int, int]:
    """The last cut op of each octave, from the first convolution to the layer that gives the logits.

    A map that grows again ends no stage, and pooling alone makes none.
    """
    first = min((i for i in graph.live if graph.ops[i].kind == "conv"), default=0)
    cuts, deepest = {}, 0
    for i in graph.cuts:
        octave = graph.octave(i)
        if octave is not None and octave >= deepest and first <= i < graph.last_weighted:
            deepest = octave
            cuts[octave] = i
    return {octave: i for octave, i in cuts.items() if octave in convolved}


def last_activation(graph: Graph, octave: int) -> End | None:
    """Of one of the streams of a network that runs several resolutions side by side, where no op is a cut."""
    found = [i for i in graph.live if graph.is_activation(i) and i < graph.last_weighted]
    found = [i for i in found if graph.octave(graph.before(i)) == octave]
    if not found:
        return None
    last = found[-1]
    return End([graph.before(last)], graph.ops[last].activation, "the last activation at this size", True)


def stage_end(graph: Graph, cut: int) -> End:
    """The map of the stage whose last cut op is `cut`."""
    last = graph.same(cut)
    activation = graph.ungated(last)
    if graph.is_activation(activation):
        return before(graph, activation, "before its activation")
    if graph.norms(last)[1] == "direct":
        return End([last], "none", "a norm's output")
    if graph.ops[last].kind == "cat" and (parts := graph.parts(last)):
        return concatenated(graph, parts, cut)
    return ahead(graph, cut, last) or backwards(graph, last) or End([last], "none", "as it is")


def before(graph: Graph, activation: int, rule: str, is_branch: bool = False) -> End:
    return End([graph.before(activation)], graph.ops[activation].activation, rule, is_branch)


def concatenated(graph: Graph, parts: list[int], cut: int) -> End:
    tensors = [graph.before(part) for part in parts]
    name = next((text(graph, call.path, call.nth) for call in graph.calls if call.output == cut and call.path), "")
    return End(tensors, graph.ops[parts[0]].activation, "concatenated activations", name=name)


def ahead(graph: Graph, cut: int, last: int) -> End | None:
    """What follows at the same size, inside the block that opens the next stage: an activation, else a norm."""
    size = graph.size(last)
    following = [i for i in graph.live if i > cut and graph.size(i) == size]
    for i in following:
        if graph.is_activation(i) and graph.size(graph.before(i)) == size:
            branch = graph.before(i) not in graph.cuts and graph.depth[graph.before(i)] > graph.depth[cut]
            return before(graph, i, "the next activation at this size", branch)
    norm = next((i for i in following if graph.ops[i].kind == "norm"), None)
    return None if norm is None else End([norm], "none", "the next norm at this size")


def backwards(graph: Graph, last: int) -> End | None:
    """The activation that a single chain leads back to, or that of a sum's deepest branch."""
    size, i = graph.size(last), last
    while graph.ops[i].kind in ("conv", "norm", "alike") and graph.size(graph.before(i)) == size:
        i = graph.before(i)
        if graph.is_activation(i):
            return before(graph, i, "the activation behind")
    op = graph.ops[last]
    if op.kind == "add":
        branch = graph.ungated(max(op.inputs, key=graph.depth.__getitem__))
        if graph.is_activation(branch) and graph.size(branch) == size:
            return before(graph, branch, "the last branch", True)
    return None


def named(graph: Graph, name: str) -> Feature:
    """The map that a name stands for; A + B is the concatenation of two."""
    tensors = []
    for part in name.split(" + "):
        found, exact = tensor_of(graph, part)
        activations = None if exact else graph.parts(graph.ungated(found))
        tensors += [graph.before(each) for each in activations] if activations else [found]
    for i in tensors:
        shape = graph.ops[i].shape
        if graph.size(i) is None and (len(shape) != 4 or shape[2:] != (1, 1)):
            raise UserError(f"position {name!r} gives {list(shape)}: no map of [batch, channels, height, width]")
    if not graph.users.keys() >= {*tensors}:
        raise UserError(f"position {name!r}: the logits do not depend on it; name another module")
    return feature(graph, tensors, graph.follows(tensors[0]), "named", name=name)


def described(network: nn.Module, image_size: int) -> list[Feature]:
    """The maps that the forward_stages of a network gives itself."""
    graph = Graph(dry_run(network, image_size, staged=True))
    return [feature(graph, [i], graph.follows(i), "its own") for i in graph.trace.features]


def uncertain(network: nn.Module, image_size: int, features: list[Feature]) -> list[str]:
    """The names of those features that are counted by calls, of which training mode has another number than eval mode.

    There the same number may stand for another map.
    """
    counted = {each.name: [at for at in each.at if at.nth or at.kth] for each in features}
    if not any(counted.values()):
        return []
    evaluated, trained = (dry_run(network, image_size, training=mode) for mode in (False, True))
    return [
        name for name, places in counted.items() if any(calls(evaluated, at) != calls(trained, at) for at in places)
    ]
