"""Means, shares and slopes with their intervals, against SciPy's own."""

import math
import random
import statistics

import pytest
from scipy import stats

from ncollapse.claims.estimates import log_log_slope, mean_estimate, share_estimate, spread


def test_mean_has_the_t_interval():
    values = [0.3, 0.5, 0.45, 0.7, 0.1]
    estimate = mean_estimate(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate[:3] == pytest.approx((0.41, reference.low, reference.high), rel=1e-12)
    assert spread(values) == pytest.approx(stats.tstd(values), rel=1e-12)
    assert mean_estimate([2.0] * 5) == (2.0, 2.0, 2.0, 5)


def test_values_equal_up_to_rounding_have_deviation_0():
    values = [1.0, 1.0 - 1.1e-16, 1.0 + 2.2e-16]
    assert statistics.stdev(values) > 0
    assert spread(values) == spread([0.0, 0.0]) == 0
    # In any unit, and no more than rounding: what float32 features tell apart stays.
    assert spread([1e-30, 2e-30]) == pytest.approx(1e-30 / math.sqrt(2))
    assert spread([1.0, 1.0 + 1e-9]) == pytest.approx(1e-9 / math.sqrt(2), rel=1e-5)
    assert math.isnan(spread([1.0]))


@pytest.mark.parametrize("n", [1, 5, 12])
def test_share_has_the_exact_interval(n):
    for successes in range(n + 1):
        reference = stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
        estimate = share_estimate(successes, n)
        assert estimate == pytest.approx((successes / n, reference.low, reference.high, n), rel=1e-9)
    # Five of five seeds, in closed form: 0.025 = p^5.
    assert share_estimate(5, 5).low == pytest.approx(0.025 ** (1 / 5), rel=1e-12)


def test_slope_is_that_of_linregress():
    draws = random.Random(0)
    x = [setting for setting in (5e-5, 5e-4, 5e-3) for _ in range(5)]
    y = [3 * value**-0.4 * math.exp(0.2 * draws.gauss(0, 1)) for value in x]
    reference = stats.linregress([math.log(value) for value in x], [math.log(value) for value in y])
    half = stats.t.ppf(0.975, 13) * reference.stderr
    expected = (reference.slope, reference.slope - half, reference.slope + half, 15)
    assert log_log_slope(x, y) == pytest.approx(expected, rel=1e-10)
    assert log_log_slope([1, 10, 100], [2, 200, 20000])[:3] == pytest.approx((2, 2, 2))


def test_what_does_not_change_has_slope_zero():
    assert log_log_slope([1, 2, 4, 8, 16, 32] * 5, [0.475317189113813] * 30) == (0, 0, 0, 30)


def test_too_few_give_no_interval():
    for estimate in (mean_estimate([]), share_estimate(0, 0), log_log_slope([1, 1], [1, 2])):
        assert all(math.isnan(value) for value in estimate[:3])
    assert mean_estimate([3.0]).value == 3
    assert log_log_slope([1, 10], [1, 100]).value == pytest.approx(2)
    assert all(math.isnan(end) for end in (*mean_estimate([3.0])[1:3], *log_log_slope([1, 10], [1, 100])[1:3]))
