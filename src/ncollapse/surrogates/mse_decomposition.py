"""The squared loss of a last layer, split exactly into the parts of neural collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.solving.losses import one_hot


def least_squares_classifier(features: Tensor, labels: Tensor, num_classes: int, *, lambda_w: float) -> tuple[Tensor, Tensor]:
    r"""Compute the best weight and bias for features (N, d) under the squared loss with decay λ >= 0.

    :math:`\tilde W_{LS} = \frac1N Y \tilde H^T \tilde A^+` with :math:`\tilde h = (h, 1)` and :math:`\tilde A =
    \frac1N \tilde H \tilde H^T + \lambda I`.

    Returns:
        Weight (K, d) and bias (K,).
    """
    extended, gram = _extended(features, lambda_w)
    targets = one_hot(check_labels(labels, len(features), num_classes), num_classes)
    found = targets.T @ extended / len(features) @ torch.linalg.pinv(gram, hermitian=True)
    return found[:, :-1], found[:, -1]


def _extended(features: Tensor, lambda_w: float) -> tuple[Tensor, Tensor]:
    """Features with a column of ones, and their second moments plus the decay."""
    if lambda_w < 0:
        raise ValueError(f"lambda_w must be at least 0, got {lambda_w}. Pass 0 for no decay.")
    extended = torch.cat([features.double(), torch.ones(len(features), 1, dtype=torch.float64)], dim=1)
    return extended, extended.T @ extended / len(features) + lambda_w * torch.eye(extended.shape[1], dtype=torch.float64)


@dataclass(frozen=True)
class MSEDecomposition:
    r"""Parts of :math:`\frac{1}{2N} \lVert \tilde W \tilde H - Y \rVert^2 + \frac{\lambda}{2} \lVert \tilde W \rVert^2`.

    Attributes:
        nc1: The cost of within-class variability for the least-squares classifier, with its decay.
        nc23: The error of that classifier at the class means.
        perpendicular: The cost of a classifier that is not the least-squares one; 0 on the central path.
    """

    nc1: float
    nc23: float
    perpendicular: float

    @property
    def least_squares(self) -> float:
        """Loss of the least-squares classifier."""
        return self.nc1 + self.nc23

    @property
    def total(self) -> float:
        """The loss."""
        return self.least_squares + self.perpendicular


def decompose_mse(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, *, lambda_w: float) -> MSEDecomposition:
    r"""Split the squared loss of a last layer exactly, for any counts.

    :math:`L_\perp = \frac12 \mathrm{tr}((\tilde W - \tilde W_{LS}) \tilde A (\tilde W - \tilde W_{LS})^T)`, :math:`L_{NC1} =
    \frac12 (\mathrm{tr}(w_{LS} (\Sigma_W + \lambda I) w_{LS}^T) + \lambda \lVert b_{LS} \rVert^2)` and :math:`L_{NC2/3} =
    \frac12 \sum_k \pi_k \lVert w_{LS} \mu_k + b_{LS} - e_k \rVert^2`, with :math:`\Sigma_W` averaged over samples.

    Args:
        features: H, shape (N, d), in any floating type.
        labels: Shape (N,).
        weight: W, shape (K, d).
        bias: b, shape (K,).
        lambda_w: λ of weight and bias, at least 0. If your loss has no factor ½, λ is half your weight decay.

    Returns:
        The parts, each at least 0. All vanish at collapse with λ = 0 and the least-squares classifier.

    Reference:
        Han, Papyan & Donoho (2022), ICLR.
    """
    num_classes = len(weight)
    least, shift = least_squares_classifier(features, labels, num_classes, lambda_w=lambda_w)
    targets, features = one_hot(labels, num_classes), features.double()
    counts = targets.sum(dim=0)
    means = targets.T @ features / counts.clamp(min=1).unsqueeze(1)
    within = (features - means[labels]) @ least.T
    size = least.square().sum() + shift.square().sum()
    misses = means @ least.T + shift - torch.eye(num_classes, dtype=torch.float64)
    extra = torch.cat([weight.double() - least, (bias.double() - shift).unsqueeze(1)], dim=1)
    _, gram = _extended(features, lambda_w)
    return MSEDecomposition(
        nc1=0.5 * float(within.square().sum() / len(features) + lambda_w * size),
        nc23=0.5 * float(counts / len(features) @ misses.square().sum(dim=1)),
        perpendicular=0.5 * float((extra @ gram * extra).sum()),
    )
