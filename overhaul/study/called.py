"""A study that is described in Python: a list is several values, and dicts have one a name."""

from typing import Any

from overhaul import methods
from overhaul.recipe import BY_METHOD
from overhaul.study.grid import TAKEN, Axes, Cell, cells
from overhaul.system.messages import UserError


def axes_of(settings: dict[str, Any]) -> Axes:
    """The axes of arguments of api.study."""
    axes = {}
    for name, value in settings.items():
        if name in TAKEN:
            raise UserError(f"study has no setting {name}: it is the study's own, or cannot be shared by its runs")
        if name == "method_settings":
            axes |= {f"method.{key}": listed(each) for key, each in methods.flat(value).items()}
        elif name in BY_METHOD and isinstance(value, dict):
            axes |= {f"{name}.{key}": listed(each) for key, each in value.items()}
        else:
            axes[name] = listed(value)
    return axes


def listed(value: object) -> list:
    return list(value) if isinstance(value, list) else [value]


def requests(axes: Axes) -> list[tuple[str, dict]]:
    """The label and the arguments of api.train of each run."""
    return [(cell.label, arguments(cell)) for cell in cells(axes)]


def arguments(cell: Cell) -> dict:
    found = {}
    for name, value in cell.values.items():
        head, _, rest = name.partition(".")
        head = "method_settings" if head == "method" and rest else head
        found[head] = {**found.get(head, {}), rest: value} if rest else value
    return found
