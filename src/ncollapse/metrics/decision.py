"""NC4: decisions by the nearest class center (NCC), their agreement with the classifier, and collapse of held-out samples.

Decisions are shares of samples, in [0, 1]. The centers are the training set's class means; ties go to the smallest index.

Metrics of held-out samples compare moments of the measured samples with ``reference``, the moments of the training set, and are
nan if the training means coincide. "sample" weights give the mean over samples of the definition; the default weighs classes
equally. They are of Hui, Belkin & Nakkiran (2022), "Limitations of neural collapse for understanding generalization in deep
learning"; the forms that follow from moments alone are ours (docs/theory.md, 2.4).
"""

from __future__ import annotations

from torch import Tensor

from ncollapse.metrics.variability import cdnv, nan_unless
from ncollapse.statistics.conventions import Convention, convention_parts
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments


def ncc_accuracy(decisions: ClassDecisions) -> Tensor:
    r"""Return PFC3, the NCC accuracy :math:`\frac{1}{N} \sum_i 1\{\arg\min_k \lVert h_i - \mu_k \rVert = y_i\}`.

    1 at exact collapse.

    Reference:
        PFC3 of arXiv 2405.00985, eqs (9) and (19).

    Example:
        >>> import torch
        >>> from ncollapse.statistics import ClassCenters, ClassMoments
        >>> h, y = torch.tensor([[0.0], [2.0], [10.0], [1.0]]), torch.tensor([0, 0, 1, 1])
        >>> centers = ClassCenters.from_moments(ClassMoments.from_batch(h, y, num_classes=2))
        >>> float(ncc_accuracy(ClassDecisions.from_batch(h, y, centers)))
        0.75
    """
    return decisions.ncc_correct.sum(dim=-1) / decisions.counts.sum(dim=-1)


def left_out_accuracy(decisions: ClassDecisions) -> Tensor:
    """Return the accuracy of the nearest class center where each sample is left out of the mean of its own class."""
    # A sample is part of its own class mean, which lies nearer to it for that reason: few samples in many dimensions are all
    # nearest to their own mean, even without classes. Left out, it is at n/(n-1) |h - μ_k| from it. The value is 1 at exact
    # collapse. A sample that is alone in its class counts as wrong, because its class has no mean without it.
    return decisions.left_out_correct.sum() / decisions.left_out.sum()


def ncc_error(decisions: ClassDecisions, *, balanced: bool = False) -> Tensor:
    """Return the nearest-class-center error, 1 - ``ncc_accuracy``: PFC3 as a value that falls.

    Args:
        balanced: Average the error over classes instead of samples (the form in the bound of 4(K-1) times CDNV).
    """
    wrong = decisions.counts - decisions.ncc_correct
    return (wrong / decisions.counts).mean(dim=-1) if balanced else wrong.sum(dim=-1) / decisions.counts.sum(dim=-1)


def ncc_agreement(decisions: ClassDecisions) -> Tensor:
    r"""Return NC4, the share of samples on which the network's logits and the nearest class center decide alike.

    :math:`\frac{1}{N} \sum_i 1\{\arg\max_k z_k(x_i) = \arg\min_k \lVert h_i - \mu_k \rVert\}` with the returned logits z, which
    are W h + b for a linear classifier. 1 at exact collapse.

    Reference:
        Papyan, Han & Donoho (2020), PNAS.
    """
    return decisions.agree.sum() / decisions.counts.sum()


def ncc_mismatch(decisions: ClassDecisions) -> Tensor:
    """Return the share of samples on which logits and nearest class center decide otherwise, 1 - ``ncc_agreement``."""
    return (decisions.counts - decisions.agree).sum() / decisions.counts.sum()


def classifier_accuracy(choices: ClassifierChoices) -> Tensor:
    r"""Return the accuracy of the network, :math:`\frac{1}{N} \sum_i 1\{\arg\max_k z_k(x_i) = y_i\}` with its logits z.

    1 at exact collapse.
    """
    return choices.correct.sum().double() / choices.counts.sum()


def strong_collapse(moments: ClassMoments, reference: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the mean squared distance of samples from their own class's training mean, over tr Σ_B of training, in [0, inf).

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \lVert h_{k,i} - \mu_k^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, where the inner
    sum is :math:`\mathrm{tr} S_k + n_k \lVert \mu_k - \mu_k^{tr} \rVert^2`. On the training set itself it is
    ``within_between_ratio`` (PFC1), in every convention.
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=-1)
    return _relative_to_between(moments, moments.class_variances + offsets, reference, convention)


def weak_collapse(
    moments: ClassMoments, decisions: ClassDecisions, reference: ClassMoments, convention: Convention = "class"
) -> Tensor:
    r"""Return the mean squared distance of samples from the nearest training mean, over tr Σ_B of training.

    :math:`\sum_k \frac{\alpha_k}{n_k} \sum_i \min_j \lVert h_{k,i} - \mu_j^{tr} \rVert^2 / \mathrm{tr} \Sigma_B^{tr}`, which is
    ``strong_collapse`` plus the sum of the margins to the nearest mean. In [0, strong], up to the rounding of that sum; equal
    to strong iff every sample is nearest to its own class.
    """
    offsets = (moments.class_means - reference.class_means).square().sum(dim=-1)
    nearest = moments.class_variances + offsets + decisions.margin_sums / decisions.counts
    return _relative_to_between(moments, nearest, reference, convention)


def held_out_variability(moments: ClassMoments, reference: ClassMoments, convention: Convention = "class") -> Tensor:
    r"""Return the within-class variability of these samples over the between-class variability of training, 0 or more.

    :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_B^{tr}`: training means with test variances. On the training set itself it
    is ``within_between_ratio`` (PFC1). Unlike ``strong_collapse`` it does not see that the class means move.
    """
    between = reference.between_trace(convention)
    within = moments.within_trace(convention_parts(convention).within)
    return nan_unless(within / between, between > reference.rounding_floor)


def held_out_cdnv(moments: ClassMoments, reference: ClassMoments) -> Tensor:
    r"""Return the CDNV with the variances of these samples and the class means of training, 0 or more.

    The mean over pairs of :math:`(\mathrm{Var}_k + \mathrm{Var}_j) / (2 \lVert \mu_k^{tr} - \mu_j^{tr} \rVert^2)`. On the
    training set itself it is ``cdnv``; nan if two training means coincide.
    """
    return cdnv(ClassMoments(moments.counts, reference.class_means, moments.scatter_traces))


def _relative_to_between(moments: ClassMoments, distances: Tensor, reference: ClassMoments, convention: Convention) -> Tensor:
    between = reference.between_trace(convention)
    mean = (moments.class_weights(convention_parts(convention).within) * distances).sum(dim=-1)
    return nan_unless(mean / between, between > reference.rounding_floor)
