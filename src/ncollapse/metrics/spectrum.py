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
    return positive / positive.sum(dim=-1, keepdim=True)


def _largest(eigenvalues: Tensor) -> Tensor:
    return eigenvalues.amax(dim=-1) if eigenvalues.shape[-1] else eigenvalues.new_zeros(eigenvalues.shape[:-1])


def numerical_rank(eigenvalues: Tensor, *, relative_tolerance: float | None = None) -> Tensor:
    """Return the number of eigenvalues above a tolerance relative to the largest; K-1 for Σ_B at exact collapse.

    Args:
        relative_tolerance: None is 10 · d · eps. It is for eigenvalues, the squares of standard deviations: 1e-6 counts the
            directions above a thousandth of the largest standard deviation.
    """
    relative = 10 * eigenvalues.shape[-1] * torch.finfo(eigenvalues.dtype).eps
    tolerance = (relative if relative_tolerance is None else relative_tolerance) * _largest(eigenvalues)
    return ((eigenvalues > tolerance.unsqueeze(-1)) & (eigenvalues > 0)).sum(dim=-1).double()


def stable_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return the stable rank :math:`\sum_i \lambda_i / \lambda_{\max}`.

    It is :math:`\lVert A\rVert_F^2/\lVert A\rVert_2^2` of any factor A.
    """
    return eigenvalues.clamp(min=0).sum(dim=-1) / _largest(eigenvalues)


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    r"""Return the participation ratio :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2`, in [1, rank].

    Example:
        >>> float(participation_ratio(torch.tensor([3.0, 3.0, 0.0])))
        2.0
    """
    return _or_nan(1.0 / _shares(eigenvalues).square().sum(dim=-1), eigenvalues)


def entropy_rank(eigenvalues: Tensor) -> Tensor:
    r"""Return the entropy rank :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p_i = \lambda_i / \sum_j \lambda_j`.

    Reference:
        Roy & Vetterli (2007), EUSIPCO, "The effective rank".
    """
    shares = _shares(eigenvalues)
    return _or_nan(torch.exp(-torch.special.xlogy(shares, shares).sum(dim=-1)), eigenvalues)


def _or_nan(value: Tensor, eigenvalues: Tensor) -> Tensor:
    return torch.where(_largest(eigenvalues) > 0, value, math.nan)
