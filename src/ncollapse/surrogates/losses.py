"""The two losses of the surrogate models as functions of logits: value, gradient, convex conjugate."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

LossName = Literal["mse", "ce"]


def check_loss(name: str) -> None:
    """Check the name of a loss.

    Args:
        name: What a user asked for.

    Raises:
        ValueError: If it is none of them.
    """
    if name not in get_args(LossName):
        raise ValueError(f"loss must be 'mse' or 'ce', got {name!r}.")


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Targets in float64.

    Args:
        labels: Shape (N,).
        num_classes: K.

    Returns:
        Shape (N, K).
    """
    return torch.nn.functional.one_hot(labels, num_classes).double()


def loss_value(name: LossName, logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    r"""Weighted loss of logits.

    :math:`\frac{1}{2} \sum_i p_i \lVert z_i - e_{y_i} \rVert^2` or :math:`\sum_i p_i (\log\sum_j e^{z_{ij}} - z_{i y_i})`.

    Args:
        name: "mse" or "ce".
        logits: Z, shape (N, K).
        labels: y, shape (N,).
        shares: p, weights of the rows that sum to one, shape (N,): 1/N, or class frequencies where rows are classes.

    Returns:
        0-d tensor.
    """
    if name == "mse":
        return 0.5 * shares @ (logits - one_hot(labels, logits.shape[1])).square().sum(dim=1)
    return shares @ torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def precise_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Mean cross-entropy to full relative precision, however small.

    It is :math:`\frac1N \sum_i \log(1 + \sum_{j \ne y_i} e^{z_{ij} - z_{i y_i}})`; the difference of a logarithm and a logit
    would lose the digits of a loss of 1e-5 and its slope.

    Args:
        logits: Z, shape (N, K).
        labels: y, shape (N,).

    Returns:
        0-d tensor.
    """
    chosen = labels.unsqueeze(1)
    odds = (logits - logits.gather(1, chosen)).scatter(1, chosen, -torch.inf)
    return -torch.nn.functional.logsigmoid(-odds.logsumexp(dim=1)).mean()


def loss_gradient(name: LossName, logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    r"""Gradient Γ of ``loss_value``: :math:`p_i (z_i - e_{y_i})` or :math:`p_i (\mathrm{softmax}(z_i) - e_{y_i})`.

    Args:
        name: "mse" or "ce".
        logits: Z, shape (N, K).
        labels: y, shape (N,).
        shares: p, shape (N,).

    Returns:
        Shape (N, K).
    """
    outputs = logits if name == "mse" else torch.softmax(logits, dim=1)
    return shares.unsqueeze(1) * (outputs - one_hot(labels, logits.shape[1]))


def loss_conjugate(name: LossName, gradient: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    r"""Convex conjugate of ``loss_value``.

    :math:`\sum_i (\lVert \Gamma_i \rVert^2 / 2p_i + \langle \Gamma_i, e_{y_i} \rangle)` or
    :math:`\sum_i p_i \sum_j P_{ij} \log P_{ij}` with :math:`P = e_y + \Gamma / p`.

    Args:
        name: "mse" or "ce".
        gradient: Γ, shape (N, K); for "ce" the gradient at some logits, or t times one with t in [0, 1], so that the rows of
            P are probabilities.
        labels: y, shape (N,).
        shares: p, shape (N,).

    Returns:
        0-d tensor.
    """
    targets = one_hot(labels, gradient.shape[1])
    if name == "mse":
        return (gradient.square().sum(dim=1) / (2 * shares)).sum() + (gradient * targets).sum()
    # A rounding below zero is a probability of zero.
    probabilities = torch.clamp(targets + gradient / shares.unsqueeze(1), min=0)
    return shares @ torch.special.xlogy(probabilities, probabilities).sum(dim=1)
