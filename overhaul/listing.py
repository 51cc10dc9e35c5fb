"""What there is to choose from, as plain data: the rows of SETUPS, networks and methods; without torch."""

from dataclasses import asdict, fields

from overhaul import catalogue
from overhaul.methods import usual
from overhaul.options import default_folder
from overhaul.recipe import Net, Setup
from overhaul.row_nets import (
    MOBILENET,
    MOBILENET_V3,
    PYRAMID_110,
    PYRAMID_200,
    RESNET_50,
    RESNET_50_A1,
    RESNET_56,
    WRN_28_4,
    resnet,
    wide_resnet,
)
from overhaul.setups import CIFAR_A, DIGITS, SETUPS, get, teacher_setup

PARAMETERS = {  # how many numbers each network of SETUPS learns
    str(WRN_28_4): 5_872_180,
    str(CIFAR_A.student): 2_772_020,
    str(wide_resnet(28, 2)): 1_479_220,
    str(wide_resnet(16, 2)): 703_284,
    str(RESNET_56): 861_620,
    str(PYRAMID_200): 26_844_952,
    str(PYRAMID_110): 3_913_536,
    str(resnet(152)): 60_192_808,
    str(RESNET_50): 25_557_032,
    str(MOBILENET): 4_231_976,
    str(RESNET_50_A1): 25_557_032,
    str(MOBILENET_V3): 5_483_032,
    str(DIGITS.teacher): 691_674,
    str(DIGITS.student): 77_850,
}


def setups() -> list[dict]:
    """See api.setups."""
    return [
        {
            "setup": row.name,
            "paper": row.published is not None,
            "method": row.method,
            "teacher": row.teacher and row.teacher.title,
            "student": row.student.title,
            "parameters": [PARAMETERS.get(str(net)) for net in (row.teacher, row.student) if net],
            "data": row.data,
            "epochs": row.epochs,
            "batch_size": row.batch_size,
            "published": row.published and asdict(row.published),
        }
        for row in SETUPS.values()
    ]


def setup(name: str) -> dict:
    """Every field of a row, its networks with their "parameters", and "commands": what trains it, teacher first."""
    row = get(name)
    shown = {"setup": row.name} | {each.name: getattr(row, each.name) for each in fields(Setup) if each.name != "name"}
    shown |= {role: sized(shown[role]) for role in ("student", "teacher")}
    return shown | {"published": row.published and asdict(row.published), "commands": commands(row)}


def sized(net: Net | None) -> dict | None:
    return net and {**asdict(net), "parameters": PARAMETERS.get(str(net))}


def commands(row: Setup) -> list[str]:
    """What trains a row: its teacher's command first, where there is a row for that."""
    command, teaching = f"overhaul train --setup {row.name}{own_words(row)}", teacher_setup(row)
    if row.teacher is None or row.teacher.weights:
        return [command]
    if teaching is None:
        return [f"{command} --teacher SOURCE"]
    folder = default_folder(teaching.name, teaching.method, 0)
    return [f"overhaul train --setup {teaching.name}{own_words(teaching)}", f"{command} --teacher {folder}"]


def own_words(row: Setup) -> str:
    """What a row for images of one's own has to be given."""
    return " --data_path FOLDER --student NETWORK" if row.student.is_any else ""


def models() -> list[dict]:
    """See api.models."""
    return [
        {
            "family": family,
            "arguments": {name: kind for name, kind in catalogue.arguments(family).items() if name != "num_classes"},
            "about": catalogue.about(family),
            "example": example(family),
        }
        for family in catalogue.families()
    ]


def example(family: str) -> dict | None:
    """The arguments of the first network of a family in SETUPS."""
    nets = (net for row in SETUPS.values() for net in (row.student, row.teacher) if net)
    return next((net.arguments for net in nets if net.family == family), None)


def methods(row: Setup) -> list[dict]:
    """See api.methods, but for what is learned."""
    return [method(catalogue.method(name), row) for name in catalogue.methods()]


def method(told: catalogue.Method, row: Setup) -> dict:
    """What a method says of itself, and its usual values in a row."""
    values = {"distill_weight": row.distill_weight} | usual(told.name, row.like, row.name, {})
    weights = ("label_weight", "distill_weight", "ramp_epochs", "teacher_norm")
    switches = [name for name, (kind, _) in told.settings.items() if kind is bool and name in told.defaults]
    return {
        "method": told.name,
        "about": told.about,
        "paper": told.paper,
        "compares": told.compares,
        "needs": told.needs,
        "labels": "class numbers" if told.hard_labels else "any",
        **({name: values[name] for name in weights} if told.needs else dict.fromkeys(weights)),
        "settings": {name: values[name] for name in told.settings},
        "switched": {name: told.defaults[name] for name in switches},
    }
