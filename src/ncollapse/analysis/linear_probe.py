"""Least-squares probes: the linear map from features to targets with the smallest squared error, from cross moments alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.cross_moments import CrossMoments


def least_squares_probe(moments: CrossMoments, *, ridge: float = 0.0) -> LinearClassifier:
    r"""Return the linear probe of targets y on features x with the smallest squared error.

    :math:`W = S_{yx} (S_{xx} + \lambda I)^{-1}` and :math:`b = \bar y - W \bar x`, with :math:`\lambda` = ridge ·
    :math:`\mathrm{tr} S_{xx} / d`: ridge regression with an intercept that is not penalized, the same for any scale and
    rotation of the features. Without ridge it is the solution of smallest norm, where :math:`S_{xx}` is singular. On one-hot
    targets its largest output decides a class.

    Args:
        moments: Cross moments of features and targets of the training set.
        ridge: 0 or more, in units of the mean variance of a feature.

    Returns:
        Weight (m, d) and bias (m,), float64.

    Raises:
        ValueError: If there is no sample or the ridge is negative.

    Reference:
        Hoerl & Kennard (1970), Technometrics, "Ridge regression"; Alain & Bengio (2017), ICLR workshop, "Understanding
        intermediate layers using linear classifier probes".

    Example:
        >>> probe = least_squares_probe(CrossMoments.from_batch(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]])))
        >>> probe.weight.item(), probe.bias.item()
        (2.0, -2.0)
    """
    if not moments.num_samples or not ridge >= 0:
        raise ValueError(
            f"least_squares_probe needs samples and ridge >= 0, got {moments.num_samples} samples and ridge={ridge}. "
            "Collect the training set first."
        )
    shift = ridge * moments.xx.trace() / len(moments.xx)
    weight = _solve(moments.xx, moments.xy, shift).T
    return LinearClassifier(weight, moments.mean_y - weight @ moments.mean_x)


def squared_error(moments: CrossMoments, probe: LinearClassifier) -> Tensor:
    r"""Return the mean squared error :math:`\frac{1}{N} \sum_i \lVert W x_i + b - y_i \rVert^2` of a probe, 0-d.

    The moments are those of the samples to predict: the training set or another one. The unit is that of squared targets. 0 for
    targets that are linear in the features.
    """
    weight = probe.weight
    offset = weight @ moments.mean_x + probe.bias - moments.mean_y
    spread = moments.yy.trace() - 2 * (weight.T * moments.xy).sum() + ((weight @ moments.xx) * weight).sum()
    return spread.clamp(min=0) / moments.count + offset.square().sum()


def spectral_cutoff(size: int) -> float:
    """Return the share of the largest eigenvalue up to which an eigenvalue of a matrix of this size is rounding."""
    return 10 * size * torch.finfo(torch.float64).eps


def _solve(xx: Tensor, xy: Tensor, shift: Tensor) -> Tensor:
    """Return (S_xx + λI)⁺ S_xy."""
    # The factorization is several times cheaper than eigenvalues, which are needed only where S_xx is singular.
    if bool(shift > spectral_cutoff(len(xx)) * xx.trace()):
        factor = torch.linalg.cholesky(xx + shift * torch.eye(len(xx), dtype=xx.dtype, device=xx.device))
        return torch.cholesky_solve(xy, factor)
    values, vectors = torch.linalg.eigh(xx)
    values = values + shift
    kept = values > spectral_cutoff(len(xx)) * values.amax()
    inverse = torch.where(kept, 1 / values, 0.0)
    return vectors @ (inverse.unsqueeze(1) * (vectors.T @ xy))
