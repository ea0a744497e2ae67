"""The two losses of the surrogate models as functions of logits: value, gradient, convex conjugate."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossName = Literal["mse", "cross_entropy"]
_ROUNDING = 1e-15


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Make one-hot targets in float64."""
    return torch.nn.functional.one_hot(labels, num_classes).double()


def loss_value(name: LossName, logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    """Weighted loss of logits: half the squared distance to the one-hot label, or the cross-entropy."""
    if name == "mse":
        return 0.5 * shares @ (logits - one_hot(labels, logits.shape[1])).square().sum(dim=1)
    # The loss of a sample is log(1 + the sum of e^(wrong logit - true logit)). The difference of a logarithm and a logit would
    # lose the digits of a loss of 1e-5 and of its slope.
    chosen = labels.unsqueeze(1)
    odds = (logits - logits.gather(1, chosen)).scatter(1, chosen, -torch.inf)
    return -shares @ torch.nn.functional.logsigmoid(-odds.logsumexp(dim=1))


def loss_gradient(name: LossName, logits: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    """Gradient Γ of ``loss_value``: the share of each sample times outputs less targets."""
    if name == "mse":
        return shares.unsqueeze(1) * (logits - one_hot(labels, logits.shape[1]))
    # The output of the true class is one less the sum of the others. That sum keeps all digits.
    chosen = labels.unsqueeze(1)
    wrong = torch.softmax(logits, dim=1).scatter(1, chosen, 0.0)
    return shares.unsqueeze(1) * wrong.scatter(1, chosen, -wrong.sum(dim=1, keepdim=True))


def gradient_rounding(weight: Tensor, features: Tensor, shares: Tensor) -> float:
    """Bound the error that rounding leaves in the spectral norm of the gradient in the logits of weight and features."""
    # With u the unit of rounding, a logit is a sum of d products, which costs d u ‖h‖ ‖w‖, of factors that are known to u
    # each, which costs 2 u ‖h‖ ‖w‖ more. The bias, the loss and the difference of outputs and targets add 4 u to entries of
    # rows whose norm is about one. The shares weigh these errors, and the Frobenius norm bounds the spectral norm. With tiny
    # decays outputs and targets agree in almost all digits: such an error is then far above 1e-6 of their difference.
    unit, dim = torch.finfo(torch.float64).eps / 2, weight.shape[1]
    logits = torch.linalg.norm(shares.unsqueeze(1) * features) * torch.linalg.norm(weight)
    return unit * float((dim + 2) * logits + 4 * torch.linalg.norm(shares))


def loss_conjugate(name: LossName, gradient: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
    """Convex conjugate of ``loss_value``."""
    targets = one_hot(labels, gradient.shape[1])
    if name == "mse":
        return (gradient.square().sum(dim=1) / (2 * shares)).sum() + (gradient * targets).sum()
    # It is minus the entropy of the probabilities of Γ, target + Γ / share, and infinite if these are no probabilities. For the
    # true classes the difference to one is used, which keeps its digits.
    change = gradient / shares.unsqueeze(1)
    probabilities = targets + change
    # One less the sum of the others may round to just below zero.
    if bool((probabilities < -_ROUNDING * targets).any()):
        return gradient.new_tensor(torch.inf)
    probabilities = probabilities.clamp(min=0)
    wrong = (1 - targets) * torch.special.xlogy(probabilities, probabilities)
    return shares @ (wrong + targets * torch.special.xlog1py(probabilities, targets * change)).sum(dim=1)
