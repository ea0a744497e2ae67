"""Ranks of a spectrum: the number of directions that carry the variance.

Each takes the eigenvalues of a covariance, shape (d,), float64. Apart from the numerical rank, which is 0, all are nan for a
zero spectrum. A flat spectrum gives the rank itself; in general stable rank <= participation ratio <= entropy rank <= rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _shares(eigenvalues: Tensor) -> Tensor:
    positive = eigenvalues.clamp(min=0)
    return positive / positive.sum()


def numerical_rank(eigenvalues: Tensor, *, relative_tolerance: float | None = None) -> Tensor:
    """Return the number of eigenvalues above a tolerance relative to the largest; K-1 for Σ_B at exact collapse.

    Args:
        relative_tolerance: None is 10 · d · eps. It is for eigenvalues, the squares of standard deviations: 1e-6 counts the
            directions above a thousandth of the largest standard deviation.
    """
    tolerance = 10 * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps if relative_tolerance is None else relative_tolerance
    largest = eigenvalues.amax() if len(eigenvalues) else eigenvalues.new_zeros(())
    return ((eigenvalues > tolerance * largest) & (eigenvalues > 0)).sum().double()


def stable_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return the stable rank :math:`\sum_i \lambda_i / \lambda_{\max}`.

    It is :math:`\lVert A\rVert_F^2/\lVert A\rVert_2^2` of any factor A.
    """
    return eigenvalues.clamp(min=0).sum() / eigenvalues.amax() if len(eigenvalues) else eigenvalues.new_full((), math.nan)


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    r"""Return the participation ratio :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2`, in [1, rank].

    Example:
        >>> float(participation_ratio(torch.tensor([3.0, 3.0, 0.0])))
        2.0
    """
    return 1.0 / _shares(eigenvalues).square().sum() if len(eigenvalues) else eigenvalues.new_full((), math.nan)


def entropy_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return the entropy rank :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p_i = \lambda_i / \sum_j \lambda_j`.

    Reference:
        Roy & Vetterli (2007), EUSIPCO, "The effective rank".
    """
    if not len(eigenvalues):
        return eigenvalues.new_full((), math.nan)
    shares = _shares(eigenvalues)
    return torch.exp(-torch.special.xlogy(shares, shares).sum())
