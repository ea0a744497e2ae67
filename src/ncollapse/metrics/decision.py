"""NC4: decisions by the nearest class center (NCC), and their agreement with the classifier.

All are shares of samples, in [0, 1]. The centers are the training set's class means; ties go to the smallest index.
"""

from __future__ import annotations

from torch import Tensor

from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices


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
    return decisions.ncc_correct.sum() / decisions.counts.sum()


def left_out_accuracy(decisions: ClassDecisions) -> Tensor:
    r"""Return the accuracy of the nearest class center where each sample is left out of the mean of its own class.

    A sample is part of its own class mean, which lies nearer to it for that reason: few samples in many dimensions are all
    nearest to their own mean, even without classes. Left out, it is at :math:`\frac{n}{n-1} \lVert h - \mu_k \rVert` from it.
    1 at exact collapse. A sample that is alone in its class counts as wrong, because its class has no mean without it.
    """
    return decisions.left_out_correct.sum() / decisions.left_out.sum()


def ncc_error(decisions: ClassDecisions, *, balanced: bool = False) -> Tensor:
    """Return the nearest-class-center error, 1 - ``ncc_accuracy``: PFC3 as a value that falls.

    Args:
        balanced: Average the error over classes instead of samples (the form in the bound of 4(K-1) times CDNV).
    """
    wrong = decisions.counts - decisions.ncc_correct
    return (wrong / decisions.counts).mean() if balanced else wrong.sum() / decisions.counts.sum()


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
