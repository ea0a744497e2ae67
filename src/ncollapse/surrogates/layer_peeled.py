"""The layer-peeled model: cross-entropy with bounded weight and features, and Newton's method for it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.grouped import GroupedProgram
from ncollapse.surrogates.solving.losses import loss_value
from ncollapse.surrogates.solving.nuclear import NuclearProblem, NuclearProgram, Proximal, split_product
from ncollapse.surrogates.solving.problem import ClassMeansProblem, Problem, Solver, SolverResult
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables

# Newton's method takes about 4 G⁶ numbers for G groups of equally frequent classes: 4 million.
_MOST_GROUPS = 10


@dataclass(frozen=True)
class LayerPeeled(ClassMeansProblem, NuclearProblem):
    r"""Layer-peeled model.

    .. math:: \min \sum_k p_k\, \mathrm{CE}(W h_k, k) \quad \text{with} \quad \frac{1}{K} \sum_k \lVert w_k \rVert^2 \le E_W,
        \quad \frac{1}{K} \sum_k \lVert h_k \rVert^2 \le E_H

    The samples of a class share their features at the optimum, so the h_k are class means. The model is equivalent to a convex
    program: the least loss over logits Z with :math:`\lVert Z \rVert_* \le \tau = K \sqrt{E_W E_H}`. Let G be the gradient in
    Z. Minority classes share one mean and one classifier row iff :math:`p_{min} \le \lVert G \rVert_2`.

    Attributes:
        counts: n_k, samples of each class, positive. They need not be whole, because only :math:`p_k = n_k / N` matters.
        dim: d; None takes K, which is always enough.
        energy_w: :math:`E_W`, positive.
        energy_h: :math:`E_H`, positive.

    Reference:
        Fang, He, Long & Su (2021), PNAS; the nuclear-norm form is derived.

    Example:
        >>> balanced = LayerPeeled((1,) * 10, energy_w=1.0, energy_h=5.0)
        >>> round(balanced.closed_form().value, 13), round(balanced.solve().value, 11)
        (0.5597815240104, 0.55978152401)
    """

    counts: tuple[float, ...]
    dim: int | None = None
    _: KW_ONLY
    energy_w: float
    energy_h: float

    def __post_init__(self) -> None:
        check_positive(energy_w=self.energy_w, energy_h=self.energy_h)
        if len(self.counts) < 2 or not all(math.isfinite(count) and count > 0 for count in self.counts):
            raise ValueError(
                f"counts must be positive, one for each of two or more classes, got {self.counts}. Leave out classes without "
                "samples."
            )
        if self.dim is not None:
            check_positive(dim=self.dim)

    @classmethod
    def imbalanced(
        cls, num_classes: int, num_majority: int, ratio: float, *, energy_w: float, energy_h: float, oversampling: float = 1.0
    ) -> LayerPeeled:
        """Make a model whose majority classes have R times the samples of the minority classes.

        Args:
            num_classes: K, at least 2.
            num_majority: The number of majority classes, from 1 to K-1. They come first.
            ratio: R, at least 1. It need not be whole.
            oversampling: Weight of a minority sample in the loss. R restores balance.

        Returns:
            The model.

        Raises:
            ValueError: If a number is out of range.
        """
        if not 1 <= num_majority < num_classes:
            raise ValueError(
                f"num_majority must be from 1 to num_classes - 1, got {num_majority} of {num_classes} classes. Leave one "
                "class or more to either kind."
            )
        if not ratio >= 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}. The majority classes are those with more samples.")
        check_positive(oversampling=oversampling, ratio=ratio)
        counts = (ratio,) * num_majority + (oversampling,) * (num_classes - num_majority)
        return cls(counts, energy_w=energy_w, energy_h=energy_h)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """The share p_k of each class in the loss."""
        total = sum(number * count for count, number in Counter(self.counts).items())
        return tuple(count / total for count in self.counts)

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """Proximal descent, and before it Newton's method if at most 10 classes differ in their counts."""
        return (GroupedNewton, Proximal) if len(set(self.shares)) <= _MOST_GROUPS else (Proximal,)

    @property
    def radius(self) -> float:
        r"""The largest nuclear norm of the logits, :math:`\tau = K \sqrt{E_W E_H}`."""
        return self.num_classes * math.sqrt(self.energy_w * self.energy_h)

    @cached_property
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits per class."""
        shares = torch.tensor(self.shares, dtype=torch.float64)
        return NuclearProgram("cross_entropy", self.labels, shares, torch.ones_like(shares), radius=self.radius)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight and features, which need not keep the bounds."""
        dim = self.num_classes if self.dim is None else self.dim
        weight, features = normal(2, self.num_classes, dim)
        return {"weight": weight, "features": features}

    def objective(self, variables: Variables) -> Tensor:
        """Return the cross-entropy of "weight" and "features" (K, d). The bounds are not checked here."""
        return loss_value("cross_entropy", variables["features"] @ variables["weight"].T, self.labels, self.program.shares)

    def certificate(self, variables: Variables) -> Certificate:
        """Return the bound of the convex program's dual, and the condition of minority collapse."""
        logits = variables["features"] @ variables["weight"].T
        norm, bound = self.program.dual(logits, logits.new_zeros(self.num_classes))
        weak = "d < K" if self.dim is not None and self.dim < self.num_classes - 1 else ""
        return Certificate(bound, Inequality("minority collapse (smallest share <= ‖G‖₂)", min(self.shares), norm), weak)

    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Weight and class means with given logits that reach both bounds together."""
        dim = self.num_classes if self.dim is None else self.dim
        features, weight = split_product(logits, dim, math.sqrt(self.energy_w / self.energy_h))
        return {"weight": weight, "features": features}

    def closed_form(self) -> Solution:
        r"""Return the minimum for balanced classes: a simplex ETF, :math:`Z = \sqrt{E_W E_H} \frac{K}{K-1} (I - 11^T/K)`.

        Returns:
            The solution, of value :math:`\log(1 + (K-1) e^{-\sqrt{E_W E_H} K/(K-1)})`.

        Raises:
            ValueError: If the classes are not balanced, or dim < K-1.
        """
        if max(self.shares) - min(self.shares) > 1e-12:
            raise ValueError(
                f"The closed form needs balanced classes, got shares {self.shares}. Solve it numerically: solve()."
            )
        centered = torch.eye(self.num_classes, dtype=torch.float64) - 1 / self.num_classes
        logits = self.radius / (self.num_classes - 1) * centered
        return self.solution(self.from_logits(logits, logits[0]), "closed form")


@dataclass(frozen=True)
class GroupedNewton:
    """Newton's method for ``LayerPeeled``. Equally frequent classes share unknowns, and about ten steps suffice.

    It accepts at most 10 different counts, and takes no start.

    Attributes:
        tolerance: Gap to the lower bound at the end, relative to the objective.
        max_iterations: The number of steps after which it gives up.
    """

    tolerance: float = 1e-12
    max_iterations: int = 200

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Solve the convex program and split its logits into weight and features."""
        assert isinstance(problem, LayerPeeled)
        program = GroupedProgram(problem.shares, problem.radius)
        point, local = program.start, program.around(program.start)
        history = [local.value]
        while local.gap > self.tolerance * local.value and len(history) <= self.max_iterations:
            point, local = program.step(point, local)
            history.append(local.value)
        description = f"Newton's method, {len(history) - 1} steps in {len(point)} unknowns"
        converged = local.gap <= self.tolerance * local.value
        logits = torch.from_numpy(program.logits(point))
        return SolverResult(problem.from_logits(logits, logits[0]), tuple(history), converged, description, "gap")
