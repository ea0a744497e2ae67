"""Squared loss of a two-layer network with normalized weights on two classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.problem import DataProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent, ReLUProblem, SmoothedReLU, rounded_relu


def best_norm(margins: Tensor, *, lambda_w: float) -> float:
    r"""Compute the best product of norms ρ for the margins :math:`m_i = \bar f(x_i) y_i` of a normalized network, shape (N,).

    :math:`\rho = \sum_i m_i / (N \lambda + \sum_i m_i^2)` minimizes :math:`\frac1N \sum_i (1 - \rho m_i)^2 + \lambda \rho^2`.

    Returns:
        ρ. For equal margins m and small decay it is 1/m: the largest margin has the least norm.

    Reference:
        Poggio & Liao (2020).

    Example:
        >>> best_norm(torch.full((5,), 0.25), lambda_w=0.0625)
        2.0
    """
    check_positive(lambda_w=lambda_w)
    return float(margins.sum() / (len(margins) * lambda_w + margins.square().sum()))


def margin_variation(margins: Tensor) -> float:
    """Divide the standard deviation of margins (N,) by the size of their mean: 0 if all are equal, nan if the mean is 0."""
    mean = abs(float(margins.mean()))
    return float(margins.std(correction=0)) / mean if mean > 0 else math.nan


@dataclass(frozen=True, eq=False)
class WeightNormalizedNet(DataProblem, ReLUProblem):
    r"""Two layers with normalized weights for two classes, :math:`f = \rho \bar f`.

    .. math:: \min \frac1N \sum_i (1 - \rho \bar f(x_i) y_i)^2 + \lambda \rho^2

    with :math:`\bar f = \langle v/\lVert v \rVert, \mathrm{relu}(U x/\lVert U \rVert_F) \rangle` and :math:`y_i = \pm 1`. At a
    stationary point ρ is the ``best_norm``. If the network interpolates, all margins are equal: its output is collapsed within
    classes. Let :math:`c_\pm = \sqrt{n_\pm}/\lVert X_\pm \rVert_2`, :math:`s = c_+ + c_-` and :math:`q = \sum_\pm N
    c_\pm^2/n_\pm`. No point is below :math:`\lambda s^2/(1 + \lambda q)`. The bound is reached if each class is a single point
    and their angle is not acute.

    Attributes:
        inputs: X, shape (N, d).
        labels: 0 for y = -1, 1 for y = 1, both present, shape (N,).
        lambda_w: λ, positive.
        width: m, the number of hidden units, at least 2.

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
        self._check_data()
        if self.num_classes != 2:
            raise ValueError(
                f"labels must be of two classes, 0 and 1, got counts {self.counts}. Keep the samples of two classes."
            )
        if self.width < 2:
            raise ValueError(f"width must be at least 2, one unit per class, got {self.width}. Raise width.")
        if not bool(self._costs.isfinite().all()):
            raise ValueError("The inputs of a class are all zero: no margin is possible. Give it inputs.")

    @cached_property
    def _shares(self) -> Tensor:
        return torch.bincount(self.labels).double() / len(self.inputs)

    @cached_property
    def _costs(self) -> Tensor:
        """The numbers c of both classes."""
        reach = torch.stack([torch.linalg.matrix_norm(self.inputs[self.labels == k], 2) for k in (0, 1)])
        return torch.bincount(self.labels).double().sqrt() / reach

    # Plain descent stops at kinks of ReLU, and says that it has not converged.
    solvers = (SmoothedReLU, LBFGS, GradientDescent)

    @cached_property
    def minimum(self) -> float:
        """The lower bound."""
        total, weighted = float(self._costs.sum()), float((self._costs.square() / self._shares).sum())
        return self.lambda_w * total**2 / (1 + self.lambda_w * weighted)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weights and ρ = 1."""
        hidden, outer = normal(self.width, self.inputs.shape[1]), normal(self.width)
        return {"hidden": hidden, "outer": outer, "rho": torch.ones(1, dtype=torch.float64)}

    def _hidden(self, variables: Variables, width: float = 0.0) -> Tensor:
        return rounded_relu(self.inputs @ (variables["hidden"] / torch.linalg.norm(variables["hidden"])).T, width)

    def margins(self, variables: Variables, width: float = 0.0) -> Tensor:
        r"""Return the margins :math:`\bar f(x_i) y_i` of the normalized network, shape (N,), with rounded ReLU."""
        outputs = self._hidden(variables, width) @ (variables["outer"] / torch.linalg.norm(variables["outer"]))
        return outputs * (2 * self.labels - 1)

    def complete(self, variables: Variables) -> Variables:
        """Add the hidden features, and a classifier of two rows whose logits differ by f."""
        row = variables["rho"] * variables["outer"] / torch.linalg.norm(variables["outer"]) / 2
        return variables | {"features": self._hidden(variables), "weight": torch.stack([-row, row])}

    def rounded_objective(self, variables: Variables, width: float) -> Tensor:
        """Squared loss and decay of "hidden" (m, d), "outer" (m,), "rho" (1,)."""
        errors = 1 - variables["rho"] * self.margins(variables, width)
        return errors.square().mean() + self.lambda_w * variables["rho"].square().sum()

    def _pull(self) -> Tensor:
        """How far the best outputs of the two classes stay below one."""
        total, weighted = self._costs.sum(), (self._costs.square() / self._shares).sum()
        return self.lambda_w * total / (1 + self.lambda_w * weighted) * self._costs / self._shares

    def certificate(self, variables: Variables) -> Certificate:
        """Return the lower bound. If the inequality holds, no class is given up."""
        return Certificate(self.minimum, Inequality("λ s max(c N/n) / (1 + λ q) <= 1", float(self._pull().max()), 1.0))

    def closed_form(self) -> Solution:
        """Return the global minimum for one point per class, at an angle that is not acute: one unit along each."""
        first = [self.inputs[self.labels == k][0] for k in (0, 1)]
        alike = torch.equal(torch.stack(first)[self.labels], self.inputs)
        if not alike or float(first[0] @ first[1]) > 0 or float(self._pull().max()) > 1:
            raise ValueError(
                "The closed form needs one point per class, at an angle that is not acute, and a decay that keeps both classes."
                " Solve it numerically: solve()."
            )
        outputs = 1 - self._pull()
        rho = (self._costs * outputs).sum()
        roots = (self._costs * outputs / rho).sqrt()
        hidden, outer = torch.zeros(self.width, self.inputs.shape[1], dtype=torch.float64), torch.zeros(self.width).double()
        for k, sign in enumerate((-1, 1)):
            hidden[k] = roots[k] * first[k] / torch.linalg.norm(first[k])
            outer[k] = sign * roots[k]
        return self.solution({"hidden": hidden, "outer": outer, "rho": rho.reshape(1)}, "closed form")
