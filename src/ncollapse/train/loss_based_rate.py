"""Training past the underflow of the loss: full batches at a learning rate proportional to one over the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ncollapse.data import LabeledData
from ncollapse.margins import log_loss

_RISE = 2 ** (1 / 5)
_FALL = 2 ** (-1 / 10)


@dataclass(frozen=True)
class LossBasedRate:
    r"""Loss-based learning rate: :math:`\alpha \mathcal{L}_0 / \mathcal{L}`, with an α that adapts.

    Near a perfect fit the mean loss falls so fast that steps at a fixed rate become tiny; divided by the loss, they keep their
    length. α grows by :math:`2^{1/5}` after an epoch in which the loss fell, and shrinks by :math:`2^{1/10}` after one that is
    undone. That rule wants the lowest loss, and with one step per epoch it outruns the gradient flow: the normalized margin
    then is below its limit. A fixed α below :math:`2 / (\rho^2 \mathcal{L}_0)` follows the flow up to the parameter norm ρ.

    Attributes:
        alpha: α, positive.
        num_classes: K; :math:`\mathcal{L}_0 = \log K` is the loss of equal logits.

    Raises:
        ValueError: If a number is out of range.

    Reference:
        Lyu & Li (2020), ICLR, and its public code.

    Example:
        >>> rate = LossBasedRate(alpha=0.1, num_classes=4)
        >>> round(rate.learning_rate(log_loss=math.log(1e-3)), 6)
        138.629436
    """

    alpha: float
    num_classes: int
    adapt: bool = True

    def __post_init__(self) -> None:
        if not (0 < self.alpha < math.inf and self.num_classes >= 2):
            raise ValueError(
                f"LossBasedRate needs a positive alpha and two or more classes, got {self.alpha} and {self.num_classes}. "
                "Try alpha=1."
            )

    @property
    def base(self) -> float:
        r""":math:`\mathcal{L}_0`."""
        return math.log(self.num_classes)

    def learning_rate(self, log_loss: float) -> float:
        """Return the rate of an epoch from the log of the mean loss before it; inf once the loss has underflown."""
        exponent = math.log(self.alpha * self.base) - log_loss
        return math.exp(exponent) if exponent < 709 else math.inf

    def after(self, fell: bool) -> LossBasedRate:
        """Return the rate of the next epoch: with a larger α if the loss fell, a smaller one if not."""
        return replace(self, alpha=self.alpha * (_RISE if fell else _FALL)) if self.adapt else self


@dataclass(frozen=True)
class MarginRecord:
    """One epoch of ``train_by_loss``.

    Attributes:
        epoch: Counted from 1.
        log_loss: Logarithm of the mean loss after it.
        alpha: α of the epoch.
        kept: Whether the loss fell; else the epoch was undone.
    """

    epoch: int
    log_loss: float
    alpha: float
    kept: bool


def train_by_loss(
    model: nn.Module, data: LabeledData, *, epochs: int, alpha: float = 0.1, adapt: bool = True
) -> Iterator[MarginRecord]:
    r"""Train on full batches of the cross-entropy at a loss-based learning rate, one step per epoch.

    A step at the rate :math:`\alpha \mathcal{L}_0 / \mathcal{L}` is one of :math:`\alpha \mathcal{L}_0` along the gradient of
    :math:`\log \mathcal{L}`, which is how it is taken: exact for losses far below the smallest number. Between two records the
    model is the caller's. It must draw no random numbers and keep no running statistics, or an undone epoch is not undone.

    Args:
        model: Maps inputs (N, d) to logits (N, num_classes), on the device of the data; best in float64.
        data: The training set; inputs are taken in the type of the model.
        epochs: Steps, 1 or more.
        adapt: Whether it changes, see ``LossBasedRate``.

    Returns:
        An iterator over the records.

    Raises:
        ValueError: If there are no epochs or samples, or alpha is out of range.

    Example:
        >>> from ncollapse.data import gaussian_mixture
        >>> data = gaussian_mixture(num_classes=2, dim=3, per_class=8)
        >>> [record.epoch for record in train_by_loss(torch.nn.Linear(3, 2), data, epochs=2)]
        [1, 2]
    """
    if epochs < 1 or data.num_samples == 0:
        raise ValueError(
            f"train_by_loss needs one epoch and one sample or more, got {epochs} and {data.num_samples}. Pass more."
        )
    return _run(model, data, epochs, LossBasedRate(alpha, data.num_classes, adapt))


def _run(model: nn.Module, data: LabeledData, epochs: int, rate: LossBasedRate) -> Iterator[MarginRecord]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inputs, labels = data.inputs.to(parameters[0].dtype), data.labels
    model.train()

    def evaluate() -> tuple[float, tuple[Tensor, ...]]:
        log = log_loss(model(inputs), labels)
        return float(log.detach()) - math.log(data.num_samples), torch.autograd.grad(log, parameters)

    before, gradients = evaluate()
    for epoch in range(1, epochs + 1):
        kept_values = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate.alpha * rate.base * gradient)
        after, there = evaluate()
        fell = after < before
        if fell:
            before, gradients = after, there
        else:
            with torch.no_grad():
                for parameter, value in zip(parameters, kept_values, strict=True):
                    parameter.copy_(value)
        yield MarginRecord(epoch, before, rate.alpha, fell)
        rate = rate.after(fell)
