"""NC3: alignment of the classifier with the class means, and the strong collapse conditions of the squared loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ncollapse.metrics.geometry import gram_distance
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import ClassWeights
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments


def self_duality(weight: Tensor, centered_means: Tensor, *, squared: bool = True) -> Tensor:
    r"""Compute the squared distance of classifier and centered class means, each divided by its norm.

    :math:`\lVert W/\lVert W\rVert_F - \bar M/\lVert \bar M\rVert_F \rVert_F^2`. Dimensionless, in [0, 4]; 0 at
    exact collapse, 4 for opposite directions. Invariant to scale of either argument and to a common rotation.

    Args:
        weight: W, shape (K, d), float64.
        centered_means: Class means minus the mean of class means, shape (K, d), float64.
        squared: False returns the distance itself, in [0, 2].

    Returns:
        0-d tensor, float64; nan if either is zero.

    Reference:
        Papyan, Han & Donoho (2020), PNAS (their notebook squares).
    """
    difference = weight / torch.linalg.norm(weight) - centered_means / torch.linalg.norm(centered_means)
    value = difference.square().sum()
    return value if squared else value.sqrt()


def self_duality_etf(weight: Tensor, centered_means: Tensor) -> Tensor:
    r"""Compute the distance of the normalized product of classifier and class means from the ETF Gram matrix.

    :math:`\lVert W \bar M^T / \lVert W \bar M^T \rVert_F - E_K \rVert_F`. Dimensionless, in [0, 2]; 0 at exact
    collapse, 2 for W = -cM on an ETF.

    Args:
        weight: W, shape (K, d), float64.
        centered_means: Class means minus the mean of class means, shape (K, d), float64.

    Returns:
        0-d tensor, float64; nan if the product is zero.

    Reference:
        Zhu et al. (2021), NeurIPS.
    """
    return gram_distance(weight, centered_means)


def self_duality_cosine(decisions: ClassDecisions) -> Tensor:
    r"""Compute :math:`1 - \frac{1}{N} \sum_i \cos(h_i, w_{y_i})`: 1 minus the mean cosine of features to classifier rows.

    The features are not centered. Dimensionless, in [0, 2]; 0 at exact collapse around the origin.

    Args:
        decisions: Decisions with the sums of cosines.

    Returns:
        0-d tensor, float64; nan if a feature or a classifier row is zero.

    Reference:
        arXiv 2505.15239 (2025), known to us from a summary (docs/theory.md, 2.3).
    """
    return 1.0 - decisions.cosine_sums.sum() / decisions.counts.sum()


def bias_collapse(moments: ClassMoments, classifier: LinearClassifier, center: ClassWeights = "class") -> Tensor:
    r"""Compute the norm of the global mean's logits, :math:`\lVert W \mu_G + b \rVert_2`; they cancel at collapse.

    In units of logits, in [0, inf); 0 at exact collapse of a network trained with weight decay.

    Args:
        moments: Class moments of the layer that feeds the classifier.

    Returns:
        0-d tensor, float64.

    Reference:
        Zhu et al. (2021), NeurIPS (their code).
    """
    return torch.linalg.vector_norm(classifier.weight @ moments.global_mean(center) + classifier.bias)


def strong_collapse_weights(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Compute SNC1, :math:`\lVert W W^T - \sqrt{n}\, \Pi_K \rVert_F`, for n samples per class and the loss ½‖WH + b1ᵀ - Y‖².

    In units of squared weights, in [0, inf); 0 at strong collapse.

    Args:
        moments: Class moments with equal counts.

    Returns:
        0-d tensor, float64; nan for unequal counts.

    Reference:
        Mixon, Parshall & Pi (2020), "Neural collapse with unconstrained features".
    """
    num_classes = moments.num_classes
    projector = torch.eye(num_classes, dtype=torch.float64, device=classifier.weight.device) - 1.0 / num_classes
    return torch.linalg.norm(classifier.weight @ classifier.weight.T - _common_count(moments).sqrt() * projector)


def strong_collapse_features(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Compute SNC2, :math:`\lVert H - n^{-1/2} W^T \otimes 1_n^T \rVert_F`, from moments alone.

    The square is :math:`\sum_k \mathrm{tr} S_k + n \lVert \mu_k - w_k/\sqrt{n} \rVert^2`. In units of features; 0 at strong
    collapse.

    Args:
        moments: Class moments with equal counts.

    Returns:
        0-d tensor, float64; nan for unequal counts.

    Reference:
        Mixon, Parshall & Pi (2020), "Neural collapse with unconstrained features".
    """
    n = _common_count(moments)
    offset = moments.class_means - classifier.weight / n.sqrt()
    return (moments.scatter_traces.sum() + n * offset.square().sum()).sqrt()


def strong_collapse_bias(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Compute SNC3, :math:`\lVert b - \frac{1}{K} 1 \rVert_2`.

    In units of logits; 0 at strong collapse.

    Args:
        moments: Class moments, for the number of classes and their counts.

    Returns:
        0-d tensor, float64; nan for unequal counts, where the target is not defined.

    Reference:
        Mixon, Parshall & Pi (2020), "Neural collapse with unconstrained features".
    """
    return torch.linalg.vector_norm(classifier.bias - 1.0 / moments.num_classes) + 0.0 * _common_count(moments)


def _common_count(moments: ClassMoments) -> Tensor:
    counts = moments.counts.double()
    return torch.where((counts == counts[0]).all(), counts[0], torch.nan)
