"""Blocks of a tight frame and a thresholding: the least that concentrates or separates classes."""

import math
from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

Thresholding = Literal["relu", "softshrink", "abs"]


class TightFrameBlock(nn.Module):
    r"""Maps x to :math:`F^T \rho_\lambda(F x)` with :math:`F^T F = I`.

    ``softshrink`` and ``relu`` (:math:`\max(u - \lambda, 0)`) set small coefficients to zero: they reduce the variance within
    classes at nearly fixed means where means are sparse in the frame. ``abs`` separates classes whose means are alike and whose
    signs are not.

    Attributes:
        frame: F, shape (M, d), a parameter; ``parseval_step`` after each step of training keeps it nearly tight.

    Args:
        frame: F, shape (M, d), M at least d.
        activation: "relu", "softshrink" or "abs".
        threshold: λ, 0 or more; None takes a value for inputs of norm one: :math:`1/\sqrt{M}` for "relu",
            :math:`1.5/\sqrt{M}` for "softshrink", 0 for "abs".

    Raises:
        ValueError: If the shape, the activation or the threshold is out of range.

    Reference:
        Zarka, Guth & Mallat (2021), ICLR; the default thresholds are those of the public code.

    Example:
        >>> import torch
        >>> block = TightFrameBlock(torch.eye(4), "softshrink", threshold=1.0)
        >>> block(torch.tensor([[3.0, -2.0, 0.5, 0.0]])).tolist()
        [[2.0, -1.0, 0.0, 0.0]]
    """

    def __init__(self, frame: Tensor, activation: Thresholding, threshold: float | None = None) -> None:
        super().__init__()
        if frame.ndim != 2 or frame.shape[0] < frame.shape[1]:
            raise ValueError(
                f"TightFrameBlock needs a frame of shape (M, d) with M >= d, got {tuple(frame.shape)}. Transpose it."
            )
        if activation not in get_args(Thresholding):
            raise ValueError(
                f"activation must be one of {', '.join(get_args(Thresholding))}, got {activation!r}. Pick one of them."
            )
        suited = {"relu": 1.0, "softshrink": 1.5, "abs": 0.0}[activation] / math.sqrt(len(frame))
        self.frame = nn.Parameter(frame.clone())
        self.threshold = suited if threshold is None else threshold
        if not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, got {threshold}. Leave it out for one that suits the frame.")
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        """Analyze, threshold and synthesize."""
        return _RULES[self.activation](inputs @ self.frame.T, self.threshold) @ self.frame


def parseval_step(frame: Tensor, rate: float = 5e-4) -> Tensor:
    r"""Return F nearer to a tight frame: :math:`F \leftarrow (1 + \beta) F - \beta F F^T F`, rows set to :math:`\sqrt{d/M}`.

    F has shape (M, d). Repeated, the step comes to :math:`F^T F = I`.

    Reference:
        Cissé et al. (2017), ICML; Zarka, Guth & Mallat (2021), ICLR.
    """
    moved = (1 + rate) * frame - rate * frame @ (frame.T @ frame)
    return math.sqrt(frame.shape[1] / frame.shape[0]) * nn.functional.normalize(moved, dim=1)


def _soft(coefficients: Tensor, threshold: float) -> Tensor:
    return coefficients.sign() * (coefficients.abs() - threshold).clamp(min=0)


_RULES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "relu": lambda coefficients, threshold: (coefficients - threshold).clamp(min=0),
    "softshrink": _soft,
    "abs": lambda coefficients, threshold: (coefficients.abs() - threshold).clamp(min=0),
}
