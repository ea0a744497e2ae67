"""Fisher ratios: the distance between classes relative to the spread within them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ncollapse.statistics.scatter import ClassScatter


class FisherRatios(NamedTuple):
    """Two forms of the ratio.

    Attributes:
        within_over_between: tr Σ_W / tr Σ_B, in [0, inf]: 0 at exact collapse; nan if both are zero.
        discriminant: tr(Σ_W⁺ Σ_B), in [0, inf). It grows without bound towards collapse, and is zero at exact collapse, where
            the pseudo-inverse of Σ_W is zero.
    """

    within_over_between: float
    discriminant: float


def fisher_ratios(scatter: ClassScatter) -> FisherRatios:
    r"""Return the class-weighted Fisher ratios of features, before or after a layer.

    The discriminant is invariant to any invertible map where Σ_W has full rank. Eigenvalues of Σ_W below
    :math:`10\, d\, \epsilon\, \lambda_{max}` count as zero. Every class must have samples.

    Reference:
        Zarka, Guth & Mallat (2021), ICLR.

    Example:
        >>> features = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
        >>> scatter = ClassScatter.from_batch(features, torch.tensor([0, 0, 1, 1]), 2)
        >>> round(fisher_ratios(scatter).within_over_between, 6)
        0.01
    """
    within, between = scatter.within_covariance(), scatter.between_covariance()
    values, vectors = torch.linalg.eigh(within)
    kept = values > 10 * len(values) * torch.finfo(values.dtype).eps * values[-1]
    along = ((vectors.T @ between) * vectors.T).sum(dim=1)
    bottom, top = float(between.trace()), float(within.trace())
    ratio = top / bottom if bottom > 0 else (math.inf if top > 0 else math.nan)
    return FisherRatios(ratio, float((along[kept] / values[kept]).sum()))
