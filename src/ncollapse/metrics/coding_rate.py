"""Coding rate reduction (MCR²): the coding rate of all features minus the mean coding rate of the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels, flatten_features
from ncollapse.statistics.scatter import ClassScatter


@dataclass(frozen=True, eq=False)
class CodingRate:
    r"""Coding rates in nats.

    Attributes:
        total: :math:`R = \frac{1}{2} \log\det(I + \frac{d}{N\epsilon^2} Z Z^T)`, 0-d, float64.
        within: :math:`R_c = \sum_k \frac{n_k}{2N} \log\det(I + \frac{d}{n_k\epsilon^2} Z_k Z_k^T)`, 0-d, float64.
    """

    total: Tensor
    within: Tensor

    @property
    def reduction(self) -> Tensor:
        r""":math:`\Delta R = R - R_c`, at least 0: it grows with the number of independent directions of the classes."""
        return self.total - self.within


def coding_rate(
    features: Tensor, labels: Tensor, *, num_classes: int, distortion: float = 0.5, normalize: bool = True
) -> CodingRate:
    r"""Return the coding rate of features and that of their classes, in nats; their difference is the reduction.

    The features are not centered. Determinants are computed from eigenvalues of the N×N or the d×d Gram matrix, whichever is
    smaller, so that :math:`\log(1 + x)` keeps its digits near zero. Invariant to rotation. Collapse to a simplex ETF does not
    maximize the reduction: classes that fill orthogonal subspaces have more. A class without samples adds nothing. nan for no
    samples, or with ``normalize`` for a feature vector of zeros.

    Args:
        features: Z, shape (N, ...).
        labels: Class indices in [0, K), shape (N,).
        distortion: ε, in units of features.
        normalize: Divide every feature vector by its norm first, as the papers do.

    Raises:
        ValueError: If the distortion is not positive.

    Reference:
        Yu et al. (2020), NeurIPS; Chan et al. (2022), JMLR (ReduNet).

    Example:
        >>> rate = coding_rate(torch.eye(4), torch.arange(4), num_classes=4, distortion=1.0)
        >>> round(float(rate.reduction), 6) == round(2 * math.log(2) - 0.5 * math.log(5), 6)
        True
    """
    _check_distortion(distortion)
    rows = flatten_features(features).double()
    labels = check_labels(labels, len(rows), num_classes).to(rows.device)
    if normalize:
        rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    within = rows.new_full((), 0.0 if len(rows) else math.nan)
    for k in torch.unique(labels).tolist():
        of_class = rows[labels == k]
        within = within + len(of_class) / len(rows) * _rate_of_rows(of_class, distortion)
    return CodingRate(_rate_of_rows(rows, distortion), within)


def coding_rate_of_scatter(scatter: ClassScatter, *, distortion: float = 0.5) -> CodingRate:
    r"""Return ``coding_rate`` with ``normalize=False`` exactly from streamed statistics; nan for no samples.

    :math:`Z_k Z_k^T = S_k + n_k \mu_k \mu_k^T`, and :math:`Z Z^T` is their sum over classes.

    Args:
        distortion: ε, in units of features.

    Raises:
        ValueError: If the distortion is not positive.
    """
    _check_distortion(distortion)
    moments = scatter.moments
    counts, dim = moments.counts.double(), moments.dim
    second = scatter.scatters + counts[:, None, None] * moments.means.unsqueeze(2) * moments.means.unsqueeze(1)
    within = counts.new_full((), 0.0 if bool(counts.any()) else math.nan)
    for k in torch.nonzero(counts).flatten().tolist():
        within = within + counts[k] / counts.sum() * _rate(torch.linalg.eigvalsh(second[k]), counts[k], dim, distortion)
    total = _rate(torch.linalg.eigvalsh(second.sum(dim=0)), counts.sum(), dim, distortion)
    return CodingRate(total, within)


def _rate_of_rows(rows: Tensor, distortion: float) -> Tensor:
    num_samples, dim = rows.shape
    gram = rows @ rows.T if num_samples < dim else rows.T @ rows
    if num_samples == 0 or not bool(torch.isfinite(gram).all()):
        return gram.new_full((), math.nan)
    return _rate(torch.linalg.eigvalsh(gram), gram.new_tensor(float(num_samples)), dim, distortion)


def _rate(eigenvalues: Tensor, num_samples: Tensor, dim: int, distortion: float) -> Tensor:
    return 0.5 * torch.log1p(dim / (num_samples * distortion**2) * eigenvalues.clamp(min=0)).sum()


def _check_distortion(distortion: float) -> None:
    if not 0 < distortion < math.inf:
        raise ValueError(f"distortion must be positive and finite, got {distortion}. Pass a length in units of features.")
