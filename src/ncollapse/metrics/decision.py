"""NC4: decisions by the nearest class center, and their agreement with the classifier."""

from __future__ import annotations

from torch import Tensor

from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices


def ncc_accuracy(decisions: ClassDecisions) -> Tensor:
    r"""Compute PFC3, the NCC accuracy :math:`\frac{1}{N} \sum_i 1\{\arg\min_k \lVert h_i - \mu_k \rVert = y_i\}`.

    In [0, 1]; 1 at exact collapse. The centers are those of the training set; ties go to the smallest index. Invariant to
    translation, rotation and scale.

    Args:
        decisions: Decisions by the training set's centers.

    Returns:
        0-d tensor, float64.

    Reference:
        PFC3 of arXiv 2405.00985, eqs (9) and (19).
    """
    return decisions.ncc_correct.sum() / decisions.counts.sum()


def ncc_error(decisions: ClassDecisions, *, balanced: bool = False) -> Tensor:
    """Compute the nearest-class-center error, 1 - ``ncc_accuracy``: PFC3 as a value that falls.

    In [0, 1]; 0 at exact collapse.

    Args:
        decisions: Decisions by the training set's centers.
        balanced: Average the error over classes instead of samples (the form in the bound of 4(K-1) times CDNV).

    Returns:
        0-d tensor, float64.
    """
    wrong = decisions.counts - decisions.ncc_correct
    return (wrong / decisions.counts).mean() if balanced else wrong.sum() / decisions.counts.sum()


def ncc_agreement(decisions: ClassDecisions) -> Tensor:
    r"""Compute NC4, the share of samples on which the network's logits and the nearest class center decide alike.

    :math:`\frac{1}{N} \sum_i 1\{\arg\max_k z_k(x_i) = \arg\min_k \lVert h_i - \mu_k \rVert\}` with the returned logits z, which
    are W h + b for a linear classifier. In [0, 1]; 1 at exact collapse.

    Args:
        decisions: Decisions of the last layer.

    Returns:
        0-d tensor, float64.

    Reference:
        Papyan, Han & Donoho (2020), PNAS.
    """
    return decisions.agree.sum() / decisions.counts.sum()


def ncc_mismatch(decisions: ClassDecisions) -> Tensor:
    """Compute the share of samples on which logits and nearest class center decide otherwise, 1 - ``ncc_agreement``.

    In [0, 1]; 0 at exact collapse.

    Args:
        decisions: Decisions of the last layer.

    Returns:
        0-d tensor, float64.
    """
    return (decisions.counts - decisions.agree).sum() / decisions.counts.sum()


def classifier_accuracy(choices: ClassifierChoices) -> Tensor:
    r"""Compute the accuracy of the network, :math:`\frac{1}{N} \sum_i 1\{\arg\max_k z_k(x_i) = y_i\}` with its logits z.

    In [0, 1]; 1 at exact collapse. Ties go to the smallest index.

    Args:
        choices: Counts of the network's choices.

    Returns:
        0-d tensor, float64.
    """
    return choices.correct.sum().double() / choices.counts.sum()
