"""Cross-entropy of outputs within a ball, and of outputs that are averaged by class."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ncollapse.etf import simplex_etf
from ncollapse.surrogates.solving.arguments import check_counts, check_positive
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Solution, Variables
from ncollapse.surrogates.solving.solvers import Constrained, ProjectedGradient


@dataclass(frozen=True)
class BoundedOutputs(CountsProblem, Constrained):
    r"""Mean cross-entropy of free outputs within a ball of radius R.

    .. math:: \min_{z_i \in R^K} \frac1N \sum_i \mathrm{CE}(z_i, y_i) \quad \text{with} \quad \lVert z_i \rVert \le R

    The least loss of a sample is :math:`\log(1 + (K-1) e^{-R \sqrt{K/(K-1)}})`. Only :math:`z = R (\sqrt{(K-1)/K}\, e_y -
    \sum_{j \ne y} e_j / \sqrt{K(K-1)})` reaches it, so outputs collapse to a simplex ETF of norm R, whatever the counts.

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

    solvers = (ProjectedGradient,)

    @property
    def minimum(self) -> float:
        """The global minimum."""
        K = self.num_classes
        return math.log1p((K - 1) * math.exp(-self.radius * math.sqrt(K / (K - 1))))

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal outputs, brought into the ball."""
        return self.retract({"features": normal(self.num_samples, self.num_classes)})

    def retract(self, variables: Variables) -> Variables:
        """Shorten rows that are longer than R."""
        rows = variables["features"]
        return {"features": rows * (self.radius / torch.linalg.norm(rows, dim=1, keepdim=True)).clamp(max=1)}

    def objective(self, variables: Variables) -> Tensor:
        """Mean cross-entropy of the outputs, "features" (N, K)."""
        return self._mean_loss("cross_entropy", variables["features"])

    def certificate(self, variables: Variables) -> Certificate:
        """Return the global minimum."""
        return Certificate(self.minimum)

    def closed_form(self) -> Solution:
        """Return the global minimum: a simplex ETF of norm R."""
        K = self.num_classes
        # The frame's Gram matrix is a multiple of a projection: its rows are the frame itself, turned into K coordinates.
        frame = simplex_etf(K, K - 1)
        outputs = self.radius * math.sqrt((K - 1) / K) * frame @ frame.T
        return self.solution({"features": outputs[self.labels]}, "closed form")


def average_by_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Replace the outputs (N, K) of each sample by their class mean. A convex loss never rises (E & Wojtowytsch 2022)."""
    membership = one_hot(labels, int(labels.max()) + 1)
    means = membership.T @ outputs.double() / membership.sum(dim=0).clamp(min=1).unsqueeze(1)
    return means[labels]
