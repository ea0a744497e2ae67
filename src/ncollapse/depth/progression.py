"""Progression over depth: the steps at which a metric rises, its rank correlations with depth, and effective depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import scipy

from ncollapse.records.depth import EPSILON, EffectiveDepth, Progression

EPSILONS = (0.0, 0.001, EPSILON, 0.01, 0.02, 0.05)


def progression(values: Sequence[float] | Mapping[str, float], *, tolerance: float = 0.0) -> Progression:
    """Return where a metric rises from layer to layer, and its rank correlations with depth.

    The correlations are nan for fewer than two layers or constant values.

    Args:
        values: One value per layer, in order of depth, of a metric that falls towards collapse (``pfc3_error``, not ``pfc3``).
            A list, or the mapping ``m["pfc1"]`` of a measurement.
        tolerance: A rise counts as a violation when the value exceeds (1 + tolerance) times the one before it.

    Raises:
        ValueError: If the tolerance is negative.
        TypeError: If the values are something else, such as a measurement.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, the conjecture of section III.

    Example:
        >>> progression([3.0, 1.0, 2.0]).violations
        (2,)
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}. Pass 0.02 to ignore rises of up to 2 %.")
    values = _in_order(values, "values", "Pass one of its metrics, such as m['pfc1'].")
    pairs = list(pairwise(values))
    violations = tuple(index + 1 for index, (before, after) in enumerate(pairs) if after > before * (1 + tolerance))
    undefined = any(math.isnan(value) for value in values)
    largest = math.nan if undefined else max([0.0, *(after - before for before, after in pairs)])
    if undefined or len(set(values)) < 2:
        return Progression(violations, largest, math.nan, math.nan, tolerance)
    index = range(len(values))
    return Progression(
        violations,
        largest,
        float(scipy.stats.kendalltau(index, values).statistic),
        float(scipy.stats.spearmanr(index, values).statistic),
        tolerance,
    )


def effective_depth(
    errors: Sequence[float] | Mapping[str, float], epsilon: float = EPSILON, *, first_layer: int = 0
) -> EffectiveDepth:
    r"""Return the ε-effective depth :math:`d_\epsilon = \min\{l : \mathrm{err}_l \le \epsilon\}`, else the last layer.

    In [first_layer, L]; non-increasing in ε; small for collapsed networks.

    Args:
        errors: Nearest-center errors of layers 0..L on the training set: a list, or the mapping ``m["pfc3_error"]`` of a
            measurement.
        epsilon: ε >= 0.
        first_layer: 0 includes the first measured layer (PFC); 1 is the convention for the blocks alone.

    Raises:
        ValueError: If there is no such layer or ε is negative.
        TypeError: If the errors are something else, such as a measurement.

    Reference:
        Galanti, György & Hutter (2022), "On the implicit bias towards minimal depth of deep neural networks".

    Example:
        >>> effective_depth([0.4, 0.1, 0.0, 0.0]).depth
        2
    """
    errors = _in_order(errors, "errors", "Call m.effective_depth().")
    if epsilon < 0 or not 0 <= first_layer < len(errors):
        raise ValueError(
            f"effective_depth needs epsilon >= 0 and errors of at least {first_layer + 1} layers, "
            f"got epsilon={epsilon} and {len(errors)} layers. Pass one error per layer."
        )
    for depth in range(first_layer, len(errors)):
        if errors[depth] <= epsilon:
            return EffectiveDepth(epsilon, depth, True, all(error <= epsilon for error in errors[depth:]))
    return EffectiveDepth(epsilon, len(errors) - 1, False, False)


def _in_order(values: Sequence[float] | Mapping[str, float], name: str, advice: str) -> Sequence[float]:
    """Return the values of the layers as a sequence."""
    if isinstance(values, Mapping):
        return list(values.values())
    if not (hasattr(values, "__len__") and hasattr(values, "__getitem__")):
        raise TypeError(
            f"`{name}` must be one number per layer, a list or a mapping by layer, got {type(values).__name__}. "
            f"Of a measurement m: {advice}"
        )
    return values
