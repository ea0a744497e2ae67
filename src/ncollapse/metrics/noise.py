"""Values that sampling noise alone gives, and the share of a measured value that it explains."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.metrics.variability import cdnv_rows
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.moments import ClassMoments

# A value of which noise explains more is flagged: it is then nearer to what data without classes gives than to the truth.
LARGEST_SHARE = 0.5
_POINTS = 2001


def mean_noise(moments: ClassMoments) -> Tensor:
    r"""Return estimates of :math:`\tau_k = \mathrm{tr} \Sigma_k / n_k`, the noise of each class mean, shape (K,).

    A class of one sample, whose variance is unknown, gets the mean variance of the others.
    """
    n = moments.counts.double()
    variances = moments.scatter_traces / (n - 1)
    several = n > 1
    return torch.where(several, variances, variances[several].mean()) / n


def noise_trace(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return what noise adds to tr Σ_B, :math:`\sum_k \alpha_k (1 - 2\beta_k) \tau_k + \sum_k \beta_k^2 \tau_k`."""
    parts, noise = convention_parts(convention), mean_noise(moments)
    alpha, beta = moments.class_weights(parts.between), moments.class_weights(parts.center)
    return (alpha * (1 - 2 * beta) + beta.square()) @ noise


def spread_share(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    """Compute the share of tr Σ_B that noise explains."""
    return noise_trace(moments, convention) / moments.between_trace(convention)


class PairVariance(NamedTuple):
    """CDNV, and the share of it that noise explains."""

    mean: Tensor
    noise_share: Tensor


def pair_variance(moments: ClassMoments) -> PairVariance:
    """Compute both from one pass over the pairs. A pair whose distance is noise counts as far as noise explains it."""
    noise, variances, num_classes = mean_noise(moments), moments.class_variances, moments.num_classes
    total, explained = noise.new_zeros(()), noise.new_zeros(())
    for rows, block in cdnv_rows(moments, 1.0):
        diagonal = torch.arange(num_classes, device=block.device)[rows]
        block[torch.arange(len(diagonal)), diagonal] = 0.0
        total += block.sum()
        # The value is a mean of variances over squared distances, so it also tells their noise over squared distances.
        ratio = 2 * (noise[rows].unsqueeze(1) + noise) / (variances[rows].unsqueeze(1) + variances)
        explained += (block * (block * ratio).nan_to_num(nan=0.0).clamp(max=1)).sum()
    return PairVariance(total / (num_classes * (num_classes - 1)), explained / total)


def direction_shares(eigenvalues: Tensor, moments: ClassMoments, convention: Convention) -> Tensor:
    """Compute for each eigenvalue of Σ_B the share that noise explains if it is spread evenly over their directions."""
    room = min(moments.num_classes - 1, moments.dim)
    return (noise_trace(moments, convention) / room / eigenvalues).clamp(max=1)


def etf_floor(moments: ClassMoments, *, with_means: bool = True) -> Tensor:
    r"""Return the PFC2 that noise gives if the class means are a simplex ETF of the measured size, or if they coincide.

    With :math:`a = \sum_k \tau_k / K`, r = K-1 and the eigenvalue g of the ETF's Gram matrix, the traceless part of the
    noisy Gram matrix has :math:`E \lVert G_0 \rVert^2 = (1 - \frac{2}{K}) \sum_k (\tau_k - a)^2 +
    \frac{(r+2)(r-1)}{d} (2ga + a^2)`, for noise that is alike in all d dimensions.
    """
    noise, K = mean_noise(moments), moments.num_classes
    room, level = K - 1, noise.mean()
    spread = moments.centered_means("class").square().sum() / room
    # In units of the noise, which is nearer to the range of float64 than its square.
    # The estimates of equal noise differ too, by their own error.
    chance = 2 / (moments.dim * (moments.counts - 1).clamp(min=1))
    unequal = (1 - 2 / K) * ((noise / level - 1).square() - chance).sum().clamp(min=0)
    signal = (spread / level - 1).clamp(min=0) if with_means else torch.zeros_like(level)
    traceless = unequal + (room + 2) * (room - 1) / moments.dim * (2 * signal + 1)
    return torch.sqrt(2 - 2 / torch.sqrt(1 + traceless / (room * (signal + 1).square())))


def ratio_floor(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    """Compute the PFC1 of data whose class means coincide: within-class variability over what noise adds to tr Σ_B."""
    return moments.within_trace(convention_parts(convention).within) / noise_trace(moments, convention)


def accuracy_floor(moments: ClassMoments) -> Tensor:
    """Compute the nearest-center accuracy of normal noise that is alike in all d dimensions, by its own class means."""
    # A sample is part of its own class mean, which lies sqrt(d/n) standard deviations nearer than the others on the scale of
    # the K independent scores <h, m_j> - |m_j|²/2. So P(nearest) = ∫ φ(x - sqrt(d/n)) Φ(x)^(K-1) dx.
    n = moments.counts.double()
    ahead = torch.sqrt(moments.dim / n)
    x = torch.linspace(-10, 10, _POINTS, dtype=torch.float64)
    below = torch.special.ndtr(x.unsqueeze(1) + ahead) ** (moments.num_classes - 1)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    chances = torch.trapezoid(density.unsqueeze(1) * below, x, dim=0)
    return chances @ (n / n.sum())
