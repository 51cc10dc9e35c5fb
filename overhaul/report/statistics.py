"""Statistics over the seeds, and how their numbers are shown: never rounded in our favour."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from statistics import fmean, median, stdev

CONFIDENCE = 0.95
PLACES = Decimal("0.01")
ROUNDING = (
    "Errors are in percent, gains in points, to the nearest hundredth: halves are rounded against the methods (errors "
    "up, gains down) and the ends of intervals outwards; JSON and CSV hold the numbers unrounded."
)


@dataclass(frozen=True)
class Statistics:
    """Of n values. sd: of the sample; low, high: the 95 % interval of the mean by Student's t; None where n is 1."""

    n: int
    mean: float
    median: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistics | None":
        """None without values."""
        if not values:
            return None
        n, mean = len(values), fmean(values)
        if n == 1:
            return cls(n, mean, median(values))
        sd = stdev(values)
        half = t(n - 1) * sd / n**0.5
        return cls(n, mean, median(values), sd, mean - half, mean + half)


@dataclass(frozen=True)
class Difference:
    """How much lower the errors of one group are than those of another: the gain, in points.

    seeds: those that it is over, if it is paired; low, high: its 95 % interval, None where there is none.
    """

    gain: float
    low: float | None = None
    high: float | None = None
    seeds: tuple[int, ...] = ()
    how: str = ""

    @classmethod
    def of(cls, mine: dict[int, float], alone: dict[int, float]) -> "Difference | None":
        """From errors by seed; None where one side has none.

        Over the seeds that both have, if they are at least two, or all of one side: paired, by Student's t of the
        differences. Otherwise of the means, by Welch's t where both sides have at least two runs.
        """
        if not mine or not alone:
            return None
        shared = tuple(sorted(mine.keys() & alone.keys()))
        if len(shared) > 1:
            found = Statistics.of([alone[seed] - mine[seed] for seed in shared])
            return cls(found.mean, found.low, found.high, shared, f"paired, {len(shared)} seeds")
        if shared and min(len(mine), len(alone)) == 1:
            return cls(alone[shared[0]] - mine[shared[0]], seeds=shared, how="1 pair")
        gain = fmean(alone.values()) - fmean(mine.values())
        if min(len(mine), len(alone)) < 2:
            return cls(gain, how="unpaired, n = 1")
        return cls(gain, *welch([*alone.values()], [*mine.values()]), how="unpaired (Welch)")


def welch(larger: list[float], smaller: list[float]) -> tuple[float, float]:
    """The 95 % interval of the difference of two means, whose variances may differ."""
    if not stdev(larger) and not stdev(smaller):  # whose degrees of freedom are 0 / 0
        return (fmean(larger) - fmean(smaller),) * 2
    from scipy import stats

    return tuple(
        map(float, stats.ttest_ind(larger, smaller, equal_var=False).confidence_interval(confidence_level=CONFIDENCE))
    )


def t(degrees: int) -> float:
    """How many standard errors the interval reaches to each side."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def shown(value: float | None, rounding: str) -> str:
    """Two decimals, or "-". Of the bits beyond 1e-9, which subtractions from 100 leave, none decides."""
    if value is None:
        return "-"
    rounded = Decimal(repr(round(value, 9))).quantize(PLACES, rounding)
    return f"{rounded + 0:.2f}".replace("-0.00", "0.00")


def error(value: float | None) -> str:
    """An error or a spread: halves up."""
    return shown(value, ROUND_HALF_UP)


def gain(value: float | None) -> str:
    """A gain with its sign: halves down, below zero too."""
    down = ROUND_HALF_DOWN if value is None or value >= 0 else ROUND_HALF_UP  # Decimal's are by magnitude
    text = shown(value, down)
    return f"+{text}" if value is not None and not text.startswith("-") and text != "0.00" else text


def interval(low: float | None, high: float | None) -> str:
    """Its ends outwards."""
    return "-" if low is None else f"{shown(low, ROUND_FLOOR)} to {shown(high, ROUND_CEILING)}"
