"""Estimates from a few seeds: means, shares and slopes, each with an interval of 95 %."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ncollapse.claims.distributions import beta_quantile, t_quantile

LEVEL = 0.95
# Relative size of a deviation that is the rounding of float64 sums.
_ROUNDING = 1e-12


class Estimate(NamedTuple):
    """A value with its interval, from n seeds or runs; the interval is nan where n is too small to give one."""

    value: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation over seeds (divisor n − 1); 0 if equal up to rounding, nan for fewer than two."""
    if len(values) < 2:
        return math.nan
    deviation = statistics.stdev(values)
    return deviation if deviation > _ROUNDING * max(map(abs, values)) else 0.0


def mean_estimate(values: Sequence[float]) -> Estimate:
    r"""Mean with its t interval: :math:`\bar v \pm t_{n-1, 0.975}\, s / \sqrt n`, s with divisor n − 1."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = statistics.fmean(values)
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * spread(values) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, n)


def share_estimate(successes: int, n: int) -> Estimate:
    r"""Share of seeds with the exact interval of Clopper & Pearson (1934), Biometrika."""
    # Its ends are the shares p at which k or more successes, and k or fewer, have probability 0.025: quantiles of
    # Beta(k, n − k + 1) and Beta(k + 1, n − k); 0 and 1 at k = 0 and k = n. Five of five seeds give [0.478, 1].
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tail = (1 - LEVEL) / 2
    low = beta_quantile(tail, successes, n - successes + 1) if successes else 0.0
    high = beta_quantile(1 - tail, successes + 1, n - successes) if successes < n else 1.0
    return Estimate(successes / n, low, high, n)


def log_log_slope(x: Sequence[float], y: Sequence[float]) -> Estimate:
    r"""Slope b of ln y = a + b ln x by least squares over runs, with the t interval of the regression."""
    # b = S_{xy} / S_{xx} and b \pm t_{n-2, 0.975} \sqrt{\mathrm{RSS} / (n-2) / S_{xx}}, where
    # S_{xx} = \sum_i (u_i - \bar u)^2 of u = ln x, S_{xy} likewise, and RSS is the sum of squared residuals.
    # The interval assumes a power law and errors that are independent from run to run: a bend of the curve, or seeds that
    # move all settings together, are not in it.
    n = len(x)
    if len(set(x)) < 2:
        return Estimate(math.nan, math.nan, math.nan, n)
    u, v = _centered_logs(x), _centered_logs(y)
    sxx = math.fsum(a * a for a in u)
    slope = math.fsum(a * b for a, b in zip(u, v, strict=True)) / sxx
    if n < 3:
        return Estimate(slope, math.nan, math.nan, n)
    residual = math.fsum((b - slope * a) ** 2 for a, b in zip(u, v, strict=True))
    half = t_quantile(0.5 + LEVEL / 2, n - 2) * math.sqrt(residual / (n - 2) / sxx)
    return Estimate(slope, slope - half, slope + half, n)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Kendall's τ-b; nan where all values of one are equal."""
    from scipy import stats

    return float(stats.kendalltau(x, y).statistic)


def _centered_logs(values: Sequence[float]) -> list[float]:
    # From the first, so that equal values are exactly 0 and not off by the rounding of their mean.
    logs = [math.log(value) - math.log(values[0]) for value in values]
    mean = statistics.fmean(logs)
    return [log - mean for log in logs]
