"""The unconstrained features model: free features and a last layer, mean squared error or cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_balanced, check_choice, check_counts, check_positive
from ncollapse.surrogates.solving.losses import LossName, gradient_rounding, loss_gradient
from ncollapse.surrogates.solving.nuclear import Bias, NuclearProblem, NuclearProgram, Proximal, soft_threshold, split_product
from ncollapse.surrogates.solving.problem import CountsProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True)
class UFM(CountsProblem, NuclearProblem):
    r"""Unconstrained features model.

    .. math:: \min_{W, H, b}\; \ell(W H + b 1^T) + \frac{\lambda_W}{2} \lVert W \rVert^2 + \frac{\lambda_H}{2} \lVert H \rVert^2
        + \frac{\lambda_b}{2} \lVert b \rVert^2

    with :math:`\ell = \frac{1}{2N} \lVert Z - Y \rVert^2` ("mse") or the mean cross-entropy. The decay of the features is a sum
    over the N samples. If d >= K, the model is equivalent to a convex program: the loss plus
    :math:`\sqrt{\lambda_W \lambda_H} \lVert Z \rVert_*`. Its dual gives every point a lower bound. The collapse numbers
    :math:`c_k = N \sqrt{\lambda_W \lambda_H / n_k}` decide what collapses: for balanced classes all variables are zero iff
    c >= 1.

    Attributes:
        counts: n_k, samples of each class.
        dim: d, dimension of the features.
        loss: "cross_entropy" or "mse".
        lambda_w: Decay of the weight, positive.
        lambda_h: Decay of the features, positive.
        bias: "none", "free" or "regularized".
        lambda_b: Decay of the bias: positive if regularized, else 0.

    Reference:
        Mixon, Parshall & Pi (2020); Zhu et al. (2021), NeurIPS; Zhou et al. (2022), ICML; Tirer & Bruna (2022), ICML.

    Example:
        >>> model = UFM((5,) * 4, dim=4, loss="mse", lambda_w=5e-3, lambda_h=2e-3)
        >>> round(model.closed_form().value, 13), round(model.solve().value, 10)
        (0.0278842712475, 0.0278842712)
    """

    counts: tuple[int, ...]
    dim: int
    _: KW_ONLY
    loss: LossName = "cross_entropy"
    lambda_w: float
    lambda_h: float
    bias: Bias = "none"
    lambda_b: float = 0.0

    def __post_init__(self) -> None:
        check_counts(self.counts)
        check_choice("loss", self.loss, LossName)
        check_choice("bias", self.bias, Bias)
        check_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h, dim=self.dim)
        if self.bias == "regularized":
            check_positive(lambda_b=self.lambda_b)
        elif self.lambda_b != 0:
            raise ValueError(
                f"lambda_b={self.lambda_b} needs bias='regularized', got bias={self.bias!r}. Pass bias='regularized' or leave "
                "lambda_b out."
            )

    solvers = (LBFGS, GradientDescent, Proximal)

    @property
    def penalty(self) -> float:
        r"""The weight of the nuclear norm, :math:`\sqrt{\lambda_W \lambda_H}`."""
        return math.sqrt(self.lambda_w * self.lambda_h)

    @cached_property
    def collapse_numbers(self) -> Tensor:
        r"""The numbers c_k. A class whose number is at least 1 has no features of its own."""
        return self.num_samples * self.penalty / torch.tensor(self.counts, dtype=torch.float64).sqrt()

    @cached_property
    def program(self) -> NuclearProgram:
        """The convex program in one row of logits per class, each of which counts √n_k times in the nuclear norm."""
        counts = torch.tensor(self.counts, dtype=torch.float64)
        return self._program(torch.arange(self.num_classes), counts / counts.sum(), counts.sqrt())

    def _program(self, labels: Tensor, shares: Tensor, scales: Tensor) -> NuclearProgram:
        return NuclearProgram(self.loss, labels, shares, scales, self.penalty, bias=self.bias, lambda_b=self.lambda_b)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight and features, and a bias of zero."""
        weight, features = normal(self.num_classes, self.dim), normal(self.num_samples, self.dim)
        return self._variables(weight, features, weight.new_zeros(self.num_classes))

    def _variables(self, weight: Tensor, features: Tensor, bias: Tensor) -> Variables:
        return {"weight": weight, "features": features} | ({} if self.bias == "none" else {"bias": bias})

    def objective(self, variables: Variables) -> Tensor:
        """Loss and decay of "weight" (K, d), "features" (N, d) and, unless there is none, "bias" (K,)."""
        bias = variables.get("bias", torch.zeros((), dtype=torch.float64))
        decay = self.lambda_w * variables["weight"].square().sum() + self.lambda_h * variables["features"].square().sum()
        decay = decay + self.lambda_b * bias.square().sum()
        return self._mean_loss(self.loss, self._logits(variables) + bias) + 0.5 * decay

    def _logits(self, variables: Variables) -> Tensor:
        """Return the logits without the bias, shape (N, K)."""
        return variables["features"] @ variables["weight"].T

    def logit_gradient(self, variables: Variables) -> Tensor:
        r"""Return the gradient Γ of the loss with respect to the logits, shape (N, K)."""
        return loss_gradient(self.loss, self._logits(variables) + variables.get("bias", 0.0), self.labels, self._shares)

    def certificate(self, variables: Variables) -> Certificate:
        """Return the bound of the convex program's dual. A critical point is a global minimizer if the inequality holds."""
        logits, program = self._logits(variables), self._program(self.labels, self._shares, torch.ones_like(self._shares))
        norm, bound = program.dual(logits, variables.get("bias", logits.new_zeros(self.num_classes)))
        rounding = gradient_rounding(variables["weight"], variables["features"], self._shares)
        critical = Inequality("‖Γ‖₂ <= √(λ_W λ_H)", norm, self.penalty, rounding)
        if self.dim >= self.num_classes - (self.loss == "cross_entropy"):
            return Certificate(bound, critical)
        if self.loss == "mse" and self.bias != "regularized":
            return Certificate(max(bound, self._mse_minimum()))
        return Certificate(bound, critical, weak="d < K")

    def _mse_minimum(self) -> float:
        """Return the minimum of the MSE without or with a free bias: d singular values are kept, the others' loss remains."""
        level, values = self.num_samples * self.penalty, torch.linalg.svdvals(self._weighted_targets)
        kept = torch.clamp(values[: self.dim] - level, min=0)
        loss = (kept - values[: self.dim]).square().sum() + values[self.dim :].square().sum()
        return float(loss / (2 * self.num_samples) + self.penalty * kept.sum())

    @property
    def _weighted_targets(self) -> Tensor:
        """The targets of the MSE, a row per class, centered if the bias is free, each times √n_k."""
        targets = torch.eye(self.num_classes, dtype=torch.float64)
        if self.bias == "free":
            targets = targets - self.program.shares
        return self.program.scales.unsqueeze(1) * targets

    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Balanced weight and collapsed features with given logits."""
        scales = self.program.scales.unsqueeze(1)
        features, weight = split_product(scales * logits, self.dim, math.sqrt(self.lambda_h / self.lambda_w))
        return self._variables(weight, (features / scales)[self.labels], bias)

    def closed_form(self) -> Solution:
        r"""Return the global minimum where theory gives it.

        * MSE, no or free bias, any counts: weigh the target row of class k by :math:`\sqrt{n_k}` (centered first if the bias is
          free), and reduce the singular values of these rows by :math:`N \sqrt{\lambda_W \lambda_H}`. In d < K dimensions
          keep the d largest.
        * MSE, regularized bias, balanced: a point between these two, which depends on :math:`\lambda_b` against c/(1-c).
        * Cross-entropy, any bias, balanced: a simplex ETF of margin :math:`\log(1 + K(1-c)/c)`, zero if c >= 1, and b = 0.

        Returns:
            The solution. Its inequality selects the branch.

        Raises:
            ValueError: If the formula needs balanced classes, or dim is less than the rank of the logits.
        """
        if self.loss == "cross_entropy":
            logits, bias, inequality = self._ce_optimum()
        elif self.bias == "regularized":
            logits, bias, inequality = self._mse_regularized_optimum()
        else:
            logits, bias, inequality = self._mse_optimum()
        solution = self.solution(self.from_logits(logits, bias), "closed form")
        return replace(solution, certificate=Certificate(solution.certificate.lower_bound, inequality))

    def _ce_optimum(self) -> tuple[Tensor, Tensor, Inequality]:
        check_balanced(self.counts, "The closed form of the cross-entropy model", "Solve it numerically: solve().")
        number, identity = float(self.collapse_numbers[0]), torch.eye(self.num_classes, dtype=torch.float64)
        margin = math.log1p(self.num_classes * (1 - number) / number) if number < 1 else 0.0
        centered = identity - 1 / self.num_classes
        return margin * centered, torch.zeros_like(identity[0]), Inequality("c < 1", number, 1.0)

    def _mse_optimum(self) -> tuple[Tensor, Tensor, Inequality]:
        shares, targets = self.program.shares, self._weighted_targets
        bias = shares if self.bias == "free" else torch.zeros_like(shares)
        level = self.num_samples * self.penalty
        logits = soft_threshold(targets, level, self.dim) / self.program.scales.unsqueeze(1)
        # The centered targets have one singular value of zero.
        smallest = torch.linalg.svdvals(targets)[: min(self.dim, self.num_classes - (self.bias == "free"))].min()
        text = "c < 1" if len(set(self.counts)) == 1 else "largest c_k < 1"
        return logits, bias, Inequality(text, level / float(smallest), 1.0)

    def _mse_regularized_optimum(self) -> tuple[Tensor, Tensor, Inequality]:
        check_balanced(self.counts, "The closed form with a regularized bias", "Solve it numerically: solve().")
        number, num_classes = float(self.collapse_numbers[0]), self.num_classes
        if number < 1:
            branch = Inequality("λ_b <= c / (1 - c)", self.lambda_b, number / (1 - number))
        else:
            branch = Inequality("c < 1", number, 1.0)
        # The logits are a multiple of I − J/K (differences of classes) plus one of J/K (what they share); the bias takes the
        # shared part over unless λ_b > c/(1−c).
        common, separate = max(1 - number - number / self.lambda_b, 0.0), max(1 - number, 0.0)
        shift = number / (num_classes * self.lambda_b) if common > 0 else 1 / (num_classes * (1 + self.lambda_b))
        identity = torch.eye(num_classes, dtype=torch.float64)
        average = torch.full_like(identity, 1 / num_classes)
        return separate * (identity - average) + common * average, average.new_full((num_classes,), shift), branch
