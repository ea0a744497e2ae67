"""NC1 and Fisher ratios: within-class variability against between-class spread."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.metrics.pairs import PairTile, add_pairs
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments, symmetric_product, weighted_sum
from ncollapse.statistics.scatter import ClassScatter

# Squared distances below this share of the squared norms lose digits if they are computed from inner products.
_NEAR = 1 / 16
# From so many directions on, eigenvalues of the product are used, if all exceed this share of its norm, and that is in range.
_MANY, _LEAST_SHARE, _LEAST_SQUARE = 64, 1e-4, 1e-200


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
    return nan_unless(moments.within_trace(convention_parts(convention).within) / between, between > moments.rounding_floor)


def within_total_ratio(moments: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the within-class share of variability, :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_T = r / (1 + r)`.

    In [0, 1]: the bounded form of ``within_between_ratio`` r. It is 1 if the class means coincide, and nan if the features do
    not vary at all.
    """
    between = moments.between_trace(convention)
    within = moments.within_trace(convention_parts(convention).within)
    total = within + between
    return nan_unless(within / total, total > moments.rounding_floor)


def between_spectrum(centers: ClassCenters, convention: Convention = "class") -> tuple[Tensor, Tensor]:
    """Compute eigenvalues of Σ_B, descending, those that are zero exactly 0, and eigenvectors in the basis of the centers."""
    if convention in centers.spectra:
        return centers.spectra[convention]
    moments, parts = centers.moments, convention_parts(convention)
    means = centers.coordinates
    if parts.center != "class":
        means = means - weighted_sum(moments.class_weights(parts.center), means).unsqueeze(-2)
    weighted = moments.class_weights(parts.between).sqrt().unsqueeze(-1) * means
    eigenvalues, vectors = _squared_singular_values(weighted)
    cutoff = 10 * max(moments.num_classes, moments.dim) * torch.finfo(torch.float64).eps * eigenvalues.amax(dim=-1)
    # Zero: below the error of the SVD, or below the rounding of the means themselves.
    kept = eigenvalues > torch.maximum(cutoff, moments.rounding_floor).unsqueeze(-1)
    centers.spectra[convention] = torch.where(kept, eigenvalues, 0.0), vectors
    return centers.spectra[convention]


def _squared_singular_values(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the squared singular values of rows (..., K, r), r <= K, descending, and the right singular vectors."""
    if rows.ndim == 2 and rows.shape[1] >= _MANY:
        # From the r×r product in half the time. Its eigenvalues have an error of about 1e-16 of the largest one, so they must
        # all be well above that: then the product less a multiple of one still has a Cholesky factor.
        product = symmetric_product(rows, rows)
        size = torch.linalg.matrix_norm(product)
        shifted = product.clone()
        shifted.diagonal().sub_(_LEAST_SHARE * size)
        if _LEAST_SQUARE < size < 1 / _LEAST_SQUARE and not bool(torch.linalg.cholesky_ex(shifted).info):
            values, vectors = torch.linalg.eigh(product)
            return values.flip(0), vectors.flip(1)
    if rows.shape[-2] > rows.shape[-1] + 1:
        rows = torch.linalg.qr(rows, mode="r").R
    _, singular_values, right = torch.linalg.svd(rows, full_matrices=False)
    return singular_values.square(), right.mT


def inverse_terms(centers: ClassCenters, decisions: ClassDecisions, convention: Convention) -> Tensor:
    r"""Compute :math:`u_j^T \Sigma_W u_j / \lambda_j` for each eigenpair of Σ_B, 0 where the eigenvalue is zero."""
    eigenvalues, vectors = between_spectrum(centers, convention)
    within = decisions.within_on_span(convention_parts(convention).within)
    return torch.where(eigenvalues > 0, ((within @ vectors) * vectors).sum(dim=-2) / eigenvalues, 0.0)


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
    defined = between_spectrum(centers, convention)[0].amax(dim=-1) > 0
    value = nan_unless(inverse_terms(centers, decisions, convention).sum(dim=-1), defined)
    return value / centers.moments.num_classes if divide_by_classes else value


def separation(centers: ClassCenters, decisions: ClassDecisions) -> Tensor:
    r"""Return the separation fuzziness of the law of data separation, :math:`D = \mathrm{tr}(SS_w SS_b^+)`, in [0, inf).

    Both covariances weigh class k by n_k/N; D equals K times ``between_inverse_trace`` of that convention. In a trained network
    :math:`D_l \approx \rho^l D_0` with 0 < ρ < 1. nan if all class means coincide.

    Reference:
        He & Su (2023), PNAS, "A law of data separation in deep learning".
    """
    return between_inverse_trace(centers, decisions, "he_su", divide_by_classes=False)


class CdnvSums:
    """CDNV added up over pairs, and the share of it that noise explains."""

    def __init__(self, moments: ClassMoments, squares: Tensor, dist_exp: float = 1.0, noise: Tensor | None = None) -> None:
        self.means, self.variances, self.noise, self.squares = moments.class_means, moments.class_variances, noise, squares
        self.floor, self.dist_exp = moments.rounding_floor[..., None, None], dist_exp
        self.num_pairs = moments.num_classes * (moments.num_classes - 1) // 2
        self.total, self.explained = torch.zeros_like(self.floor[..., 0, 0]), torch.zeros_like(self.floor[..., 0, 0])

    def add(self, tile: PairTile) -> None:
        """Add the pairs of one tile of centered class means."""
        distance = tile.squared_distances(self.squares, self.means, _NEAR)
        variance = tile.sums(self.variances)
        value = tile.pairs(nan_unless(variance / (2 * distance**self.dist_exp), distance > self.floor))
        self.total += value.sum(dim=-1)
        if self.noise is not None:
            # The value is a mean of variances over squared distances, so it also tells their noise over squared distances. A
            # pair whose distance is noise counts as far as noise explains it.
            ratio = tile.pairs(2 * tile.sums(self.noise) / variance)
            self.explained += (value * (value * ratio).nan_to_num(nan=0.0).clamp(max=1)).sum(dim=-1)

    @property
    def mean(self) -> Tensor:
        """Mean over pairs."""
        return self.total / self.num_pairs if self.num_pairs else self.total * math.nan

    @property
    def noise_share(self) -> Tensor:
        """Share of the mean that noise explains."""
        return self.explained / self.total


def cdnv_matrix(moments: ClassMoments, *, dist_exp: float = 1.0) -> Tensor:
    r"""Return the class-distance normalized variance of every pair of classes.

    :math:`V_{kl} = (\mathrm{Var}_k + \mathrm{Var}_l) / (2\lVert \mu_k - \mu_l \rVert^{2p})`: shape (K, K), symmetric, nan on
    the diagonal and for pairs of coinciding means.

    Args:
        dist_exp: The exponent p; 1 is the definition, 2 is used for language models.
    """
    means, variances = moments.class_means, moments.class_variances
    # From explicit differences: the matrix-product form of cdist loses digits for means far from the origin.
    distance = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    value = (variances.unsqueeze(1) + variances) / (2 * distance**dist_exp)
    return nan_unless(value, distance > moments.rounding_floor)


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
    means = moments.centered_means()
    sums = CdnvSums(moments, means.square().sum(dim=-1), dist_exp)
    add_pairs(means, [sums])
    return sums.mean


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
