"""Cross-entropy of normalized features and a normalized classifier, with a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ncollapse.etf import simplex_etf
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_positive
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables, unless_it_holds
from ncollapse.surrogates.solving.solvers import Constrained, ProjectedGradient


@dataclass(frozen=True)
class NormalizedFeatures(CountsProblem, Constrained):
    r"""Cross-entropy of unit features and unit classifier rows with a temperature, balanced classes.

    .. math:: \min_{W, H} \frac1N \sum_i \mathrm{CE}(\tau W h_i, y_i) \quad \text{with} \quad \lVert w_k \rVert = 1, \quad
        \lVert h_i \rVert = 1

    By Jensen's inequality over the margins no point is below :math:`\log(1 + (K-1) e^{-\tau K/(K-1)})`. If d >= K-1, only h = w
    on a simplex ETF reaches this bound. If d < K-1, the minima are other codes on the sphere, above the bound. With τ = 1 the
    objective is the energy of Lu & Steinerberger.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        dim: d, at least 2.
        temperature: τ, positive. The larger it is, the sharper are the outputs.

    Reference:
        Yaras et al. (2022), NeurIPS; Lu & Steinerberger (2022), ACHA; for d < K-1 Jiang et al. (2024), ICML.

    Example:
        >>> round(NormalizedFeatures((1, 1, 1, 1), dim=3, temperature=2.0).minimum, 10)
        0.1893388394
    """

    counts: tuple[int, ...]
    dim: int
    _: KW_ONLY
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_balanced(self.counts, "NormalizedFeatures")
        check_positive(temperature=self.temperature)
        if self.dim < 2:
            raise ValueError(
                f"dim must be at least 2, got {self.dim}: a sphere of two points cannot be descended on. Raise dim."
            )

    # With d > K the only local minima are global.
    solvers = (ProjectedGradient,)

    @property
    def minimum(self) -> float:
        """The bound, which is the global minimum for d >= K-1."""
        K = self.num_classes
        return math.log1p((K - 1) * math.exp(-self.temperature * K / (K - 1)))

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Uniform points on the spheres."""
        weight, features = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return self.retract({"weight": weight, "features": features})

    def retract(self, variables: Variables) -> Variables:
        """Scale all rows to norm one."""
        return {name: torch.nn.functional.normalize(rows, dim=1) for name, rows in variables.items()}

    def tangent(self, variables: Variables, gradient: Variables) -> Variables:
        r"""Return the Riemannian gradient, :math:`g - \langle g, h \rangle h` for every row."""
        return {
            name: rows - (rows * variables[name]).sum(dim=1, keepdim=True) * variables[name] for name, rows in gradient.items()
        }

    def objective(self, variables: Variables) -> Tensor:
        """Return the mean cross-entropy of unit rows "weight" (K, d) and "features" (N, d)."""
        logits = self.temperature * variables["features"] @ variables["weight"].T
        return self._mean_loss("cross_entropy", logits)

    def certificate(self, variables: Variables) -> Certificate:
        """Return the bound. The inequality says whether it is the minimum."""
        fits = Inequality("K - 1 <= d", self.num_classes - 1, self.dim)
        return Certificate(self.minimum, unless_it_holds(fits), weak="" if fits.holds else "d < K - 1")

    def closed_form(self) -> Solution:
        """Return the global minimum for d >= K-1: a simplex ETF, with each feature on the classifier row of its class."""
        if self.dim < self.num_classes - 1:
            raise ValueError(
                f"The optimum is a simplex ETF for dim >= {self.num_classes - 1}, got {self.dim}. Solve numerically: solve()."
            )
        frame = simplex_etf(self.num_classes, self.dim)
        return self.solution({"weight": frame, "features": frame[self.labels]}, "closed form")
