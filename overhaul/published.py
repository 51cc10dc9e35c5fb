"""The errors that the paper reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The paper's top-1 test errors in percent, ImageNet's top-5 errors beside them, and which model they are of.

    rule: "final" (CIFAR: the median of 5 final models) or "best" (ImageNet: the best epoch).
    """

    teacher: float
    student: float
    distilled: float
    rule: str = "final"
    top5: tuple[float, float, float] | None = None

    def rows(self, beside: str = "overhaul") -> list[tuple[str, float, float | None]]:
        """Name, top-1 and top-5 error (or None) of the distilled student, the student alone and the teacher.

        beside: the method whose result they stand beside.
        """
        teacher5, student5, distilled5 = self.top5 or (None, None, None)
        return [
            (
                "distilled" if beside in ("overhaul", "original") else "distilled by overhaul",
                self.distilled,
                distilled5,
            ),
            ("student alone", self.student, student5),
            ("teacher", self.teacher, teacher5),
        ]

    @property
    def models(self) -> str:
        """Which models the errors are of."""
        return "median of 5 final models" if self.rule == "final" else "best epoch"
