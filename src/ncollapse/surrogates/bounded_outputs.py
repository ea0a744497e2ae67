"""Outputs within a ball: cross-entropy over bounded functions, and why averaging outputs by class never hurts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ncollapse.etf import simplex_etf
from ncollapse.surrogates.solving.arguments import check_counts, check_positive
from ncollapse.surrogates.solving.losses import loss_value, one_hot
from ncollapse.surrogates.solving.problem import CountsProblem, Solver
from ncollapse.surrogates.solving.projected import Constrained, ProjectedGradient
from ncollapse.surrogates.solving.solution import Certificate, Solution, Variables


@dataclass(frozen=True)
class BoundedOutputs(CountsProblem, Constrained):
    r"""Cross-entropy of outputs :math:`z_i \in R^K` with :math:`\lVert z_i \rVert \le R`, free otherwise.

    Every sample's least loss is :math:`\log(1 + (K-1) e^{-R \sqrt{K/(K-1)}})`, at :math:`z = R (\sqrt{(K-1)/K}\, e_y -
    \sum_{j \ne y} e_j / \sqrt{K(K-1)})` alone: outputs collapse to a simplex ETF of norm R, whatever the counts.

    Attributes:
        counts: n_k, samples of each class.
        radius: R, positive.

    Reference:
        E & Wojtowytsch (2022), MSML; Lu & Steinerberger (2022), ACHA.

    Example:
        >>> round(BoundedOutputs((3, 1, 2), radius=2.0).minimum, 10)
        0.1592876851
    """

    counts: tuple[int, ...]
    _: KW_ONLY
    radius: float

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_positive(radius=self.radius)

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """Projected gradient descent: the problem is convex."""
        return (ProjectedGradient,)

    @property
    def minimum(self) -> float:
        """The global minimum."""
        K = self.num_classes
        return math.log1p((K - 1) * math.exp(-self.radius * math.sqrt(K / (K - 1))))

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Standard normal outputs, brought into the ball."""
        return self.retract({"features": normal(self.num_samples, self.num_classes)})

    def retract(self, variables: Variables) -> Variables:
        """Shorten rows that are longer than R."""
        rows = variables["features"]
        return {"features": rows * (self.radius / torch.linalg.norm(rows, dim=1, keepdim=True)).clamp(max=1)}

    def complete(self, variables: Variables) -> Variables:
        """The point itself."""
        return variables

    def tangent(self, variables: Variables, gradient: Variables) -> Variables:
        """All of the gradient: the ball has an inside."""
        return gradient

    def objective(self, variables: Variables) -> Tensor:
        """Mean cross-entropy of the outputs, "features" (N, K)."""
        shares = torch.full((self.num_samples,), 1 / self.num_samples, dtype=torch.float64)
        return loss_value("cross_entropy", variables["features"], self.labels, shares)

    def certificate(self, variables: Variables) -> Certificate:
        """The global minimum, which holds within the ball."""
        return Certificate(self.minimum)

    def closed_form(self) -> Solution:
        """A simplex ETF of norm R.

        Returns:
            The global minimum, in K coordinates that sum to zero.
        """
        K = self.num_classes
        # The frame's Gram matrix is a multiple of a projection: its rows are the frame itself, turned into K coordinates.
        frame = simplex_etf(K, K - 1)
        outputs = self.radius * math.sqrt((K - 1) / K) * frame @ frame.T
        return self.solution({"features": outputs[self.labels]}, "closed form")


def average_by_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Replace every sample's outputs by the mean over its class: by convexity the loss never rises.

    Args:
        outputs: Shape (N, K).
        labels: Shape (N,).

    Returns:
        Shape (N, K): within-class variability zero.

    Reference:
        E & Wojtowytsch (2022), MSML: Jensen's inequality.
    """
    membership = one_hot(labels, int(labels.max()) + 1)
    means = membership.T @ outputs.double() / membership.sum(dim=0).clamp(min=1).unsqueeze(1)
    return means[labels]
