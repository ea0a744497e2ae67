"""Margins of logits, and the logarithm of their cross-entropy, exact even if the loss itself underflows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NormalizedMargins", "log_loss", "margins", "normalized_margins", "smoothed_margin"]

# Below this logarithm the second term of the series of log(1 + x) is less than the rounding of float64.
_SMALL = -20.0


class NormalizedMargins(NamedTuple):
    r"""The smallest margin of a homogeneous network on the scale of its parameters."""

    exact: float
    smoothed: float


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Compute the true class's logit minus the largest other one, :math:`q_i = z_{i y_i} - \max_{j \ne y_i} z_{ij}`."""
    true, others = _split(logits, labels)
    return true - others.amax(dim=1)


def log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Compute the log of the summed cross-entropy, :math:`\log \sum_i \log(1 + \sum_{j \ne y_i} e^{z_{ij} - z_{i y_i}})`."""
    # Differentiable, and exact for margins of any size, while the loss itself is zero in float64 from a margin of 745 on. A
    # step along this gradient is a step along the gradient of the loss with a learning rate proportional to 1/loss.
    true, others = _split(logits, labels)
    rivals = others.logsumexp(dim=1) - true
    # Both branches are differentiated, so the argument of the unused one is clamped to where its derivative is finite.
    near = torch.logaddexp(rivals.clamp(min=_SMALL), torch.zeros_like(rivals)).log()
    far = rivals - rivals.clamp(max=_SMALL).exp() / 2
    return torch.where(rivals > _SMALL, near, far).logsumexp(dim=0)


def smoothed_margin(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Compute :math:`-\log(e^{\mathcal{L}} - 1)` of the summed cross-entropy: the smallest margin, less at most log(N K)."""
    # Lyu & Li (2020), ICLR.
    log = log_loss(logits, labels)
    loss = log.exp()
    near = loss + torch.log(-torch.expm1(-log.clamp(min=_SMALL).exp()))
    return -torch.where(log > _SMALL, near, log + loss / 2)


def normalized_margins(logits: Tensor, labels: Tensor, norm: float, order: float) -> NormalizedMargins:
    r"""Compute the normalized margin :math:`q_{min} / \rho^L` of a homogeneous network, and its smoothed form."""
    # If all parameters of a network of L layers without biases are scaled by c, its logits are scaled by c^L, and the exact
    # value stays the same. Along the gradient flow of the cross-entropy the smoothed value never falls once the summed loss is
    # below log 2. The two differ by O(log(N K) / ρ^L). Lyu & Li (2020), ICLR; Ji et al. (2022), ICLR, for free features.
    if not (norm > 0 and order > 0):
        raise ValueError(
            f"normalized_margins needs a positive norm and order, got {norm} and {order}. Pass the norm of all parameters and "
            "the number of layers."
        )
    scale = norm**order
    return NormalizedMargins(float(margins(logits, labels).min()) / scale, float(smoothed_margin(logits, labels)) / scale)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split logits into those of the true classes, shape (N,), and the others, shape (N, K-1)."""
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"Margins need logits of shape (N, K), K >= 2, and N labels, got {tuple(logits.shape)} and {tuple(labels.shape)}. "
            "Pass one row of logits per label."
        )
    own = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[own], logits[~own].reshape(len(logits), -1)
