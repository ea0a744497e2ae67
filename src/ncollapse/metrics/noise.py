"""Values that sampling noise alone gives, and the share of a measured value that it explains."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.moments import ClassMoments

# A value of which noise explains more is flagged: it is then nearer to what data without classes gives than to the truth.
LARGEST_SHARE = 0.5
_POINTS = 2001


def mean_noise(moments: ClassMoments) -> Tensor:
    """Return estimates of τ_k = tr Σ_k / n_k, the noise of each class mean, shape (K,)."""
    # A class of one sample, whose variance is unknown, gets the mean variance of the others.
    n = moments.counts.double()
    variances = moments.scatter_traces / (n - 1)
    several = n > 1
    mean = torch.where(several, variances, 0.0).sum(dim=-1, keepdim=True) / several.sum(dim=-1, keepdim=True)
    return torch.where(several, variances, mean) / n


def noise_trace(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return what noise adds to tr Σ_B, :math:`\sum_k \alpha_k (1 - 2\beta_k) \tau_k + \sum_k \beta_k^2 \tau_k`."""
    parts, noise = convention_parts(convention), mean_noise(moments)
    alpha, beta = moments.class_weights(parts.between), moments.class_weights(parts.center)
    return ((alpha * (1 - 2 * beta) + beta.square()) * noise).sum(dim=-1)


def spread_share(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    """Compute the share of tr Σ_B that noise explains."""
    return noise_trace(moments, convention) / moments.between_trace(convention)


def direction_shares(eigenvalues: Tensor, moments: ClassMoments, convention: Convention) -> Tensor:
    """Compute for each eigenvalue of Σ_B the share that noise explains if it is spread evenly over their directions."""
    room = min(moments.num_classes - 1, moments.dim)
    return (noise_trace(moments, convention).unsqueeze(-1) / room / eigenvalues).clamp(max=1)


def etf_floor(moments: ClassMoments, *, with_means: bool = True) -> Tensor:
    """Return the PFC2 that noise gives if the class means are a simplex ETF of the measured size, or if they coincide."""
    # With a = Σ_k τ_k / K, r = K-1 and the eigenvalue g of the ETF's Gram matrix, the traceless part G_0 of the noisy Gram
    # matrix has E|G_0|² = (1 - 2/K) Σ_k (τ_k - a)² + (r+2)(r-1)/d (2ga + a²), for noise that is alike in all d dimensions.
    noise, K = mean_noise(moments), moments.num_classes
    room, level = K - 1, noise.mean(dim=-1)
    spread = moments.between_trace("class") * K / room
    # In units of the noise, which is nearer to the range of float64 than its square.
    # The estimates of equal noise differ too, by their own error.
    chance = 2 / (moments.dim * (moments.counts - 1).clamp(min=1))
    unequal = (1 - 2 / K) * ((noise / level.unsqueeze(-1) - 1).square() - chance).sum(dim=-1).clamp(min=0)
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
    n, inverse = torch.unique(moments.counts, return_inverse=True)
    ahead = torch.sqrt(moments.dim / n.double())
    x = torch.linspace(-10, 10, _POINTS, dtype=torch.float64)
    below = torch.special.ndtr(x.unsqueeze(1) + ahead) ** (moments.num_classes - 1)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    chances = torch.trapezoid(density.unsqueeze(1) * below, x, dim=0)
    return (chances[inverse] * moments.class_weights("sample")).sum(dim=-1)
