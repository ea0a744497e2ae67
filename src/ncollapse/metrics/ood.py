"""Out-of-distribution detection with collapsed features: NC5, scores (higher means more in-distribution), AUROC.

Features have shape (M, ...), and a score is a float64 tensor of shape (M,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import flatten_features, row_blocks
from ncollapse.statistics.centers import LinearClassifier, first_true
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.scatter import ClassScatter


def ood_orthogonality(moments: ClassMoments, ood_features: Tensor) -> Tensor:
    r"""Return NC5, the mean over classes of :math:`\lvert \cos(\mu_k, \mu^{OOD}) \rvert`, features not centered, in [0, 1].

    0 when the mean of foreign samples is orthogonal to all class means. Invariant to rotation and scale. nan if a mean is zero.

    Reference:
        Ammar et al. (2024), ICLR, "NECO: neural collapse based out-of-distribution detection".
    """
    means, other = moments.class_means, flatten_features(ood_features).double().mean(dim=0)
    norms = torch.linalg.vector_norm(means, dim=1) * torch.linalg.vector_norm(other)
    return ((means @ other) / norms).abs().mean()


@dataclass(frozen=True, eq=False)
class PrincipalSubspace:
    """The span of the largest principal directions of training features, for ``neco_score``.

    Attributes:
        mean: First subtracted from the features, shape (d,), float64; zeros unless standardized.
        scale: The divisor of the features, shape (d,); ones unless standardized.
        directions: Orthonormal columns, shape (d, q).
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, features: Tensor, num_directions: int, *, standardize: bool = True) -> PrincipalSubspace:
        """Return the subspace of the largest principal directions of training features.

        Args:
            features: Shape (N, ...).
            num_directions: q; K-1 or K is natural at collapse.
            standardize: Center every feature and divide it by its standard deviation (a constant feature by 1), for the fit and
                for scores. False uses the principal directions of the centered features and scores features unchanged.

        Raises:
            ValueError: If q is not between 1 and min(N, d).
        """
        rows = flatten_features(features).double()
        if not 1 <= num_directions <= min(rows.shape):
            raise ValueError(f"num_directions must be between 1 and {min(rows.shape)}, got {num_directions}. Pass K - 1 or K.")
        mean = rows.mean(dim=0)
        std = torch.std(rows, dim=0, correction=0)
        scale = torch.where(std > 0, std, 1.0) if standardize else torch.ones_like(std)
        directions = torch.linalg.svd((rows - mean) / scale, full_matrices=False).Vh[:num_directions].T
        return cls(mean if standardize else torch.zeros_like(mean), scale, directions)


def neco_score(features: Tensor, subspace: PrincipalSubspace, *, max_logits: Tensor | None = None) -> Tensor:
    r"""Return NECO, the share of a feature's norm in the principal subspace, :math:`\lVert P^T h \rVert / \lVert h \rVert`.

    In [0, 1] without logits; 0 for features orthogonal to the subspace, 1 inside; nan for a feature of zeros (after
    standardization).

    Args:
        subspace: Fitted to the training features.
        max_logits: Largest logit of every sample, shape (M,), which multiplies the score.
    """
    rows = (flatten_features(features).double() - subspace.mean) / subspace.scale
    score = torch.linalg.vector_norm(rows @ subspace.directions, dim=1) / torch.linalg.vector_norm(rows, dim=1)
    return score if max_logits is None else score * max_logits.double()


def nci_score(features: Tensor, classifier: LinearClassifier, global_mean: Tensor, *, l1_weight: float = 0.0) -> Tensor:
    r"""Return the NCI score: the decided class's weights along the centered feature, plus a multiple of the norm.

    :math:`\langle w_{\hat y}, h - \mu \rangle / \lVert h - \mu \rVert + a \lVert h \rVert_1`. In units of weights (for a = 0),
    at most the norm of the decided row, which it reaches at self-duality. nan for a feature at the mean.

    Args:
        classifier: The last layer. Its largest logit decides the class, the smallest index on ties.
        global_mean: μ of the training features, shape (d,).
        l1_weight: a, chosen on held-out data.

    Reference:
        Liu & Qin (2025), CVPR, "Detecting out-of-distribution through the lens of neural collapse" (docs/theory.md, 2.8).
    """
    rows = flatten_features(features).double()
    logits = torch.addmm(classifier.bias, rows, classifier.weight.T)
    decided = first_true(logits == logits.amax(dim=1, keepdim=True))
    centered = rows - global_mean
    aligned = (centered * classifier.weight[decided]).sum(dim=1) / torch.linalg.vector_norm(centered, dim=1)
    return aligned + l1_weight * rows.abs().sum(dim=1)


def center_distance_score(features: Tensor, moments: ClassMoments) -> Tensor:
    r"""Return minus the distance to the nearest class mean, :math:`-\min_k \lVert h - \mu_k \rVert`, in units of features."""
    return -_nearest_distance(flatten_features(features), moments.class_means)


def mahalanobis_score(features: Tensor, scatter: ClassScatter, *, shrinkage: float = 1e-6) -> Tensor:
    r"""Return minus the squared Mahalanobis distance to the nearest mean, :math:`-\min_k (h-\mu_k)^T \Sigma^{-1} (h-\mu_k)`.

    :math:`\Sigma = \Sigma_W + s \frac{\mathrm{tr} \Sigma_W}{d} I` of the training set with sample weights: near collapse Σ_W
    alone is singular. For s = 0 invariant to every invertible linear map.

    Args:
        shrinkage: s, 0 or more.

    Raises:
        ValueError: If Σ is singular, as at exact collapse.

    Reference:
        Lee et al. (2018), NeurIPS.
    """
    within = scatter.within_covariance("sample").nan_to_num()
    return covariance_score(
        features, scatter.moments.class_means, within, scatter.moments.global_mean("sample"), shrinkage=shrinkage
    )


def covariance_score(features: Tensor, means: Tensor, within: Tensor, origin: Tensor, *, shrinkage: float = 1e-6) -> Tensor:
    """Return ``mahalanobis_score`` from the class means (K, d), the within-class covariance (d, d) and the global mean."""
    identity = torch.eye(len(within), dtype=within.dtype, device=within.device)
    factor, failed = torch.linalg.cholesky_ex(within + shrinkage * within.trace() / len(within) * identity)
    if bool(failed > 0):
        raise ValueError(
            f"mahalanobis_score needs a regular within-class covariance, got a singular one with shrinkage={shrinkage}. "
            "Raise shrinkage, or use center_distance_score for collapsed features."
        )

    def whitened(rows: Tensor) -> Tensor:
        # Centered first, since whitening multiplies the rounding of a large common offset.
        return torch.linalg.solve_triangular(factor, (rows - origin).T, upper=False).T

    return -_nearest_distance(whitened(flatten_features(features).double()), whitened(means)).square()


def _nearest_distance(rows: Tensor, means: Tensor) -> Tensor:
    blocks = [
        torch.cdist(rows[block].double(), means, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        for block in row_blocks(rows)
    ]
    return torch.cat(blocks) if blocks else means.new_zeros(0)


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    r"""Return the area under the ROC curve, :math:`P(s^{in} > s^{out}) + \frac{1}{2} P(s^{in} = s^{out})`, in [0, 1].

    1 if every in-distribution sample has the higher score, 1/2 for scores without information, nan if a score is nan.

    Raises:
        ValueError: If either is empty.

    Example:
        >>> auroc(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
        0.875
    """
    if not in_scores.numel() or not out_scores.numel():
        raise ValueError(
            f"auroc needs scores of both kinds, got {in_scores.numel()} in-distribution and {out_scores.numel()} foreign. "
            "Score samples of both."
        )
    given, other = in_scores.double().flatten(), out_scores.double().flatten().sort().values
    if bool(given.isnan().any()) or bool(other.isnan().any()):
        return float("nan")
    below = torch.searchsorted(other, given, right=False) + torch.searchsorted(other, given, right=True)
    return float(below.double().mean() / (2 * len(other)))
