"""Normalized features and classifier: cross-entropy on a product of spheres, with a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ncollapse.etf import simplex_etf
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts, check_positive
from ncollapse.surrogates.solving.losses import loss_value
from ncollapse.surrogates.solving.problem import CountsProblem, Solver
from ncollapse.surrogates.solving.projected import Constrained, ProjectedGradient
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables, unless_it_holds


@dataclass(frozen=True)
class NormalizedFeatures(CountsProblem, Constrained):
    r"""Cross-entropy of :math:`\tau W H` with unit classifier rows and unit features, balanced classes.

    No point is below :math:`\log(1 + (K-1) e^{-\tau K/(K-1)})`, by Jensen's inequality over the margins. For d >= K-1 it is
    reached by h = w on a simplex ETF and nowhere else; with τ = 1 it is the energy of Lu & Steinerberger. For d < K-1 the
    minima are other codes on the sphere, above the bound.

    Attributes:
        counts: Samples of each class, all alike: ``balanced(K, n)``.
        dim: d, at least 2.
        temperature: τ, positive: the larger, the sharper.

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
            raise ValueError(f"dim must be at least 2, got {self.dim}: a sphere of two points cannot be descended on.")

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """Riemannian gradient descent; with d > K its only local minima are global."""
        return (ProjectedGradient,)

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
        r"""Riemannian gradient, row by row :math:`g - \langle g, h \rangle h`."""
        return {
            name: rows - (rows * variables[name]).sum(dim=1, keepdim=True) * variables[name] for name, rows in gradient.items()
        }

    def complete(self, variables: Variables) -> Variables:
        """The point itself."""
        return variables

    def objective(self, variables: Variables) -> Tensor:
        """Mean cross-entropy of "weight" (K, d) and "features" (N, d), unit rows."""
        logits = self.temperature * variables["features"] @ variables["weight"].T
        shares = torch.full((self.num_samples,), 1 / self.num_samples, dtype=torch.float64)
        return loss_value("cross_entropy", logits, self.labels, shares)

    def certificate(self, variables: Variables) -> Certificate:
        """The bound, which holds in any dimension."""
        return Certificate(self.minimum, unless_it_holds(Inequality("K - 1 <= d", self.num_classes - 1, self.dim)))

    def closed_form(self) -> Solution:
        """A simplex ETF, features on their classifier rows.

        Returns:
            The solution.

        Raises:
            ValueError: If d < K-1, where no closed form is known.
        """
        if self.dim < self.num_classes - 1:
            raise ValueError(
                f"The optimum is a simplex ETF for dim >= {self.num_classes - 1}, got {self.dim}. Solve numerically: solve()."
            )
        frame = simplex_etf(self.num_classes, self.dim)
        return self.solution({"weight": frame, "features": frame[self.labels]}, "closed form")
