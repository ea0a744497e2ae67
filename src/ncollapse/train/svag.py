"""Stochastic variance amplified gradients: steps of any fineness along the same stochastic differential equation as SGD."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SVAG:
    r"""Two independent batches per step, weighted so that the gradient's mean stays and its covariance is l times as large.

    .. math:: L = \frac{1 + \sqrt{2l-1}}{2} L_1 + \frac{1 - \sqrt{2l-1}}{2} L_2

    With the learning rate η/l and l times as many steps all l approach :math:`dX = -\nabla L\,dt + (\eta \Sigma)^{1/2} dW`; l =
    1 is SGD. Where curves at equal time differ between l, that equation does not describe the training.

    Attributes:
        splits: l, 1 or more; need not be whole.

    Raises:
        ValueError: If l < 1.

    Reference:
        Li, Malladi & Arora (2021), NeurIPS.

    Example:
        >>> SVAG(5).weights
        (2.0, -1.0)
    """

    splits: float

    def __post_init__(self) -> None:
        if not 1 <= self.splits < math.inf:
            raise ValueError(f"SVAG needs splits of 1 or more, got {self.splits}. 1 is plain SGD.")

    @property
    def weights(self) -> tuple[float, float]:
        """Of the two batches' losses; they sum to one, their squares to l."""
        root = math.sqrt(2 * self.splits - 1)
        return (1 + root) / 2, (1 - root) / 2

    def learning_rate(self, base: float) -> float:
        """Return the rate of a step, η/l."""
        return base / self.splits

    def num_steps(self, base: int) -> int:
        """Return the steps for the same time: l times as many, rounded."""
        return round(base * self.splits)

    def loss(self, batch_loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss of one batch's two halves, 0-d: call ``backward`` on it.

        Args:
            batch_loss: Mean loss of inputs and labels.
            inputs: Two batches after one another, drawn independently, shape (2 B, ...).
            labels: Shape (2 B,).

        Raises:
            ValueError: If the number of samples is odd.
        """
        if len(labels) % 2:
            raise ValueError(f"SVAG needs two batches of one size, got {len(labels)} samples. Draw an even number.")
        half, (first, second) = len(labels) // 2, self.weights
        return first * batch_loss(inputs[:half], labels[:half]) + second * batch_loss(inputs[half:], labels[half:])


def ou_variance(learning_rate: float, noise: float, splits: float = 1.0) -> float:
    r"""Return the stationary variance of SVAG on :math:`L = \frac12 x^2` with gradient noise of variance :math:`s^2`.

    :math:`\eta s^2 / (2 - \eta/l)`, for l → ∞ that of the Ornstein–Uhlenbeck process, :math:`\eta s^2 / 2`.

    Raises:
        ValueError: If the learning rate η is not in (0, 2 l).

    Example:
        >>> [round(ou_variance(0.3, 1.0, splits), 5) for splits in (1, 2, 4)]
        [0.17647, 0.16216, 0.15584]
    """
    if not 0 < learning_rate < 2 * splits:
        raise ValueError(
            f"ou_variance needs a learning rate in (0, {2 * splits:g}), got {learning_rate}: steps diverge beyond. Lower the "
            "learning rate, or raise splits."
        )
    return learning_rate * noise**2 / (2 - learning_rate / splits)
