"""NC1 and Fisher ratios: within-class variability against between-class spread."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments, rounding_floor
from ncollapse.statistics.scatter import ClassScatter


def nan_unless(value: Tensor, condition: Tensor) -> Tensor:
    """Return the value if the condition holds, else nan."""
    return torch.where(condition, value, math.nan)


def within_between_ratio(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return PFC1, within-class over between-class variability :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_B`, 0 or more.

    For means on a simplex ETF of radius a with isotropic within-class covariance σ²I it is dσ²/a². nan if all class means
    coincide.

    Reference:
        Tirer & Bruna (2022), ICML; Hui, Belkin & Nakkiran (2022). PFC1 of arXiv 2405.00985, eqs (7) and (17).

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> float(within_between_ratio(ClassMoments.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)))
        0.25
    """
    between = moments.between_trace(convention)
    return nan_unless(moments.within_trace(convention_parts(convention).within) / between, between > rounding_floor(moments))


def within_total_ratio(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the within-class share of variability, :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_T = r / (1 + r)`.

    In [0, 1]: the bounded form of ``within_between_ratio`` r. It is 1 if the class means coincide, and nan if the features do
    not vary at all.
    """
    between = moments.between_trace(convention)
    within = moments.within_trace(convention_parts(convention).within)
    total = within + between
    return nan_unless(within / total, total > rounding_floor(moments))


def between_spectrum(centers: ClassCenters, convention: Convention = "class") -> tuple[Tensor, Tensor]:
    r"""Compute the non-zero eigenvalues of :math:`\Sigma_B`, and their eigenvectors in the basis of the centers.

    Cached in ``centers.spectra``.

    Returns:
        The eigenvalues, shape (r,), and the eigenvectors, shape (basis, r).
    """
    if convention in centers.spectra:
        return centers.spectra[convention]
    moments, parts = centers.moments, convention_parts(convention)
    means = moments.centered_means(parts.center) @ centers.basis
    weighted = moments.class_weights(parts.between).sqrt().unsqueeze(1) * means
    # No d×d matrix is formed: the singular values of the weighted class means are the square roots of the eigenvalues.
    _, singular_values, right = torch.linalg.svd(weighted, full_matrices=False)
    eigenvalues = singular_values.square()
    cutoff = 10 * max(moments.num_classes, moments.dim) * torch.finfo(torch.float64).eps * eigenvalues.amax()
    # Zero: below the error of the SVD, or below the rounding of the means themselves.
    kept = (eigenvalues > cutoff) & (eigenvalues > rounding_floor(moments))
    centers.spectra[convention] = eigenvalues[kept], right[kept].T
    return centers.spectra[convention]


def between_inverse_trace(
    centers: ClassCenters,
    decisions: ClassDecisions,
    convention: Convention = "class",
    *,
    divide_by_classes: bool = True,
) -> Tensor:
    r"""Return NC1 with the pseudo-inverse, :math:`\frac{1}{K} \mathrm{tr}(\Sigma_W \Sigma_B^+)`, in [0, inf), without d×d work.

    With the eigenpairs :math:`(\lambda_j, u_j)` of :math:`\Sigma_B` it is :math:`\frac{1}{K} \sum_j u_j^T \Sigma_W u_j /
    \lambda_j`. For means on a simplex ETF of radius a with within-class covariance σ²I it is (K-1)²σ²/(K a²). nan if all class
    means coincide. If Σ_B has lower rank than min(K-1, d), the missing directions are left out (flag ``rank_deficient``).

    Args:
        decisions: Decisions with the within-class covariance on the span of the centers.
        convention: Class weights; "papyan" and "zhu" are the mixtures of published codes.
        divide_by_classes: False returns the value of Papyan's notebook, without 1/K.

    Reference:
        Papyan, Han & Donoho (2020), PNAS; Zhu et al. (2021), NeurIPS (with 1/K).
    """
    eigenvalues, vectors = between_spectrum(centers, convention)
    within = decisions.within_on_span(convention_parts(convention).within)
    if eigenvalues.numel() == 0:
        return within.new_full((), math.nan)
    value = (((within @ vectors) * vectors).sum(dim=0) / eigenvalues).sum()
    return value / centers.moments.num_classes if divide_by_classes else value


def separation(centers: ClassCenters, decisions: ClassDecisions) -> Tensor:
    r"""Return the separation fuzziness of the law of data separation, :math:`D = \mathrm{tr}(SS_w SS_b^+)`, in [0, inf).

    Both covariances weigh class k by n_k/N; D equals K times ``between_inverse_trace`` of that convention. In a trained network
    :math:`D_l \approx \rho^l D_0` with 0 < ρ < 1. nan if all class means coincide.

    Reference:
        He & Su (2023), PNAS, "A law of data separation in deep learning".
    """
    return between_inverse_trace(centers, decisions, "he_su", divide_by_classes=False)


def cdnv_rows(moments: ClassMoments, dist_exp: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of the CDNV matrix in blocks, so that many classes need no K×K matrix."""
    means, variances, floor = moments.class_means, moments.class_variances, rounding_floor(moments)
    step = max(1, 2**22 // moments.num_classes)
    for start in range(0, moments.num_classes, step):
        rows = slice(start, start + step)
        # From explicit differences: the matrix-product form of cdist loses digits for means far from the origin.
        distance = torch.cdist(means[rows], means, compute_mode="donot_use_mm_for_euclid_dist").square()
        value = (variances[rows].unsqueeze(1) + variances) / (2 * distance**dist_exp)
        yield rows, nan_unless(value, distance > floor)


def cdnv_matrix(moments: ClassMoments, *, dist_exp: float = 1.0) -> Tensor:
    r"""Return the class-distance normalized variance of every pair of classes.

    :math:`V_{kl} = (\mathrm{Var}_k + \mathrm{Var}_l) / (2\lVert \mu_k - \mu_l \rVert^{2p})`: shape (K, K), symmetric, nan on
    the diagonal and for pairs of coinciding means.

    Args:
        dist_exp: The exponent p; 1 is the definition, 2 is used for language models.
    """
    return torch.cat([block for _, block in cdnv_rows(moments, dist_exp)])


def cdnv(moments: ClassMoments, *, dist_exp: float = 1.0) -> Tensor:
    """Return the class-distance normalized variance (CDNV), the mean over pairs of ``cdnv_matrix``, in [0, inf).

    On the sample itself the class-balanced nearest-center error is at most 4(K-1) times this value. For means on a simplex ETF
    of radius a with within-class covariance σ²I it is dσ²(K-1)/(2Ka²). nan if two class means coincide. Scale-free for p = 1
    only.

    Reference:
        Galanti, György & Hutter (2022), ICLR.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> float(cdnv(ClassMoments.from_batch(h, torch.tensor([0, 0, 1, 1]), num_classes=2)))
        0.0625
    """
    num_classes = moments.num_classes
    total = torch.zeros_like(moments.scatter_traces[0])
    for rows, block in cdnv_rows(moments, dist_exp):
        diagonal = torch.arange(num_classes, device=block.device)[rows]
        block[torch.arange(len(diagonal)), diagonal] = 0.0
        total += block.sum()
    return total / (num_classes * (num_classes - 1)) if num_classes > 1 else total * math.nan


class FisherRatios(NamedTuple):
    """Two forms of the distance between classes relative to the spread within them.

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
