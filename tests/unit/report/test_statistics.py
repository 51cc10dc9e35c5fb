"""Statistics against values computed by hand, and numbers shown at the borders of rounding."""

from statistics import fmean, stdev

import pytest
from scipy import stats

from overhaul.report.statistics import Difference, Statistics, error, gain, interval


def test_mean_spread_median_and_interval_are_those_of_the_textbook():
    found = Statistics.of([24.0, 25.0, 26.5])
    assert (found.n, found.mean, found.median) == (3, pytest.approx(25.1666667), 25.0)
    assert found.sd == pytest.approx(1.2583057)  # (1.1667^2 + 0.1667^2 + 1.3333^2) / 2, the root
    half = 4.3026527 * 1.2583057 / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert (found.low, found.high) == (pytest.approx(25.1666667 - half), pytest.approx(25.1666667 + half))


def test_the_median_of_an_even_number_is_between_the_middle_two():
    assert Statistics.of([1.0, 9.0, 2.0, 4.0]).median == 3.0


def test_one_run_has_no_interval_and_none_no_statistics():
    found = Statistics.of([24.0])
    assert (found.mean, found.median, found.sd, found.low, found.high) == (24.0, 24.0, None, None, None)
    assert Statistics.of([]) is None


def test_runs_that_agree_have_an_interval_of_no_width():
    found = Statistics.of([24.0, 24.0])
    assert (found.sd, found.low, found.high) == (0.0, 24.0, 24.0)


def test_a_gain_is_paired_over_the_seeds_of_both():
    """The seeds that one side alone has do not count; the spread between seeds cancels."""
    alone, mine = {0: 30.0, 1: 40.0, 2: 50.0, 7: 99.0}, {2: 48.5, 0: 29.0, 1: 38.0, 9: 1.0}
    found = Difference.of(mine, alone)
    assert found.gain == pytest.approx(1.5) and found.seeds == (0, 1, 2) and found.how == "paired, 3 seeds"
    expected = stats.ttest_rel([30.0, 40.0, 50.0], [29.0, 38.0, 48.5]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_gain_of_other_seeds_is_welchs():
    alone, mine = {0: 30.0, 1: 32.0, 2: 31.0}, {5: 27.0, 6: 28.0}
    found = Difference.of(mine, alone)
    a, b = [30.0, 32.0, 31.0], [27.0, 28.0]
    parts = [stdev(each) ** 2 / len(each) for each in (a, b)]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1)
    half = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert found.gain == pytest.approx(fmean(a) - fmean(b)) and found.seeds == ()
    assert (found.low, found.high) == pytest.approx((found.gain - half, found.gain + half))


@pytest.mark.parametrize(
    "mine, alone, gain, how",
    [
        ({0: 20.0}, {0: 25.0}, 5.0, "1 pair"),
        ({0: 20.0}, {0: 25.0, 1: 35.0}, 5.0, "1 pair"),
        ({3: 20.0}, {0: 25.0, 1: 35.0}, 10.0, "unpaired, n = 1"),
    ],
)
def test_a_gain_of_one_run_has_no_interval(mine, alone, gain, how):
    found = Difference.of(mine, alone)
    assert (found.gain, found.low, found.high, found.how) == (gain, None, None, how)


def test_a_gain_over_nothing_is_none():
    assert Difference.of({}, {0: 1.0}) is Difference.of({0: 1.0}, {}) is None


def test_a_gain_without_any_spread_has_an_interval_of_no_width():
    assert Difference.of({0: 1.0, 1: 1.0}, {5: 3.0, 6: 3.0}).low == 2.0


@pytest.mark.parametrize(
    "value, text",
    [(24.085, "24.09"), (24.0849, "24.08"), (0.005, "0.01"), (100 - 75.915, "24.09"), (100.0, "100.00"), (None, "-")],
)
def test_errors_are_rounded_to_the_nearest_and_halves_up(value, text):
    assert error(value) == text


@pytest.mark.parametrize(
    "value, text",
    [
        (1.005, "+1.00"),
        (1.0051, "+1.01"),
        (-1.005, "-1.01"),
        (-1.0049, "-1.00"),
        (0.005, "0.00"),
        (-0.005, "-0.01"),
        (-0.004, "0.00"),
        (75.0 - 73.995, "+1.00"),
        (None, "-"),
    ],
)
def test_gains_are_rounded_to_the_nearest_and_halves_down(value, text):
    assert gain(value) == text


@pytest.mark.parametrize(
    "low, high, text",
    [
        (1.239, 2.341, "1.23 to 2.35"),
        (-0.001, 0.001, "-0.01 to 0.01"),
        (1.23, 2.34, "1.23 to 2.34"),
        (75.53 - 74.3, 2.34, "1.23 to 2.34"),
        (None, None, "-"),
    ],
)
def test_intervals_are_never_shown_narrower_than_they_are(low, high, text):
    assert interval(low, high) == text
