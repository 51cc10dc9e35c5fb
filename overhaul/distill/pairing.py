"""Which feature of a student learns from which of a teacher."""

from collections.abc import Sequence

from overhaul.models import Backbone
from overhaul.system.messages import UserError


def pairs(student: Backbone, teacher: Backbone) -> list[tuple[int, int]]:
    """Numbers of the features that are compared, the student's and the teacher's, shallow to deep.

    The deepest with the deepest and so on upwards. Where a person has named the positions of either they pair in their
    order; UserError where they are not as many as the other's.
    """
    mine, theirs = len(student.widths), len(teacher.widths)
    named = [role for role, net in (("student", student), ("teacher", teacher)) if getattr(net, "names", None)]
    if named and mine != theirs:
        flags = " and ".join(f"--{role}.positions" for role in named)
        raise UserError(
            f"named positions pair in their order: the student has {mine} and the teacher {theirs}; name as many for "
            f"both ({flags} named {'them' if len(named) == 2 else 'one side'})"
        )
    n = min(mine, theirs)
    return [(mine - n + i, theirs - n + i) for i in range(n)]


def unpaired(
    student: Backbone, teacher: Backbone, found: Sequence[tuple[int, int]] | None = None
) -> tuple[list[int], list[int]]:
    """Numbers of the student's and of the teacher's features that have no partner in pairs, or in those found."""
    sides = zip((student, teacher), zip(*(found or pairs(student, teacher)), strict=True), strict=True)
    mine, theirs = ([n for n in range(len(net.widths)) if n not in used] for net, used in sides)
    return mine, theirs


def stage_weights(n: int) -> list[float]:
    """1 / 2^(n - 1 - i) for pair i of n."""
    return [1 / 2 ** (n - 1 - i) for i in range(n)]
