"""L-BFGS on the whole training set: the loss and the weight decay are one objective, since a line search compares values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class LBFGSWithDecay(torch.optim.LBFGS):
    """L-BFGS with strong Wolfe conditions, several iterations a step, on the loss plus half the decay times squared weights."""

    def __init__(self, groups: Sequence[dict[str, Any]], learning_rate: float, iterations: int) -> None:
        parameters = [parameter for group in groups for parameter in group["params"]]
        # Never done by itself: losses of the terminal phase fall below any tolerance.
        super().__init__(
            parameters,
            lr=learning_rate,
            max_iter=iterations,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        self.decays = [(group["weight_decay"], group["params"]) for group in groups if group["weight_decay"] > 0]

    def descend(self, evaluate: Callable[[], Tensor]) -> None:
        """Take a step on the decay and the loss that a function returns, which also leaves the gradients of the loss."""
        # Its memory is empty at the start of every step, so there is no state to save.
        self.state.clear()
        self.step(lambda: float(evaluate() + self._decay()))  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _decay(self) -> Tensor | float:
        """Compute the penalty, and add its gradient."""
        penalty: Tensor | float = 0.0
        for weight_decay, parameters in self.decays:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter, alpha=weight_decay)
                    penalty = penalty + weight_decay / 2 * parameter.square().sum(dtype=torch.float64)
        return penalty


@contextmanager
def in_float64(network: nn.Module) -> Iterator[None]:
    """Compute in float64 in a body, with the same parameters; afterwards they are rounded to their own type."""
    # A line search compares losses, which in float32 are equal long before the gradient vanishes, and near a minimum most of
    # a gradient in float32 is rounding.
    dtype = next(network.parameters()).dtype
    network.double()
    try:
        yield
    finally:
        network.to(dtype)
