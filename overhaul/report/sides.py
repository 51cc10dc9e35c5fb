"""Teacher, student alone and distilled student side by side, by what each says of the same test images."""

from dataclasses import dataclass, replace

import numpy as np

from overhaul.system.messages import UserError

BINS = 15  # of confidence, as in Guo et al., 2017
MOST = 5  # classes that are named as helped, and as hurt


@dataclass(frozen=True)
class Answers:
    """Of a network over n test images. classes: names by number; labels, named: int [n]; confidence: float [n], 0..1.

    named: the most probable class; confidence: its probability.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    named: np.ndarray
    confidence: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.named == self.labels

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * float(self.right.mean())

    def numbered_as(self, classes: tuple[str, ...]) -> "Answers":
        """With the classes in that order; UserError where they are others."""
        if classes == self.classes:
            return self
        if {*classes} != {*self.classes} or len(classes) != len({*classes}):
            raise UserError("it names other classes")
        numbers = np.array([classes.index(name) for name in self.classes])
        return replace(self, classes=classes, labels=numbers[self.labels], named=numbers[self.named])


def calibration_error(answers: Answers) -> float:
    """The expected calibration error in percent (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    The mean over the images of |accuracy - mean confidence| of their bin, of 15 bins of equal width.
    """
    place = np.minimum((answers.confidence * BINS).astype(int), BINS - 1)
    surplus = np.bincount(place, answers.confidence.astype(float) - answers.right, BINS)
    return 100 * float(np.abs(surplus).sum()) / len(place)


def agreement(one: Answers, other: Answers) -> float:
    """The share of the images, in percent, of which both name the same class, right or wrong."""
    return 100 * float((one.named == other.named).mean())


def changed_classes(alone: Answers, distilled: Answers) -> tuple[list[dict], list[dict]]:
    """The classes of which the distilled student knows most more, and most fewer, than the student alone.

    Up to five each, a {"name", "images", "alone", "distilled", "gain"}: accuracies in percent of the class's images.
    """
    images = np.bincount(alone.labels, minlength=len(alone.classes))
    right = [np.bincount(each.labels[each.right], minlength=len(images)) for each in (alone, distilled)]
    rows = [
        {
            "name": name,
            "images": int(n),
            "alone": 100 * one / n,
            "distilled": 100 * two / n,
            "gain": 100 * (two - one) / n,
        }
        for name, n, one, two in zip(alone.classes, images.tolist(), *map(np.ndarray.tolist, right), strict=True)
        if n
    ]
    order = sorted(rows, key=lambda row: -row["gain"])
    helped = [row for row in order[:MOST] if row["gain"] > 0]
    return helped, [row for row in order[::-1][:MOST] if row["gain"] < 0]


def compare(found: dict[str, Answers]) -> dict:
    """What is said of networks' answers by role: teacher, student alone, distilled; all must be of the same images.

    {"images", "rows": [{"role", "top1", "calibration", "agreement" with the teacher or None}], "helped", "hurt",
    "classes"}; percent.
    """
    first, teacher = next(iter(found.values())), found.get("teacher")
    rows = [
        {
            "role": role,
            "top1": each.top1,
            "calibration": calibration_error(each),
            "agreement": None if teacher is None or each is teacher else agreement(teacher, each),
        }
        for role, each in found.items()
    ]
    both = {"student alone", "distilled"} <= {*found}
    helped, hurt = changed_classes(found["student alone"], found["distilled"]) if both else ([], [])
    known = {"images": len(first.labels), "classes": len(first.classes)}
    return {**known, "rows": rows, "helped": helped, "hurt": hurt, "both": both}
