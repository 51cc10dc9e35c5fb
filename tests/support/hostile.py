"""A hostile input: what is laid in an empty folder, the command that meets it there, and what its one line says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """argv: the words of the command. says: a part of its line. make: lays files in the folder that it runs in.

    environment: variables that are set, or, with None, not.
    """

    name: str
    argv: tuple[str, ...]
    says: str
    make: Callable[[Path], object] = lambda folder: None
    environment: dict[str, str | None] = field(default_factory=dict)
