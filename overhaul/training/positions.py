"""What is compared, as plain data: pairs of maps, and what a person should know of them."""

from collections.abc import Mapping
from typing import NamedTuple

from overhaul import distill, models
from overhaul.discovery import Feature
from overhaul.distill import Distiller
from overhaul.models import Backbone
from overhaul.report.tables import shape
from overhaul.system.messages import some

FAR = 4  # times that a student's map may grow before it is told


class By(NamedTuple):
    """What a method compares: numbers of the student's and the teacher's features, and what each pair weighs."""

    pairs: list[tuple[int, int]]
    weights: list[float]
    by_margin: bool


def compared(
    student: Backbone, teacher: Backbone, sizes: tuple[int, int], by: Mapping[str, Distiller] | None = None
) -> dict:
    """What the two are compared by, for images of these sides in pixels, the student's and the teacher's.

    by: methods by their names; without them, as overhaul does it. {"pairs": [{"weight", "student", "teacher"}], of
    several methods with "method" too, shallow to deep, "unpaired": {"student", "teacher": maps}, "notes"}. A map: see
    described; a student's has "resized", and a teacher's "margin": the norms that give it, "data", or "-" for none.
    """
    mine, theirs = (models.stages(each, size) for each, size in zip((student, teacher), sizes, strict=True))
    if by is None:
        usual = distill.pairs(student, teacher)
        found = {"overhaul": By(usual, distill.stage_weights(len(usual)), True)}
    else:
        found = {name: By(each.pairs, each.pair_weights, hasattr(each, "measured")) for name, each in by.items()}
        found = {name: each for name, each in found.items() if each.pairs}
    pairs = [
        {
            **({"method": name} if len(found) > 1 else {}),
            "weight": weight,
            "student": {**described(mine[i]), "resized": mine[i].size != theirs[j].size},
            "teacher": {**described(theirs[j]), "margin": margin(theirs[j]) if each.by_margin else "-"},
        }
        for name, each in found.items()
        for weight, (i, j) in zip(each.weights, each.pairs, strict=True)
    ]
    numbers = [pair for each in found.values() for pair in each.pairs]
    used, left = [sorted({*side}) for side in zip(*numbers, strict=True)], distill.unpaired(student, teacher, numbers)
    unpaired = {
        role: [described(maps[number]) for number in without]
        for role, maps, without in zip(("student", "teacher"), (mine, theirs), left, strict=True)
    }
    notes = without_partner(unpaired) + growing(pairs)
    notes += odd("the teacher's ", [theirs[j] for j in used[1]], any(each.by_margin for each in found.values()))
    notes += odd("the student's ", [mine[i] for i in used[0]], teaches=False)
    return {"pairs": pairs, "unpaired": unpaired, "notes": notes}


def alone(network: Backbone, size: int) -> dict:
    """The maps of one network: {"maps", each with "margin", "notes"}."""
    features = models.stages(network, size)
    return {"maps": [{**described(each), "margin": margin(each)} for each in features], "notes": odd("", features)}


def described(feature: Feature) -> dict:
    """A map: {"module", "stride", "channels", "height", "width", "activation": what follows it, or none}."""
    height, width = feature.size
    size = {"channels": feature.channels, "height": height, "width": width}
    return {"module": feature.name, "stride": feature.stride, **size, "activation": feature.activation}


def margin(feature: Feature) -> str:
    """Where a margin comes from."""
    return f"BatchNorm {', '.join(feature.norms)}" if feature.closed else "data"


def without_partner(unpaired: dict[str, list[dict]]) -> list[str]:
    return [
        f"without a partner: the {role}'s {', '.join(f'{at(each)} ({shape(each)})' for each in maps)}"
        for role, maps in unpaired.items()
        if maps
    ]


def growing(pairs: list[dict]) -> list[str]:
    sides = [(each["student"], each["teacher"]) for each in pairs]
    return [
        f"the student's {at(mine)} grows from {mine['height']} to {theirs['height']} pixels to be compared: are there "
        f"positions or an image size whose maps are nearer?"
        for mine, theirs in sides
        if theirs["height"] >= FAR * mine["height"]
    ]


def odd(whose: str, features: list[Feature], teaches: bool = True) -> list[str]:
    """What of some maps is not as in the paper."""
    kinds = {
        "before a smooth activation, where the margin is an approximation": teaches and (lambda each: each.is_smooth),
        "linear, as no activation follows": lambda each: each.is_linear,
        "of a single branch": lambda each: each.is_branch,
    }
    found = {words: [each.name for each in features if is_so and is_so(each)] for words, is_so in kinds.items()}
    return [f"{words}: {whose}{some(names)}" for words, names in found.items() if names]


def at(each: dict) -> str:
    return f"{each['module']} at stride {each['stride']}"
