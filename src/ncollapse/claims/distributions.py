"""Tails and quantiles of the distributions behind tests and intervals."""

import math

# Of scipy.special: scipy.stats takes a third of a second to import, which every page of a run would pay.
from scipy import special


def t_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t is larger."""
    return float(special.stdtr(freedom, -t))


def t_quantile(probability: float, freedom: float) -> float:
    """Return what Student's t is below with this probability; without a limit to the freedom, that of a normal number."""
    return float(special.ndtri(probability) if math.isinf(freedom) else special.stdtrit(freedom, probability))


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal number is larger."""
    return float(special.ndtr(-z))


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return what a number drawn from Beta(a, b) is below with this probability."""
    return float(special.betaincinv(a, b, probability))


def binomial_tail(successes: int, n: int, chance: float) -> float:
    """Return the probability of as many successes or more in n trials."""
    return float(special.bdtrc(successes - 1, n, chance)) if successes else 1.0


def sign_test(right: int, n: int) -> float:
    """Return the two-sided p-value of a share against one half."""
    return min(1.0, 2 * binomial_tail(max(right, n - right), n, 0.5)) if n else 1.0
