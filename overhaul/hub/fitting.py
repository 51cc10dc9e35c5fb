"""Which of the weights in a file are those of a net, and under which names: other programs wrap and rename them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from overhaul import models
from overhaul.hub.candidates import PREFIXES, Candidate, all_candidates, rank
from overhaul.hub.entries import CLASSES, library_of
from overhaul.hub.files import described
from overhaul.hub.renaming import converted
from overhaul.recipe import Net
from overhaul.system.messages import UserError, some

TRANSFORMERS = re.compile(r"(^|\.)(embedder|encoder)\.(embedder|stages|layers?|blocks)\.")
ELSE = (  # what is said of weights that none of our families has
    "weights of another network are named with it: timm:NAME, torchvision:NAME or FILE.py:FUNCTION as --student, "
    "--teacher (the file then as --student.weights, --teacher.weights) or --net"
)
READ = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what floating weights may be stored as
COUNTERS = "num_batches_tracked"  # of BatchNorm's steps, which checkpoints older than PyTorch 0.4.1 lack


@dataclass(frozen=True)
class Expected:
    """What a net's weights must be; a net without num_classes takes any number of classes."""

    net: Net

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        return models.tensors(replace(self.net, kwargs={"num_classes": 1, **self.net.kwargs}))

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        return {name: list(value.shape) for name, value in self.tensors.items()}

    @cached_property
    def classifier(self) -> str:
        return models.classifier(self.net)

    @property
    def first(self) -> str:
        """The name by which the network is looked for."""
        return next(iter(self.shapes))

    def net_of(self, state: Mapping[str, Tensor]) -> Net:
        """The net, with the number of classes that a state has."""
        last = state.get(f"{self.classifier}.weight")
        classes = len(last) if last is not None and last.ndim else 1
        return replace(self.net, kwargs={**self.net.kwargs, "num_classes": self.net.kwargs.get("num_classes", classes)})

    def shapes_of(self, net: Net) -> dict[str, list[int]]:
        """The shapes for as many classes as a net has."""
        classes = net.kwargs["num_classes"]
        if classes == self.net.kwargs.get("num_classes", 1) or classes > models.LARGEST["num_classes"]:
            return self.shapes
        return Expected(net).shapes

    def faults(self, state: Mapping[str, Tensor]) -> list[str]:
        """What keeps a state from being the net's: "3 missing (conv1.weight, ...)", ..."""
        shapes = self.shapes_of(self.net_of(state))
        missing = [name for name in shapes if name not in state and not name.endswith(COUNTERS)]
        unexpected = [name for name in state if name not in shapes]
        both = [name for name in shapes if name in state]
        real = [name for name in both if self.tensors[name].is_floating_point()]
        strange = {name: str(state[name].dtype)[6:] for name in real if state[name].dtype not in READ}
        wrong = [name for name in both if list(state[name].shape) != shapes[name] and name not in strange]
        misshapen = [f"{name} {list(state[name].shape)} instead of {shapes[name]}" for name in wrong]
        odd = [name for name in real if name not in (*strange, *wrong) and not state[name].isfinite().all()]
        kinds = (
            ("not of fp16, bf16, fp32 or fp64", [" ".join(each) for each in strange.items()]),
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
            ("not finite numbers", odd),
        )
        return [f"{len(names)} {kind} ({some(names, 3)})" for kind, names in kinds if names]


class Found(NamedTuple):
    """Weights that fit: their net, their state under its names, and what a person should be told of the choice."""

    net: Net
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def find(source: str, contents: object, net: Net | None, usual: Net | None, key: str | None) -> Found:
    """The weights in a file's contents.

    net: what they must be (without num_classes: of any number); usual: what they probably are; without either they are
    recognised. key: the entry or the prefix that they lie under, where several fit. Averaged weights come before plain
    ones, a student's before a teacher's. Raises UserError where none fit, with what the file holds.
    """
    candidates = sorted(all_candidates(contents), key=rank)
    if not candidates:
        raise UserError(f"{source} holds no weights, but {described(contents)}")
    if key is not None:
        called = [each for each in candidates if each.is_called(key)]
        if not called:
            raise UserError(f"{source} holds no weights under {key!r}, but {described(contents)}")
        candidates = called
    for expected in (each for each in (net, usual) if each and models.is_complete(each)):
        wanted = Expected(expected)
        if fitting := list(fits(candidates, wanted)) or list(fits_as_library(candidates, wanted)):
            return chosen(source, fitting)
    recognised = list(recognise(candidates))
    if alike := [each for each in recognised if net is None or same(net, each.net)]:
        return chosen(source, alike)
    raise UserError(refusal(source, contents, candidates, net or usual, recognised))


def renamed(candidate: Candidate, classifier: str) -> dict[str, Tensor]:
    """The candidate's state, its last layer called `classifier`."""
    own = candidate.classifier
    if not own or own == classifier or f"{classifier}.weight" in candidate.state:
        return candidate.state
    return {re.sub(rf"^{own}\.", f"{classifier}.", name): value for name, value in candidate.state.items()}


class Fit(NamedTuple):
    """A candidate that is a net's, its state under the net's names."""

    candidate: Candidate
    net: Net
    classifier: str


def fits(candidates: list[Candidate], expected: Expected) -> Iterator[Fit]:
    for each in candidates:
        state = renamed(each, expected.classifier)
        if expected.first in state and not expected.faults(state):
            whole = f"{expected.classifier}.weight" in each.state
            yield Fit(
                each._replace(state=state, classifier="" if whole else each.classifier),
                expected.net_of(state),
                expected.classifier,
            )


def fits_as_library(candidates: list[Candidate], expected: Expected) -> Iterator[Fit]:
    """Of a network of timm or torchvision: the first that fits under the names that its library has had before."""
    if library_of(expected.net.family) not in ("timm", "torchvision"):
        return
    needed = sum(not name.endswith(COUNTERS) for name in expected.shapes)
    for each in [candidate for candidate in candidates if len(candidate.state) >= needed][:PREFIXES]:
        net = expected.net_of(each.state)
        if CLASSES not in expected.net.kwargs and each.classifier:
            net = expected.net_of({f"{expected.classifier}.weight": each.state[f"{each.classifier}.weight"]})
        state = converted(net, each.state)
        if not expected.faults(state):
            yield Fit(each._replace(state=state, classifier=""), net, expected.classifier)
            return


def recognise(candidates: list[Candidate]) -> Iterator[Fit]:
    for each in candidates:
        if net := models.identify(renamed(each, "fc")):
            yield from fits([each], Expected(net))


def same(named: Net, found: Net) -> bool:
    """Whether a net is what was named, as far as it was."""
    return named.family == found.family and named.kwargs.items() <= found.kwargs.items()


def chosen(source: str, fitting: list[Fit]) -> Found:
    """The first of those that fit, and what is told of the choice."""
    (candidate, net, classifier), *others = fitting
    notes = []
    if others:
        places = ", ".join(each.candidate.place for each in others)
        notes.append(
            f"{source}: the weights under {candidate.place} are taken; {places} would fit too, and can be named "
            f"(--key, in training --teacher.key or --student.key)"
        )
    elif candidate.prefix:
        notes.append(f"{source}: the weights under {candidate.place} are taken, without {candidate.prefix} in names")
    if candidate.classifier and candidate.classifier != classifier:
        notes.append(f"{source}: its last layer is called {candidate.classifier}, ours {classifier}")
    return Found(net, candidate.state, tuple(notes))


def refusal(source: str, contents: object, candidates: list[Candidate], net: Net | None, recognised: list[Fit]) -> str:
    """Why no weights in a file can be taken."""
    holds = f"it holds {described(contents)}"
    most = max(candidates, key=lambda each: len(each.state))
    if net and not models.is_complete(net):
        found = recognised[0].net if recognised else "nothing that fits one of our families"
        return f"{source} holds {found}, not {net}; {holds}"
    net = net or models.identify(renamed(most, "fc"))
    if net is None:
        theirs = "; its names are those of transformers" if any(map(TRANSFORMERS.search, most.state)) else ""
        return f"{source} has no weights that fit one of our families{theirs}; {holds}; {ELSE}"
    expected = Expected(net)
    near = max(candidates, key=lambda each: len(renamed(each, expected.classifier).keys() & expected.shapes.keys()))
    state = renamed(near, expected.classifier)
    looks_like = next((each.net for each in recognised), None) or models.identify(state)
    faults, hint = ", ".join(expected.faults(state)), "" if looks_like or library_of(net.family) else f"; {ELSE}"
    return f"{source} does not fit {net}: {faults}; it looks like {looks_like or 'none of our families'}; {holds}{hint}"
