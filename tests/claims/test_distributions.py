"""Tails and quantiles against scipy.stats, which claims do not import for the time it takes."""

import math

import pytest
from scipy import stats

import fresh
from ncollapse.claims import distributions


@pytest.mark.parametrize("freedom", [1, 2, 11, 95])
def test_student(freedom: int) -> None:
    for t in (-3.0, 0.0, 0.7, 12.0):
        assert distributions.t_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), rel=1e-12)
    assert distributions.t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-12)
    assert distributions.t_quantile(0.975, math.inf) == pytest.approx(stats.norm.ppf(0.975), rel=1e-12)


def test_normal_and_beta() -> None:
    assert distributions.normal_tail(8.0) == pytest.approx(stats.norm.sf(8.0), rel=1e-12)
    assert distributions.beta_quantile(0.025, 9, 4) == pytest.approx(stats.beta.ppf(0.025, 9, 4), rel=1e-10)


@pytest.mark.parametrize("n", [0, 1, 12, 13])
def test_binomial(n: int) -> None:
    for right in range(n + 1):
        expected = stats.binomtest(right, n, 1 / 24, alternative="greater").pvalue if n else 1.0
        assert distributions.binomial_tail(right, n, 1 / 24) == pytest.approx(expected, rel=1e-12)
        expected = stats.binomtest(right, n, 0.5).pvalue if n else 1.0
        assert distributions.sign_test(right, n) == pytest.approx(expected, rel=1e-12)


def test_a_page_is_written_without_importing_scipy_stats() -> None:
    printed = fresh.python("-c", "import sys, ncollapse.report; print('scipy.stats' in sys.modules)")
    assert printed.strip() == "False"
