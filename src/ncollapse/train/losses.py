"""The losses that collapse is studied under, as means over the samples of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ncollapse.recipes.training import LossName, TrainConfig

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the softmax."""
    # \frac1B \sum_i \Big(\log \sum_k e^{z_{ik}} - z_{i y_i}\Big)
    #
    # In nats, in [0, inf); log K for logits that are all equal; invariant to a shift of a sample's logits.
    return functional.cross_entropy(logits, labels)


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Squared distance to the one-hot targets: halved, summed over classes, averaged over samples."""
    # \frac1{2B} \sum_i \lVert z_i - e_{y_i} \rVert^2
    #
    # In [0, inf); 1/2 for logits that are all 0, for any K. This is the scale of the unconstrained-features literature;
    # ``torch.nn.functional.mse_loss`` also divides by the number of classes and does not halve, so it is 2/K of this.
    #
    # Reference:
    #     Han, Papyan and Donoho (2022), ICLR; Zhou et al. (2022), ICML.
    targets = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return (logits - targets).square().sum() / (2 * len(logits))


def dot_regression(logits: Tensor, labels: Tensor, scale: float = 1.0) -> Tensor:
    r"""Squared distance of the true class's logit to its largest value, for a fixed classifier."""
    # \frac1B \sum_i \frac{1}{2 s} (w_{y_i}^T h_i - s)^2, \quad s = \sqrt{E_W E_H}
    #
    # In [0, inf); 0 where every feature is aligned with its class's row. Its gradient in a feature of norm one, along the
    # sphere or not, is -(1 - \cos) w_y: it pulls, and nothing pushes. The other logits do not count, so that with a
    # trained classifier all logits may go to s: take it with ``FixedETFHead``.
    #
    # Reference:
    #     Yang et al. (2022), NeurIPS.
    true = logits.gather(1, labels.unsqueeze(1))
    return (true - scale).square().mean() / (2 * scale)


LOSSES: dict[LossName, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": mean_squared_error,
    "dot_regression": dot_regression,
}
"""From a loss's name in a recipe to the function ``(logits, labels) -> 0-d tensor``."""


def batch_loss(config: TrainConfig, counts: Tensor) -> Loss:
    """Return the loss of a batch that a recipe asks for, given how many training samples each class has."""
    loss = LOSSES["cross_entropy" if config.loss == "mcr2" else config.loss]
    if config.balance == "weights":
        weights = counts.sum().double() / (len(counts) * counts.clamp(min=1))
        of_samples = torch.vmap(lambda logits, label: loss(logits.unsqueeze(0), label.unsqueeze(0)))
        # A mean over samples, not over their weights: over an epoch it is then the mean over classes of their mean losses.
        return lambda logits, labels: (weights.to(logits)[labels] * of_samples(logits, labels)).mean()
    if config.balance == "logits":
        priors = (counts.double() / counts.sum()).log()
        return lambda logits, labels: loss(logits + priors.to(logits), labels)
    return loss
