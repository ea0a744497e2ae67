"""Minority collapse of the layer-peeled model: the cosine that shows it, and the imbalance from which on it happens."""

from __future__ import annotations

import math

import torch
from scipy.optimize import brentq

from ncollapse.surrogates.layer_peeled import LayerPeeled
from ncollapse.surrogates.solving.solution import Solution

# Beyond this imbalance a threshold is not looked for.
_LARGEST_RATIO = 1e6


def minority_cosine(solution: Solution, num_majority: int) -> float:
    """Mean cosine between the classifier rows of minority classes: -1/(K-1) for an ETF, 1 once they have collapsed.

    Args:
        solution: Of a model whose majority classes come first.

    Returns:
        A number in [-1, 1]; nan for a single minority class.
    """
    rows = torch.nn.functional.normalize(solution.variables["weight"][num_majority:], dim=1)
    cosines = rows @ rows.T
    return float(cosines[~torch.eye(len(rows), dtype=torch.bool)].mean())


def minority_threshold(
    num_classes: int, num_majority: int, *, energy_w: float, energy_h: float, tolerance: float = 1e-6
) -> float:
    r"""Imbalance :math:`R_0` from which on the minority classes of the layer-peeled model collapse.

    The root of :math:`\lVert G \rVert_2 - p_{minority}`, bracketed by doubling R and found by Brent's bisection.

    Args:
        num_majority: K_A, at most K-2.
        tolerance: Relative error of R_0.

    Returns:
        R_0, at least 1.

    Raises:
        ValueError: If a number is out of range, or there is no threshold below 1e6.

    Example:
        >>> round(minority_threshold(4, 2, energy_w=1.0, energy_h=2.0), 3)
        7.618
    """
    if num_majority > num_classes - 2:
        raise ValueError(f"A threshold needs two or more minority classes, got {num_classes - num_majority}.")

    def excess(log_ratio: float) -> float:
        model = LayerPeeled.imbalanced(num_classes, num_majority, math.exp(log_ratio), energy_w=energy_w, energy_h=energy_h)
        branch = model.solve().certificate.inequality
        assert branch is not None
        return (branch.right - branch.left) / branch.left

    high = math.log(2)
    while excess(high) < 0:
        high += math.log(2)
        if high > math.log(_LARGEST_RATIO):
            raise ValueError(
                f"Minorities do not collapse up to a ratio of {_LARGEST_RATIO:g} where energy_w * energy_h is "
                f"{energy_w * energy_h:g}. Lower that product."
            )
    return math.exp(float(brentq(excess, high - math.log(2), high, xtol=tolerance)))
