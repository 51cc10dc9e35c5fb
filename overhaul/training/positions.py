"""What is compared, as plain data: pairs of maps, and what a person should know of them."""

from collections.abc import Iterable

from overhaul import distill, models
from overhaul.discovery import Feature
from overhaul.models import Backbone
from overhaul.report.tables import shape
from overhaul.system.messages import some

FAR = 4  # times that a student's map may grow before it is told


def compared(student: Backbone, teacher: Backbone, sizes: tuple[int, int]) -> dict:
    """What the two are compared by, for images of these sides in pixels, the student's and the teacher's.

    {"pairs": [{"weight", "student", "teacher"}] shallow to deep, "unpaired": {"student", "teacher": maps}, "notes"}. A
    map: see described; a student's has "resized", and a teacher's "margin": the norms that give it, or "data".
    """
    mine, theirs = (models.stages(each, size) for each, size in zip((student, teacher), sizes, strict=True))
    numbers = distill.pairs(student, teacher)
    pairs = [
        {
            "weight": weight,
            "student": {**described(mine[i]), "resized": mine[i].size != theirs[j].size},
            "teacher": {**described(theirs[j]), "margin": margin(theirs[j])},
        }
        for weight, (i, j) in zip(distill.stage_weights(len(numbers)), numbers, strict=True)
    ]
    alone = dict(zip(("student", "teacher"), distill.unpaired(student, teacher), strict=True))
    unpaired = {
        "student": [described(mine[i]) for i in alone["student"]],
        "teacher": [described(theirs[j]) for j in alone["teacher"]],
    }
    used = [mine[i] for i, _ in numbers], [theirs[j] for _, j in numbers]
    notes = [*without_partner(unpaired), *growing(pairs)]
    for role, features in zip(("student", "teacher"), used, strict=True):
        notes += odd(f"the {role}'s ", features)
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


def without_partner(unpaired: dict[str, list[dict]]) -> Iterable[str]:
    for role, maps in unpaired.items():
        if maps:
            yield f"without a partner: the {role}'s {', '.join(f'{at(each)} ({shape(each)})' for each in maps)}"


def growing(pairs: list[dict]) -> Iterable[str]:
    for each in pairs:
        mine, theirs = each["student"], each["teacher"]
        if theirs["height"] >= FAR * mine["height"]:
            yield (
                f"the student's {at(mine)} grows from {mine['height']} to {theirs['height']} pixels to be compared; "
                f"name other positions, or a student and an image size whose maps are nearer"
            )


def odd(whose: str, features: list[Feature]) -> Iterable[str]:
    """What of some maps is not as in the paper."""
    kinds = (
        ("before a smooth activation, so that a teacher's margin is an approximation", lambda each: each.is_smooth),
        ("a linear map, which no activation follows", lambda each: each.is_linear),
        ("the map of a single branch", lambda each: each.is_branch),
    )
    for words, is_so in kinds:
        if found := [each for each in features if is_so(each)]:
            followed = {f" ({each.activation})" for each in found if each.is_smooth} if "smooth" in words else ()
            yield f"{whose}{some([each.name for each in found])}: {words}{', '.join(sorted(followed))}"


def at(each: dict) -> str:
    return f"{each['module']} at stride {each['stride']}"
