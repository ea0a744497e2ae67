"""The gradient flow of the squared loss without decay, which leads to strong neural collapse."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.etf import helmert_basis
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_positive
from ncollapse.surrogates.solving.flows import FlowEnd, follow
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True)
class UnregularizedUFM(CountsProblem):
    r"""Unconstrained features under the squared loss without decay, balanced classes.

    .. math:: \min_{W, H, b} \frac12 \lVert W H + b 1^T - Y \rVert^2

    The model has many minima of loss zero. The start decides where the gradient flow ends. The flow conserves :math:`W^T W - H
    H^T`, and it does not leave the set with :math:`H = n^{-1/2} W^T \otimes 1_n^T`, :math:`1^T W = 0` and equal biases. On this
    set every eigenvalue of :math:`W W^T` and the bias have laws of their own (``collapsed_eigenvalue``, ``collapsed_bias``),
    and the flow ends at strong collapse: the metrics snc1, snc2 and snc3 vanish. From a random start of size ε they end at
    order ε.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        dim: d, at least K - 1.

    Reference:
        Mixon, Parshall & Pi (2020), "Neural collapse with unconstrained features"; the closed forms are derived.
    """

    counts: tuple[int, ...]
    dim: int

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_balanced(self.counts, "UnregularizedUFM")
        if self.dim < self.num_classes - 1:
            raise ValueError(f"Loss zero needs dim >= K - 1 = {self.num_classes - 1}, got {self.dim}. Raise dim.")

    # They find loss zero, not strong collapse.
    solvers = (LBFGS, GradientDescent)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight, features and bias. Multiply them by ε for a small start."""
        weight, features = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return {"weight": weight, "features": features, "bias": normal(self.num_classes)}

    def collapsed_start(self, eigenvalue: float, bias: float = 0.0) -> Variables:
        """Make a point of the invariant set with equal eigenvalues of W Wᵀ. At √n and bias 1/K it is strong collapse."""
        weight = torch.zeros(self.num_classes, self.dim, dtype=torch.float64)
        weight[:, : self.num_classes - 1] = math.sqrt(eigenvalue) * helmert_basis(self.num_classes).T
        features = (weight / math.sqrt(self.counts[0]))[self.labels]
        return {"weight": weight, "features": features, "bias": weight.new_full((self.num_classes,), bias)}

    def _residual(self, variables: Variables) -> Tensor:
        outputs = variables["features"] @ variables["weight"].T + variables["bias"]
        return outputs - one_hot(self.labels, self.num_classes)

    def objective(self, variables: Variables) -> Tensor:
        """Half the summed squared error of "weight" (K, d), "features" (N, d) and "bias" (K,)."""
        return 0.5 * self._residual(variables).square().sum()

    def certificate(self, variables: Variables) -> Certificate:
        """Return the global minimum, zero."""
        return Certificate(0.0)

    def closed_form(self) -> Solution:
        """Strong collapse, of loss zero."""
        return self.solution(self.collapsed_start(math.sqrt(self.counts[0]), 1 / self.num_classes), "strong collapse")

    def flow(self, start: Variables, *, duration: float, num_steps: int = 1000) -> FlowEnd:
        """Follow the negative gradient by Runge–Kutta steps of order four.

        Args:
            start: For example ``start(seed)`` times ε, or ``collapsed_start``.
            duration: The last time. Strong collapse takes about 2 log(1/ε)/√n.
            num_steps: The number of steps. Steps of 1/N are short enough for small starts.

        Returns:
            The last point, with the path.
        """

        def slope(point: Variables) -> Variables:
            # Written out: a flow takes thousands of gradients.
            residual = self._residual(point)
            rises = {"weight": residual.T @ point["features"], "features": residual @ point["weight"]}
            return {name: -part for name, part in (rises | {"bias": residual.sum(dim=0)}).items()}

        return follow(self, slope, start, duration, num_steps)

    def conserved_drift(self, end: FlowEnd) -> float:
        r"""Check the steps of a flow: the largest change of :math:`W^T W - H H^T`, which the exact flow conserves."""
        first, last = (
            point["weight"].T @ point["weight"] - point["features"].T @ point["features"]
            for point in end.path[:: len(end.path) - 1]
        )
        return float((last - first).abs().max())


def collapsed_eigenvalue(start: float, time: float, *, counts: Sequence[int]) -> float:
    r"""Compute an eigenvalue q(t) of :math:`W W^T` on the invariant set of ``UnregularizedUFM`` from q(0) > 0.

    :math:`q(t) = \sqrt n / (1 + (\sqrt n / q(0) - 1) e^{-2 \sqrt n t})` solves :math:`\dot q = -2 q (q - \sqrt n)`.

    Returns:
        q(t), which tends to √n.

    Reference:
        Derived, after Mixon, Parshall & Pi (2020).

    Example:
        >>> collapsed_eigenvalue(0.5, 0.0, counts=(4, 4)), round(collapsed_eigenvalue(0.5, 20.0, counts=(4, 4)), 12)
        (0.5, 2.0)
    """
    check_positive(start=start)
    check_balanced(counts, "collapsed_eigenvalue")
    root = math.sqrt(counts[0])
    return root / (1 + (root / start - 1) * math.exp(-2 * root * time))


def collapsed_bias(start: float, time: float, *, counts: Sequence[int]) -> float:
    r"""Compute the bias on the invariant set of ``UnregularizedUFM``: :math:`\frac1K + (b(0) - \frac1K) e^{-N t}`."""
    check_balanced(counts, "collapsed_bias")
    num_classes = len(counts)
    return 1 / num_classes + (start - 1 / num_classes) * math.exp(-num_classes * counts[0] * time)
