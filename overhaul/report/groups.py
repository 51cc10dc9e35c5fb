"""Runs that differ only in the seed, as groups; which group is a distilled one's baseline, and where they differ."""

from collections import defaultdict
from dataclasses import dataclass, field

from overhaul.report.runs import Told
from overhaul.report.statistics import Difference, Statistics
from overhaul.run.configuration import MAY_CHANGE, flatten
from overhaul.system.messages import printable
from overhaul.usual import OF_METHOD

ANYHOW = ("run.seed", "run.hardware", *(f"run.{name}" for name in MAY_CHANGE))  # that runs of a group may differ in
OF_TEACHING = (  # what a baseline may differ in, beside that
    *("setup.", "method.", "settings.", "teacher.", "positions."),
    *(f"recipe.{name}." for name in OF_METHOD),
)
SHORT = {"recipe", "run", "settings"}  # parts that a label leaves out of a field's name
SHOWN = ("setup", "method")  # fields that stand in front of a label by themselves


@dataclass(eq=False)
class Group:
    """runs: in the order of their seeds, finished or not; identity: what they have in common, by flat names.

    label: tells it from the other groups. differences: of the identity what not all groups of a setup have the same.
    baseline: the group of the student alone, of the same recipe; without: why there is none.
    """

    runs: list[Told]
    identity: dict
    label: str = ""
    differences: dict = field(default_factory=dict)
    baseline: "Group | None" = None
    without: str = ""

    @property
    def setup(self) -> str:
        return self.identity["setup"]

    @property
    def method(self) -> str:
        return self.identity["method"]

    @property
    def finished(self) -> list[Told]:
        """The runs that the statistics are of."""
        return [told for told in self.runs if told.finished]

    def errors(self, which: str) -> dict[int, float]:
        """Top-1 test errors in percent of the finished runs, by seed. which: final or best."""
        return {told.seed: 100 - getattr(told, which)["test_top1"] for told in self.finished}

    @property
    def final(self) -> Statistics | None:
        return Statistics.of([*self.errors("final").values()])

    @property
    def best(self) -> Statistics | None:
        return Statistics.of([*self.errors("best").values()])

    def gain(self, which: str) -> Difference | None:
        """Over the baseline; None without one."""
        return self.baseline and Difference.of(self.errors(which), self.baseline.errors(which))


def groups(runs: list[Told], warnings: list[str] | None = None) -> list[Group]:
    """In the order of setups and, within one, of baseline before distilled; of two runs of one seed the first counts.

    warnings: gets a line for each run that is left out.
    """
    warnings = [] if warnings is None else warnings
    by_identity = defaultdict(list)
    for told in runs:
        by_identity[frozen(identity(told))].append(told)
    found = [Group(of_seeds(alike, warnings), identity(alike[0])) for alike in by_identity.values()]
    found.sort(key=lambda group: (group.setup, group.method != "original", group.method, frozen(group.identity)))
    for group in found:
        group.baseline, group.without = baseline(group, found)
    name(found)
    return found


def identity(told: Told) -> dict:
    """What runs of a group have in common, by flat names: all that a record says of it but the seed and the machine.

    Of weights it is the checksum, of data their kind, number and labels.
    """
    record, data = told.record, told.record["data"]
    teacher, started = record.get("teacher"), record["student"].get("started_from")
    settings = record.get("method_settings") or {}
    found = {
        "setup": told.setup,
        "method": told.method,
        "settings": settings if isinstance(settings, dict) else str(settings),
        "teacher": teacher and {key: teacher.get(key) for key in ("family", "kwargs", "sha256")},
        "student": {key: record["student"].get(key) for key in ("family", "kwargs")},
        "student.weights": started.get("sha256") if isinstance(started, dict) else None,
        "data": {key: data.get(key) for key in ("name", "training_images", "test_images", "test_split")},
        "data.classes": data.get("class_names"),
        "positions": positions(record),
        "recipe": record["recipe"],
        "lengths": record.get("changes_of_length") or None,
        "run": record["run"],
    }
    return {key: each for key, each in flatten(found).items() if key not in ANYHOW}


def positions(record: dict) -> list | None:
    """Which maps were compared; None where none were, or the record does not say."""
    pairs = record.get("positions")
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        return None
    sides = ([pair.get(role) for role in ("student", "teacher")] for pair in pairs)
    return [[side.get("module") for side in both if isinstance(side, dict)] for both in sides]


def frozen(found: dict) -> str:
    return repr(sorted(found.items(), key=lambda entry: entry[0]))


def of_seeds(runs: list[Told], warnings: list[str]) -> list[Told]:
    """A run a seed: a finished one if there is one, else the longest; the first of equals."""
    kept = {}
    for told in runs:
        other = kept.setdefault(told.seed, told)
        if other is not told:
            better, worse = (told, other) if len(told.metrics) > len(other.metrics) else (other, told)
            kept[told.seed] = better
            warnings.append(f"{worse.name} is left out: {better.name} is a run of the same recipe and seed {told.seed}")
    return [kept[seed] for seed in sorted(kept)]


def of_the_student(found: dict) -> dict:
    """What of an identity a baseline must have the same."""
    return {key: each for key, each in found.items() if not f"{key}.".startswith(OF_TEACHING)}


def baseline(group: Group, others: list[Group]) -> tuple[Group | None, str]:
    """The group of the student alone with the same recipe, of the same setup if there are several; or why none."""
    if group.method == "original":
        return None, ""
    mine = of_the_student(group.identity)
    alone = [other for other in others if other.method == "original"]
    same = [other for other in alone if of_the_student(other.identity) == mine]
    same = [other for other in same if other.setup == group.setup] or same
    same = [other for other in same if other.finished] or same
    if len(same) == 1:
        return same[0], "" if same[0].finished else "the run of original has not finished"
    if same:
        return None, f"{len(same)} groups of original have the same recipe"
    near = [other for other in alone if other.setup == group.setup]
    apart = [differing(mine, of_the_student(other.identity)) for other in near]
    nearest = min(apart, key=len, default=None)
    return None, "no run of original" + (f" with the same {', '.join(map(short, nearest[:3]))}" if nearest else "")


def differing(one: dict, other: dict) -> list[str]:
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def short(key: str) -> str:
    head, _, rest = key.partition(".")
    return rest if rest and head in SHORT else key


def name(found: list[Group]) -> None:
    """Label the groups: setup, method, and as much as tells those of the same two apart."""
    for group in found:
        of_setup = [other for other in found if other.setup == group.setup]
        alike = [other for other in of_setup if other.method == group.method]
        group.differences = {key: group.identity.get(key) for key in apart(of_setup) if key not in SHOWN}
        words = [f"{short(key)}={value(group, key)}" for key in telling(alike)]
        group.label = printable(" ".join([group.setup[:40], group.method[:40], *words]))
    for label in {group.label for group in found}:
        same = [group for group in found if group.label == label]
        for number, group in enumerate(same, 1) if len(same) > 1 else ():
            group.label += f" ({number})"


def apart(found: list[Group]) -> list[str]:
    """The fields that the groups do not all have the same."""
    keys = dict.fromkeys(key for group in found for key in group.identity)
    return [key for key in keys if len({repr(group.identity.get(key)) for group in found}) > 1]


def telling(found: list[Group]) -> list[str]:
    """As few of them, from the first, as tell the groups apart."""
    keys, told = [], 1
    for key in apart(found):
        count = len({repr([group.identity.get(each) for each in (*keys, key)]) for group in found})
        if count > told:
            keys, told = [*keys, key], count
    return keys


def value(group: Group, key: str) -> str:
    """As a label says it, short."""
    found = group.identity.get(key)
    if key == "teacher.sha256" and found:
        found = (group.runs[0].record.get("teacher") or {}).get("source") or found
    text = f"{found:g}" if isinstance(found, float) else printable(str(found))
    return text if len(text) <= 24 else f"{text[:21]}..."
