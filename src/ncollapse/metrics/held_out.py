"""Collapse of held-out samples, measured by the class means of the training set.

All compare moments of the measured samples with ``reference``, the moments of the training set, and are nan if the training
means coincide. "sample" weights give the mean over samples of the definition; the default weighs classes equally. They are of
Hui, Belkin & Nakkiran (2022), "Limitations of neural collapse for understanding generalization in deep learning"; the forms
that follow from moments alone are ours (docs/theory.md, 2.4).
"""

from __future__ import annotations

from torch import Tensor

from ncollapse.metrics.variability import cdnv, nan_unless
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments, rounding_floor


def strong_collapse(moments: ClassMoments, reference: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the mean squared distance of samples from their own class's training mean, over tr Σ_B of training, in [0, inf).

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \lVert h_{k,i} - \mu_k^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, where the inner
    sum is :math:`\mathrm{tr} S_k + n_k \lVert \mu_k - \mu_k^{tr} \rVert^2`. On the training set itself it is
    ``within_between_ratio`` (PFC1), in every convention.
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=1)
    return _relative_to_between(moments, moments.class_variances + offsets, reference, convention)


def weak_collapse(
    moments: ClassMoments, decisions: ClassDecisions, reference: ClassMoments, convention: Convention = "class"
) -> Tensor:
    r"""Return the mean squared distance of samples from the nearest training mean, over tr Σ_B of training.

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \min_j \lVert h_{k,i} - \mu_j^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, which is
    ``strong_collapse`` plus the sum of the margins to the nearest mean. In [0, strong], up to the rounding of that sum; equal
    to strong iff every sample is nearest to its own class.
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=1)
    nearest = moments.class_variances + offsets + decisions.margin_sums / decisions.counts
    return _relative_to_between(moments, nearest, reference, convention)


def held_out_variability(moments: ClassMoments, reference: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the within-class variability of these samples over the between-class variability of training, 0 or more.

    :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_B^{tr}`: training means with test variances. On the training set itself it
    is ``within_between_ratio`` (PFC1). Unlike ``strong_collapse`` it does not see that the class means move.
    """
    between = reference.between_trace(convention)
    within = moments.within_trace(convention_parts(convention).within)
    return nan_unless(within / between, between > rounding_floor(reference))


def held_out_cdnv(moments: ClassMoments, reference: ClassMoments) -> Tensor:
    r"""Return the CDNV with the variances of these samples and the class means of training, 0 or more.

    The mean over pairs of :math:`(\mathrm{Var}_k + \mathrm{Var}_j) / (2 \lVert \mu_k^{tr} - \mu_j^{tr} \rVert^2)`. On the
    training set itself it is ``cdnv``; nan if two training means coincide.
    """
    return cdnv(ClassMoments(moments.counts, reference.class_means, moments.scatter_traces))


def _relative_to_between(moments: ClassMoments, distances: Tensor, reference: ClassMoments, convention: Convention) -> Tensor:
    between = reference.between_trace(convention)
    mean = moments.class_weights(convention_parts(convention).within) @ distances
    return nan_unless(mean / between, between > rounding_floor(reference))
