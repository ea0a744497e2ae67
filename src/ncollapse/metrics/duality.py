"""NC3: alignment of the classifier with the class means, and the strong collapse conditions (SNC1-3) of the squared loss.

SNC1-3 are for the loss ½‖WH + b1ᵀ - Y‖² with n samples in every class, and nan for unequal counts. They are those of Mixon,
Parshall & Pi (2020), "Neural collapse with unconstrained features".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ncollapse.metrics.geometry import GramRows, gram_distance
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import ClassWeights
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments


def self_duality(weight: Tensor, centered_means: Tensor, *, squared: bool = True) -> Tensor:
    r"""Return the squared distance of classifier and centered class means, each divided by its norm.

    :math:`\lVert W/\lVert W\rVert_F - \bar M/\lVert \bar M\rVert_F \rVert_F^2`, in [0, 4]; 4 for opposite directions. Invariant
    to the scale of either argument and to a common rotation. nan if either is zero.

    Args:
        squared: False returns the distance itself, in [0, 2].

    Reference:
        Papyan, Han & Donoho (2020), PNAS (their notebook squares).

    Example:
        >>> means = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
        >>> [round(float(self_duality(weight, means)), 6) for weight in (2 * means, -means)]
        [0.0, 4.0]
    """
    difference = weight / torch.linalg.norm(weight) - centered_means / torch.linalg.norm(centered_means)
    value = difference.square().sum()
    return value if squared else value.sqrt()


def self_duality_etf(weight: Tensor | GramRows, centered_means: Tensor | GramRows) -> Tensor:
    r"""Return the distance of the normalized product of classifier and class means from the ETF Gram matrix.

    :math:`\lVert W \bar M^T / \lVert W \bar M^T \rVert_F - E_K \rVert_F`, in [0, 2]; 2 for W = -cM on an ETF. nan if the
    product is zero.

    Reference:
        Zhu et al. (2021), NeurIPS.
    """
    return gram_distance(weight, centered_means)


def self_duality_cosine(decisions: ClassDecisions) -> Tensor:
    r"""Return :math:`1 - \frac{1}{N} \sum_i \cos(h_i, w_{y_i})`: 1 minus the mean cosine of features to classifier rows.

    In [0, 2]. The features are not centered: it is 0 at exact collapse around the origin. nan if a feature or a classifier row
    is zero.

    Reference:
        arXiv 2505.15239 (2025), known to us from a summary (docs/theory.md, 2.3).
    """
    return 1.0 - decisions.cosine_sums.sum() / decisions.counts.sum()


def bias_collapse(moments: ClassMoments, classifier: LinearClassifier, center: ClassWeights = "class") -> Tensor:
    r"""Return the norm of the global mean's logits, :math:`\lVert W \mu_G + b \rVert_2`, in units of logits, in [0, inf).

    They cancel at exact collapse of a network trained with weight decay.

    Reference:
        Zhu et al. (2021), NeurIPS (their code).
    """
    return torch.linalg.vector_norm(classifier.weight @ moments.global_mean(center) + classifier.bias)


def strong_collapse_weights(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Return SNC1, :math:`\lVert W W^T - \sqrt{n}\, \Pi_K \rVert_F`, in units of squared weights."""
    num_classes = moments.num_classes
    projector = torch.eye(num_classes, dtype=torch.float64, device=classifier.weight.device) - 1.0 / num_classes
    return torch.linalg.norm(classifier.weight @ classifier.weight.T - _common_count(moments).sqrt() * projector)


def strong_collapse_features(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Return SNC2, :math:`\lVert H - n^{-1/2} W^T \otimes 1_n^T \rVert_F`, in units of features, from moments alone.

    The square is :math:`\sum_k \mathrm{tr} S_k + n \lVert \mu_k - w_k/\sqrt{n} \rVert^2`.
    """
    n = _common_count(moments)
    offset = moments.class_means - classifier.weight / n.sqrt()
    return (moments.scatter_traces.sum() + n * offset.square().sum()).sqrt()


def strong_collapse_bias(moments: ClassMoments, classifier: LinearClassifier) -> Tensor:
    r"""Return SNC3, :math:`\lVert b - \frac{1}{K} 1 \rVert_2`, in units of logits."""
    return torch.linalg.vector_norm(classifier.bias - 1.0 / moments.num_classes) + 0.0 * _common_count(moments)


def _common_count(moments: ClassMoments) -> Tensor:
    counts = moments.counts.double()
    return torch.where((counts == counts[0]).all(), counts[0], torch.nan)
