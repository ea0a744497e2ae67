"""The central path of the squared loss, and the exact law of the renormalized gradient flow along it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from ncollapse.surrogates.mse_decomposition import decompose_mse, least_squares_classifier
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_positive
from ncollapse.surrogates.solving.flows import FlowEnd, follow
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Variables, unless_it_holds
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True)
class CentralPath(CountsProblem):
    r"""Features on the central path: the squared loss of their least-squares classifier, balanced, without decay.

    .. math:: \min_H \min_{W, b} \frac{1}{2N} \lVert W H + b 1^T - Y \rVert^2 = \frac{1}{2K} \sum_j \frac{1}{1 + \omega_j^2}

    The signals :math:`\omega_j` are the K-1 singular values of the centered class means over √K, in coordinates where
    :math:`\Sigma_W = I` (``whiten``). Their squares are the eigenvalues of :math:`\Sigma_W^{-1/2} \Sigma_B \Sigma_W^{-1/2}`.
    The gradient flow that keeps :math:`\Sigma_W = I` moves each signal by a law of its own (``signal_after``). All signals
    grow without end, and their ratios tend to 1.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        dim: d, at most N - K so that Σ_W has full rank.

    Reference:
        Han, Papyan & Donoho (2022), ICLR; this form of the law is derived.
    """

    counts: tuple[int, ...]
    dim: int

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_balanced(self.counts, "CentralPath")
        check_positive(dim=self.dim)
        freedom = (self.counts[0] - 1) * self.num_classes
        if self.dim > freedom:
            raise ValueError(
                f"The within-class covariance has full rank for dim <= N - K = {freedom}, got {self.dim}. Take more samples or "
                "fewer dimensions."
            )

    # The loss has an infimum and no minimum: they go as far as its digits.
    solvers = (LBFGS, GradientDescent)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal deviations around standard normal class means, whitened."""
        means, noise = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return {"features": self.whiten(means[self.labels] + noise)}

    def _parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Centered class means (K, d) and deviations from class means (N, d)."""
        means = features.reshape(self.num_classes, -1, self.dim).mean(dim=1)
        return means - means.mean(dim=0), features - means[self.labels]

    def whiten(self, features: Tensor) -> Tensor:
        r"""Multiply features (N, d), sorted by class, by :math:`\Sigma_W^{-1/2}`."""
        _, deviations = self._parts(features)
        sizes, axes = torch.linalg.eigh(deviations.T @ deviations / len(features))
        return features @ (axes / sizes.sqrt()) @ axes.T

    def signals(self, features: Tensor) -> Tensor:
        r"""Return the min(K-1, d) signals :math:`\omega_j` of features (N, d), largest first."""
        means, _ = self._parts(self.whiten(features))
        return torch.linalg.svdvals(means)[: min(self.num_classes - 1, self.dim)] / math.sqrt(self.num_classes)

    def complete(self, variables: Variables) -> Variables:
        """Add the least-squares classifier."""
        weight, bias = least_squares_classifier(variables["features"], self.labels, self.num_classes, lambda_w=0.0)
        return {**variables, "weight": weight, "bias": bias}

    def objective(self, variables: Variables) -> Tensor:
        """Return the loss of the least-squares classifier of "features" (N, d)."""
        return self._residual(variables["features"])[0].square().sum() / (2 * len(self.labels))

    def _residual(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Errors (N, K) of the least-squares classifier and its weight (K, d)."""
        centered = features - features.mean(dim=0)
        targets = one_hot(self.labels, self.num_classes) - 1 / self.num_classes
        weight = torch.linalg.solve(centered.T @ centered, centered.T @ targets).T
        return centered @ weight.T - targets, weight

    def certificate(self, variables: Variables) -> Certificate:
        """Return the infimum: zero unless the dimension leaves a class without a direction."""
        missing = max(0, self.num_classes - 1 - self.dim)
        reached = unless_it_holds(Inequality("K - 1 <= d", self.num_classes - 1, self.dim))
        return Certificate(missing / (2 * self.num_classes), reached)

    def flow(self, start: Variables, *, duration: float, num_steps: int = 1000) -> FlowEnd:
        r"""Follow the negative gradient in the features, projected on :math:`\Sigma_W = I`, by Runge–Kutta steps of order four.

        Args:
            start: "features", sorted by class. They are whitened first.
            duration: The last time. Signals move at times of order N K.

        Returns:
            The last point, with the path.
        """

        def retract(variables: Variables) -> Variables:
            # Errors of rounding in Σ_W would grow with the signals.
            return {"features": self.whiten(variables["features"])}

        return follow(self, self._slope, retract(start), duration, num_steps, retract)

    def _slope(self, variables: Variables) -> Variables:
        features = variables["features"]
        residual, weight = self._residual(features)
        descent = -residual @ weight / len(features)
        _, deviations = self._parts(features)
        _, pull = self._parts(descent)
        # Normal to the constraint are the symmetric maps of the deviations.
        normal = pull.T @ deviations / len(features)
        return {"features": descent - deviations @ (normal + normal.T) / 2}

    def losses(self, features: Tensor) -> tuple[float, float]:
        """Return the loss, split by ``decompose_mse`` into the parts of NC1 and of NC2 and NC3."""
        point = self.complete({"features": features})
        parts = decompose_mse(features, self.labels, point["weight"], point["bias"], lambda_w=0.0)
        return parts.nc1, parts.nc23


def signal_after(start: float, time: float, *, counts: Sequence[int]) -> float:
    r"""Compute a signal ω(t) along the renormalized flow of ``CentralPath`` from ω(0) > 0.

    It solves :math:`\dot\omega = \frac{1}{NK} \omega / (1 + \omega^2)^2`, so :math:`\log \omega + \omega^2 + \omega^4/4`
    grows by :math:`t/(NK)`.

    Returns:
        ω(t).

    Reference:
        Derived; Han, Papyan & Donoho (2022), ICLR, give the same form.

    Example:
        >>> [round(signal_after(start, 2e5, counts=(40,) * 4), 2) for start in (1.26, 1.06, 0.67)]
        [5.78, 5.78, 5.77]
    """
    check_positive(start=start)
    check_balanced(counts, "signal_after")
    goal = _clock(start) + time / (len(counts) ** 2 * counts[0])
    # ω⁴/4 alone has passed the goal there.
    highest = start + (4 * abs(goal)) ** 0.25 + 1
    return float(brentq(lambda signal: _clock(signal) - goal, start, highest, xtol=1e-14, rtol=1e-15))


def _clock(signal: float) -> float:
    return math.log(signal) + signal**2 + signal**4 / 4
