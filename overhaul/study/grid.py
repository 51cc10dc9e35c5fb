"""What a study is asked for, settings with one value or several, and the runs that they multiply to."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from overhaul import methods
from overhaul.recipe import BY_METHOD, Net
from overhaul.setups import get
from overhaul.system.messages import UserError
from overhaul.usual import OF_METHOD

TAKEN = (  # settings of a run that a study has for itself, or that many runs cannot share
    "output_dir",
    "resume",
    "resume_with",
    "overwrite",
    "beside",
    "push_to_hub",
    "push_every",
    "push_private",
)
OF_DISTILLATION = ("teacher", *OF_METHOD)
MOST = 10_000  # runs

Axes = dict[str, list]


@dataclass(frozen=True)
class Cell:
    """A run of a study. label: what it is called; values: its settings, by the names of the axes."""

    label: str
    values: dict[str, Any]


def cells(axes: Axes) -> list[Cell]:
    """The runs of a study, by setup, method, the other settings and seed, the last changing fastest.

    axes: values by flat names ("lr", "method.kd.temperature"), each a list; "setup" among them. A setting of one method
    multiplies the runs of that method alone, and no setting of distillation those of original. Raises UserError for an
    unknown setup or method, and for a setting that no run has.
    """
    axes = {"method": [None], **axes, "seed": axes.get("seed", [0])}
    if any(not values for values in axes.values()):
        raise UserError(f"--{next(name for name, values in axes.items() if not values)} has no value")
    found, used = [], set()
    for setup, method in product(axes["setup"], axes["method"]):
        method = method or get(setup).method
        methods.check(method)
        inner = [name for name in axes if name not in ("setup", "method", "seed") and concerns(name, method)]
        inner.append("seed")
        used |= {*inner}
        size = 1
        for name in inner:
            size *= len(axes[name])
        if len(found) + size > MOST:
            raise UserError(f"the study has more than {MOST:,} runs; name fewer values")
        for chosen in product(*(axes[name] for name in inner)):
            values = {"setup": setup, "method": method, **dict(zip(inner, chosen, strict=True))}
            found.append(Cell("-".join(words(values, axes)), values))
    if idle := [name for name in axes if name not in (*used, "setup", "method")]:
        raise UserError(f"--{idle[0]} would change nothing: no run of this study has it; leave it out")
    return found


def concerns(name: str, method: str) -> bool:
    """Whether a setting, by its flat name, is one of the runs of a method."""
    head, _, rest = name.partition(".")
    if method == "original" and head in OF_DISTILLATION:
        return False
    if rest == "positions" and "features" not in methods.needs(method):
        return False
    if head == "method":
        owner, _, setting = rest.rpartition(".")
        return any(each in methods.having(setting) and owner in ("", each) for each in methods.parts(method))
    return not (head in BY_METHOD and rest) or rest in methods.parts(method)


def words(values: dict[str, Any], axes: Axes) -> Iterator[str]:
    """The parts of a run's name: setup, method, whatever else has several values, and the seed."""
    yield slug(values["setup"])
    yield slug(values["method"])
    for name, value in values.items():
        if name not in ("setup", "method", "seed") and len(axes[name]) > 1:
            short = name.removeprefix("method.").removeprefix(f"{values['method']}.")
            yield f"{short}{slug(value)}"
    yield f"seed{values['seed']}"


def slug(value: object) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, Net):
        value = value.weights or value.family
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("_.")[-40:] or "none"


def left_out_of_original(axes: Axes) -> list[str]:
    """The settings that runs of original do without, where the study has such runs and others."""
    if "original" not in axes.get("method", []):
        return []
    heads = dict.fromkeys(name for name in axes if name != "method" and name.split(".")[0] in OF_DISTILLATION)
    return list(heads)
