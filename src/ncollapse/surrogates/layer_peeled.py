"""The layer-peeled model: cross-entropy with bounded weight and features, and the imbalance at which minorities collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.optimize import brentq
from torch import Tensor

from ncollapse.surrogates.checks import check_positive
from ncollapse.surrogates.losses import loss_value
from ncollapse.surrogates.nuclear import NuclearProgram, split_product
from ncollapse.surrogates.problem import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.proximal import NuclearProblem, Proximal

# Beyond this imbalance a threshold is not looked for.
_LARGEST_RATIO = 1e6


@dataclass(frozen=True)
class LayerPeeled(NuclearProblem):
    r"""Layer-peeled model.

    .. math:: \min \sum_k p_k\, \mathrm{CE}(W h_k, k) \quad \text{with} \quad \frac{1}{K} \sum_k \lVert w_k \rVert^2 \le E_W,
        \quad \frac{1}{K} \sum_k \lVert h_k \rVert^2 \le E_H

    Samples of a class share their features at the optimum (Jensen), so h_k are class means. The model is a convex program: the
    least loss over logits Z with :math:`\lVert Z \rVert_* \le \tau = K \sqrt{E_W E_H}`. Of majority and minority classes the
    minorities share one mean and one classifier row iff :math:`p_{min} \le \lVert G \rVert_2`, G being the gradient in Z.

    Attributes:
        shares: p_k, frequencies of the classes, positive, summing to one.
        e_w: :math:`E_W`, positive.
        e_h: :math:`E_H`, positive.
        dim: d; None takes K, which is always enough.

    Raises:
        ValueError: If a number is out of range.

    Reference:
        Fang, He, Long & Su (2021), PNAS; the nuclear-norm form is derived.

    Example:
        >>> balanced = LayerPeeled((0.1,) * 10, e_w=1.0, e_h=5.0)
        >>> round(balanced.closed_form().value, 13), round(balanced.solve().value, 11)
        (0.5597815240104, 0.55978152401)
    """

    shares: tuple[float, ...]
    e_w: float
    e_h: float
    dim: int | None = None

    def __post_init__(self) -> None:
        check_positive(e_w=self.e_w, e_h=self.e_h)
        if len(self.shares) < 2 or not min(self.shares) > 0 or not math.isclose(sum(self.shares), 1, rel_tol=1e-9):
            raise ValueError(
                f"shares must be positive, of two or more classes, and sum to one, got {self.shares}. "
                "Divide the counts by their sum."
            )
        if self.dim is not None:
            check_positive(dim=self.dim)

    @classmethod
    def imbalanced(
        cls, num_classes: int, num_majority: int, ratio: float, *, e_w: float, e_h: float, oversampling: float = 1.0
    ) -> LayerPeeled:
        """Majority classes with R times the samples of the minority classes.

        Args:
            num_classes: K, at least 2.
            num_majority: K_A, from 1 to K-1: these classes come first.
            ratio: R, at least 1; need not be whole.
            e_w: E_W.
            e_h: E_H.
            oversampling: Weight of a minority sample in the loss; R restores balance.

        Returns:
            The model.

        Raises:
            ValueError: If a number is out of range.
        """
        if not 1 <= num_majority < num_classes:
            raise ValueError(f"num_majority must be from 1 to num_classes - 1, got {num_majority} of {num_classes} classes.")
        if not ratio >= 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}. The majority classes are those with more samples.")
        check_positive(oversampling=oversampling, ratio=ratio)
        total = num_majority * ratio + (num_classes - num_majority) * oversampling
        shares = (ratio / total,) * num_majority + (oversampling / total,) * (num_classes - num_majority)
        return cls(shares, e_w, e_h)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.shares)

    @cached_property
    def labels(self) -> Tensor:
        """One row of features a class."""
        return torch.arange(self.num_classes)

    @property
    def default_solver(self) -> Proximal:
        """Accelerated projected gradient descent in the logits."""
        return Proximal()

    @property
    def radius(self) -> float:
        r""":math:`\tau = K \sqrt{E_W E_H}`, the largest nuclear norm of the logits."""
        return self.num_classes * math.sqrt(self.e_w * self.e_h)

    @cached_property
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits a class."""
        shares = torch.tensor(self.shares, dtype=torch.float64)
        return NuclearProgram("ce", self.labels, shares, torch.ones_like(shares), radius=self.radius)

    def start(self, seed: int) -> Variables:
        """Standard normal weight and features, not within the bounds.

        Args:
            seed: Of the generator.

        Returns:
            The point.
        """
        generator = torch.Generator().manual_seed(seed)
        dim = self.num_classes if self.dim is None else self.dim
        weight, features = torch.randn(2, self.num_classes, dim, generator=generator, dtype=torch.float64)
        return {"weight": weight, "features": features}

    def objective(self, variables: Variables) -> Tensor:
        """Cross-entropy; the bounds on the variables are the solver's business.

        Args:
            variables: "weight" and "features", of shape (K, d).

        Returns:
            0-d tensor.
        """
        return loss_value("ce", variables["features"] @ variables["weight"].T, self.labels, self.program.shares)

    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """Refused: a solver that follows the gradient leaves the bounds.

        Args:
            variables: A point.

        Raises:
            TypeError: Always.
        """
        raise TypeError("LayerPeeled bounds its variables, which only Proximal() respects. Leave the solver out.")

    def certificate(self, variables: Variables) -> Certificate:
        """Lower bound from the dual of the convex program.

        Args:
            variables: A point within the bounds.

        Returns:
            The bound and the condition of minority collapse.
        """
        logits = variables["features"] @ variables["weight"].T
        norm, bound = self.program.dual(logits, logits.new_zeros(self.num_classes))
        return Certificate(bound, Inequality("smallest share <= ‖G‖₂ (minority collapse)", min(self.shares), norm))

    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Weight and class means with given logits, both bounds reached together.

        Args:
            logits: Shape (K, K).
            bias: Unused: the model has none.

        Returns:
            The point.
        """
        dim = self.num_classes if self.dim is None else self.dim
        features, weight = split_product(logits, dim, math.sqrt(self.e_w / self.e_h))
        return {"weight": weight, "features": features}

    def closed_form(self) -> Solution:
        r"""The global minimum for balanced classes: a simplex ETF, :math:`Z = \sqrt{E_W E_H} \frac{K}{K-1} (I - 11^T/K)`.

        Its value is :math:`\log(1 + (K-1) e^{-\sqrt{E_W E_H} K/(K-1)})`.

        Returns:
            The solution.

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


def minority_cosine(solution: Solution, num_majority: int) -> float:
    """Mean cosine between the classifier rows of minority classes: -1/(K-1) for an ETF, 1 once they have collapsed.

    Args:
        solution: Of a model whose majority classes come first.
        num_majority: K_A.

    Returns:
        A number in [-1, 1]; nan for a single minority class.
    """
    rows = torch.nn.functional.normalize(solution.variables["weight"][num_majority:], dim=1)
    cosines = rows @ rows.T
    return float(cosines[~torch.eye(len(rows), dtype=torch.bool)].mean())


def minority_threshold(num_classes: int, num_majority: int, *, e_w: float, e_h: float, tolerance: float = 1e-6) -> float:
    r"""Imbalance :math:`R_0` from which on the minority classes of the layer-peeled model collapse.

    The root of :math:`\lVert G \rVert_2 - p_{minority}`, bracketed by doubling R and found by Brent's bisection.

    Args:
        num_classes: K.
        num_majority: K_A, at most K-2.
        e_w: E_W.
        e_h: E_H.
        tolerance: Relative error of R_0.

    Returns:
        R_0, at least 1.

    Raises:
        ValueError: If a number is out of range, or there is no threshold below 1e6.

    Example:
        >>> round(minority_threshold(4, 2, e_w=1.0, e_h=2.0), 3)
        7.618
    """
    if num_majority > num_classes - 2:
        raise ValueError(f"A threshold needs two or more minority classes, got {num_classes - num_majority}.")

    def excess(log_ratio: float) -> float:
        model = LayerPeeled.imbalanced(num_classes, num_majority, math.exp(log_ratio), e_w=e_w, e_h=e_h)
        branch = model.solve(Proximal(tolerance=1e-10)).certificate.inequality
        return (branch.right - branch.left) / branch.left

    high = math.log(2)
    while excess(high) < 0:
        high += math.log(2)
        if high > math.log(_LARGEST_RATIO):
            raise ValueError(f"No minority collapse up to R = {_LARGEST_RATIO:g} with e_w * e_h = {e_w * e_h:g}; lower it.")
    return math.exp(float(brentq(excess, high - math.log(2), high, xtol=tolerance)))
