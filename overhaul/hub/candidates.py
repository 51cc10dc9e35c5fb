"""The parts of a file that may be a network's weights: other programs wrap, prefix and rename them."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from overhaul.hub.files import states

CLASSIFIERS = (  # what others call the last layer
    *("fc", "linear", "classifier", "head", "head.fc", "last_linear", "output", "fc.0", "fc.1", "head.1"),
    *(f"classifier.{number}" for number in (6, 5, 4, 3, 2, 1, 0)),
)
PREFIXES = 6  # names within names that are looked through: _orig_mod.module.model.student. ...


class Candidate(NamedTuple):
    """A part of a file that may be a network's weights.

    entry: of the file ("" at the top); prefix: that its names have there; classifier: what its last layer is called.
    """

    entry: str
    prefix: str
    classifier: str
    state: dict[str, Tensor]

    @property
    def place(self) -> str:
        return ".".join(part for part in (self.entry, self.prefix.rstrip(".")) if part) or "the whole file"

    def is_called(self, key: str) -> bool:
        return f".{key}." in f".{self.place}."


def rank(candidate: Candidate) -> tuple:
    """Averaged weights first, a teacher's last, then by how much was taken off the names."""
    averaged = bool(re.search(r"(^|[._])(ema|swa|averaged)([._]|$)", candidate.place))
    teacher = bool(re.search(r"teacher|(^|[._])t_net([._]|$)", candidate.place))
    return not averaged, teacher, candidate.prefix.count(".")


def all_candidates(contents: object) -> Iterator[Candidate]:
    for entry, state in states(contents):
        for prefix, own in groups(state).items():
            classifier = classifier_of(own)
            if not classifier and (classifier := classifier_of(state)):  # beside what has the prefix
                own = own | {name: value for name, value in state.items() if name.startswith(f"{classifier}.")}
            yield Candidate(entry, prefix, classifier, own)


def classifier_of(state: Mapping[str, Tensor]) -> str:
    return next((name for name in CLASSIFIERS if f"{name}.weight" in state), "")


def groups(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The state's tensors under each prefix that several of their names have, without it; "": all of them."""
    found = {"": dict(state)}
    for name, value in state.items():
        parts = name.split(".")
        for depth in range(1, min(len(parts) - 1, PREFIXES) + 1):
            prefix = ".".join(parts[:depth]) + "."
            found.setdefault(prefix, {})[name.removeprefix(prefix)] = value
    return {prefix: own for prefix, own in found.items() if not prefix or len(own) > 4}
