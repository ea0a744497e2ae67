"""Weak and strong collapse of held-out samples: their distance from the class means of the training set."""

from __future__ import annotations

from torch import Tensor

from ncollapse.metrics.variability import defined
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments, rounding_floor


def strong_collapse(moments: ClassMoments, reference: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Compute the mean squared distance of samples from their own class's training mean, over tr Σ_B of training.

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \lVert h_{k,i} - \mu_k^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, from moments
    alone: the inner sum is :math:`\mathrm{tr} S_k + n_k \lVert \mu_k - \mu_k^{tr} \rVert^2`. Dimensionless, in [0, inf); 0 when
    held-out samples collapse to the training means of their own classes. On the training set itself it is
    ``within_between_ratio`` (PFC1), in every convention. Invariant to a common translation, rotation and scale.

    Args:
        moments: Moments of the measured samples.
        reference: Moments of the training set; on the training set itself the same as ``moments``.
        convention: Class weights. "sample" is the mean over samples of the definition; the default weights classes equally.

    Returns:
        0-d tensor, float64; nan if the training means coincide or a class has no samples.

    Reference:
        Hui, Belkin & Nakkiran (2022), "Limitations of neural collapse for understanding generalization in deep learning";
        the computable form is ours (docs/theory.md, 2.4).
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=1)
    return _relative_to_between(moments, moments.class_variances + offsets, reference, convention)


def weak_collapse(
    moments: ClassMoments, decisions: ClassDecisions, reference: ClassMoments, convention: Convention = "class"
) -> Tensor:
    r"""Compute the mean squared distance of samples from the nearest training mean, over tr Σ_B of training.

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \min_j \lVert h_{k,i} - \mu_j^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, which is
    ``strong_collapse`` plus the sum of the margins to the nearest mean. Dimensionless, in [0, strong], up to the rounding of
    that sum; equal to strong iff every sample is nearest to its own class. Invariant to a common translation, rotation, scale.

    Args:
        moments: Moments of the measured samples.
        decisions: Decisions about the same samples by the means of the training set.
        reference: Moments of the training set.
        convention: Class weights, as in ``strong_collapse``.

    Returns:
        0-d tensor, float64; nan if the training means coincide or a class has no samples.

    Reference:
        Hui, Belkin & Nakkiran (2022), "Limitations of neural collapse for understanding generalization in deep learning";
        the computable form is ours (docs/theory.md, 2.4).
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=1)
    nearest = moments.class_variances + offsets + decisions.margin_sums / decisions.counts
    return _relative_to_between(moments, nearest, reference, convention)


def _relative_to_between(moments: ClassMoments, distances: Tensor, reference: ClassMoments, convention: Convention) -> Tensor:
    between = reference.between_trace(convention)
    mean = moments.class_weights(convention_parts(convention).within) @ distances
    return defined(mean / between, between > rounding_floor(reference))
