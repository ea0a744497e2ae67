"""Square loss with weight normalization: two classes, one product of norms, equal margins at the minimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.problem import Solver
from ncollapse.surrogates.solving.smoothed import ReLUProblem, SmoothedReLU, rounded_relu
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


def best_norm(margins: Tensor, *, lambda_w: float) -> float:
    r"""The product of norms at which the square loss of given normalized margins is stationary.

    :math:`\rho = \sum_i m_i / (N \lambda + \sum_i m_i^2)` minimizes :math:`\frac1N \sum_i (1 - \rho m_i)^2 + \lambda \rho^2`.

    Args:
        margins: :math:`m_i = \bar f(x_i) y_i` of the normalized network, shape (N,).
        lambda_w: λ, positive.

    Returns:
        ρ; for equal margins m it is 1/m without decay, so that the least norm has the largest margin.

    Reference:
        Poggio & Liao (2020).

    Example:
        >>> best_norm(torch.full((5,), 0.25), lambda_w=0.0625)
        2.0
    """
    check_positive(lambda_w=lambda_w)
    return float(margins.sum() / (len(margins) * lambda_w + margins.square().sum()))


def margin_variation(margins: Tensor) -> float:
    """Standard deviation of the margins over the size of their mean: 0 where all are equal.

    Args:
        margins: Shape (N,).

    Returns:
        At least 0; nan for a mean of zero.
    """
    mean = abs(float(margins.mean()))
    return float(margins.std(correction=0)) / mean if mean > 0 else math.nan


@dataclass(frozen=True, eq=False)
class WeightNormalizedNet(ReLUProblem):
    r"""Two layers with normalized weights, :math:`f = \rho \langle \hat v, \mathrm{relu}(\hat U x) \rangle`, for two classes.

    .. math:: \min \frac1N \sum_i (1 - \rho \bar f(x_i) y_i)^2 + \lambda \rho^2

    with :math:`\hat v = v/\lVert v \rVert`, :math:`\hat U = U/\lVert U \rVert_F` and :math:`y_i = \pm 1`. Stationary points
    have ``best_norm``; where the network interpolates, all margins are equal, which is within-class collapse of its output.
    With :math:`c_\pm = \sqrt{n_\pm}/\lVert X_\pm \rVert_2`, :math:`s = c_+ + c_-` and :math:`q = \sum_\pm N c_\pm^2/n_\pm` no
    point is below :math:`\lambda s^2/(1 + \lambda q)`. The bound is reached where each class is a single point and they are not
    at an acute angle.

    Attributes:
        inputs: X, shape (N, d).
        labels: 0 for y = -1, 1 for y = 1, both present, shape (N,).
        lambda_w: λ, positive.
        width: m, hidden units, at least 2.

    Raises:
        ValueError: If a number is out of range, there are other than two classes, or all inputs of one are zero.

    Reference:
        Poggio & Liao (2020); Xu, Rangamani, Liao, Galanti & Poggio (2023), Research. The bound is derived.
    """

    inputs: Tensor
    labels: Tensor
    _: KW_ONLY
    lambda_w: float
    width: int = 20

    def __post_init__(self) -> None:
        check_positive(lambda_w=self.lambda_w)
        object.__setattr__(self, "labels", check_labels(self.labels, len(self.inputs), int(self.labels.max()) + 1))
        object.__setattr__(self, "inputs", self.inputs.detach().double())
        counts = torch.bincount(self.labels).tolist()
        if len(counts) != 2 or min(counts) == 0:
            raise ValueError(f"Two classes, 0 and 1, each with a sample, are needed; got counts {counts}.")
        if self.width < 2:
            raise ValueError(f"width must be at least 2, one unit a class, got {self.width}.")
        if not bool(self._costs.isfinite().all()):
            raise ValueError("The inputs of a class are all zero: no margin is possible. Give it inputs.")

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2

    @cached_property
    def _shares(self) -> Tensor:
        return torch.bincount(self.labels).double() / len(self.inputs)

    @cached_property
    def _costs(self) -> Tensor:
        """The numbers c of both classes."""
        reach = torch.stack([torch.linalg.matrix_norm(self.inputs[self.labels == k], 2) for k in (0, 1)])
        return torch.bincount(self.labels).double().sqrt() / reach

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """L-BFGS with the kinks of ReLU rounded off; plain L-BFGS stops at kinks and says that it has not converged."""
        return SmoothedReLU, LBFGS, GradientDescent

    @cached_property
    def minimum(self) -> float:
        """The lower bound."""
        total, weighted = float(self._costs.sum()), float((self._costs.square() / self._shares).sum())
        return self.lambda_w * total**2 / (1 + self.lambda_w * weighted)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Standard normal weights and ρ = 1."""
        hidden, outer = normal(self.width, self.inputs.shape[1]), normal(self.width)
        return {"hidden": hidden, "outer": outer, "rho": torch.ones(1, dtype=torch.float64)}

    def _hidden(self, variables: Variables, width: float = 0.0) -> Tensor:
        return rounded_relu(self.inputs @ (variables["hidden"] / torch.linalg.norm(variables["hidden"])).T, width)

    def margins(self, variables: Variables) -> Tensor:
        r"""Margins :math:`\bar f(x_i) y_i` of the normalized network, shape (N,)."""
        return self._margins(variables, 0.0)

    def _margins(self, variables: Variables, width: float) -> Tensor:
        outputs = self._hidden(variables, width) @ (variables["outer"] / torch.linalg.norm(variables["outer"]))
        return outputs * (2 * self.labels - 1)

    def complete(self, variables: Variables) -> Variables:
        """Add the hidden features, and a classifier of two rows whose logits differ by f."""
        row = variables["rho"] * variables["outer"] / torch.linalg.norm(variables["outer"]) / 2
        return variables | {"features": self._hidden(variables), "weight": torch.stack([-row, row])}

    def rounded_objective(self, variables: Variables, width: float) -> Tensor:
        """Square loss and decay of "hidden" (m, d), "outer" (m,), "rho" (1,)."""
        errors = 1 - variables["rho"] * self._margins(variables, width)
        return errors.square().mean() + self.lambda_w * variables["rho"].square().sum()

    def _pull(self) -> Tensor:
        """How far the best outputs of the two classes stay below one."""
        total, weighted = self._costs.sum(), (self._costs.square() / self._shares).sum()
        return self.lambda_w * total / (1 + self.lambda_w * weighted) * self._costs / self._shares

    def certificate(self, variables: Variables) -> Certificate:
        """The lower bound, and whether it leaves both classes on their side."""
        return Certificate(self.minimum, Inequality("λ s max(c N/n) / (1 + λ q) <= 1", float(self._pull().max()), 1.0))

    def closed_form(self) -> Solution:
        """One unit a class, along its point.

        Returns:
            The solution.

        Raises:
            ValueError: If a class has two different points, they are at an acute angle, or the decay gives a class up.
        """
        first = [self.inputs[self.labels == k][0] for k in (0, 1)]
        alike = torch.equal(torch.stack(first)[self.labels], self.inputs)
        if not alike or float(first[0] @ first[1]) > 0 or float(self._pull().max()) > 1:
            raise ValueError(
                "The closed form needs one point a class, at an angle that is not acute, and a decay that keeps both classes. "
                "Solve it numerically: solve()."
            )
        outputs = 1 - self._pull()
        rho = (self._costs * outputs).sum()
        roots = (self._costs * outputs / rho).sqrt()
        hidden, outer = torch.zeros(self.width, self.inputs.shape[1], dtype=torch.float64), torch.zeros(self.width).double()
        for k, sign in enumerate((-1, 1)):
            hidden[k] = roots[k] * first[k] / torch.linalg.norm(first[k])
            outer[k] = sign * roots[k]
        return self.solution({"hidden": hidden, "outer": outer, "rho": rho.reshape(1)}, "closed form")
