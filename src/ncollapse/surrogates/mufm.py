"""The multilayer unconstrained features model: features that may leave the data at a cost, and a last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ncollapse.surrogates.reduced_mufm import ReducedMUFM, best_bound
from ncollapse.surrogates.solving.arguments import check_choice, check_positive
from ncollapse.surrogates.solving.losses import LossName, gradient_rounding, loss_conjugate, loss_gradient, one_hot
from ncollapse.surrogates.solving.nuclear import best_bias
from ncollapse.surrogates.solving.problem import DataProblem, Problem, Solver, SolverResult
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True, eq=False)
class MUFM(DataProblem):
    r"""Multilayer unconstrained features model.

    .. math:: \min_{W, H, b}\; \ell(W H + b 1^T) + \frac{\lambda_W}{2} \lVert W \rVert^2
        + \frac{\lambda_H}{2} \lVert H - X \rVert^2

    The loss is averaged over the samples, and the last term is summed (for a mean pass :math:`\lambda_H / N`). Layers with
    costs :math:`\frac{\lambda_l}{2} \lVert H_l - H_{l-1} \rVert^2` reduce to this model: the best layers lie on the straight
    line from X to H, gap l is in proportion to :math:`1/\lambda_l`, and :math:`1/\lambda_H = \sum_l 1/\lambda_l`
    (``merged_decay``).

    Let Γ be the gradient in the logits. A critical point is a global minimizer if :math:`\lVert \Gamma \rVert_2^2 \le \lambda_W
    \lambda_H`. Otherwise the bound is the minimum of the model with K more dimensions in which X is zero.

    Attributes:
        inputs: X, shape (N, d), one sample a row, finite.
        labels: Classes in [0, K), each with a sample, shape (N,).
        loss: "mse" or "cross_entropy".
        lambda_w: Decay of the weight, positive.
        lambda_h: Cost of moving the features, positive.
        bias: "none" or "free".

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, eqs. (12), (13) and (16); solver and certificate are derived.
    """

    inputs: Tensor
    labels: Tensor
    _: KW_ONLY
    lambda_w: float
    lambda_h: float
    loss: LossName = "mse"
    bias: Literal["none", "free"] = "none"

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LossName)
        check_choice("bias", self.bias, Literal["none", "free"])
        check_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)
        self._check_data()

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """Descent in all variables, and for "mse" first the solver that eliminates the features."""
        return (EliminatedFeatures, LBFGS, GradientDescent) if self.loss == "mse" else (LBFGS, GradientDescent)

    @cached_property
    def reduced(self) -> ReducedMUFM:
        """The sums over the samples that "mse" needs."""
        decays, centered = {"lambda_w": self.lambda_w, "lambda_h": self.lambda_h}, self.bias == "free"
        return ReducedMUFM.from_samples(self.inputs, self.labels, self.num_classes, **decays, centered=centered)

    def padded(self) -> MUFM:
        """Add K dimensions in which the data are zero. The minimum of this model is a lower bound of the minimum."""
        wide = torch.cat([self.inputs, self.inputs.new_zeros(len(self.inputs), self.num_classes)], dim=1)
        numbers = {"lambda_w": self.lambda_w, "lambda_h": self.lambda_h}
        return MUFM(wide, self.labels, loss=self.loss, bias=self.bias, **numbers)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal weight and features, and a bias of zero."""
        weight, features = normal(self.num_classes, self.inputs.shape[1]), normal(*self.inputs.shape)
        bias = {} if self.bias == "none" else {"bias": weight.new_zeros(self.num_classes)}
        return {"weight": weight, "features": features} | bias

    def objective(self, variables: Variables) -> Tensor:
        """Loss, decay and cost of moving of "weight" (K, d), "features" (N, d) and, if free, "bias" (K,)."""
        weight, features = variables["weight"], variables["features"]
        logits = features @ weight.T + variables.get("bias", 0.0)
        decay = self.lambda_w * weight.square().sum() + self.lambda_h * (features - self.inputs).square().sum()
        return self._mean_loss(self.loss, logits) + 0.5 * decay

    def best_features(self, weight: Tensor) -> Variables:
        r"""Return the minimizer for a weight (K, d) under the mean squared error: :math:`H = X - W^T \Gamma / \lambda_H`."""
        inputs, targets = self.inputs, one_hot(self.labels, self.num_classes)
        shift = inputs.mean(dim=0), targets.mean(dim=0)
        if self.bias == "free":
            inputs, targets = inputs - shift[0], targets - shift[1]
        system = len(inputs) * torch.eye(len(weight), dtype=torch.float64) + weight @ weight.T / self.lambda_h
        gradient = torch.linalg.solve(system, inputs @ weight.T - targets, left=False)
        point = {"weight": weight, "features": self.inputs - gradient @ weight / self.lambda_h}
        return point if self.bias == "none" else point | {"bias": shift[1] - weight @ shift[0]}

    def logit_gradient(self, variables: Variables) -> Tensor:
        """Return the gradient Γ of the loss in the logits, shape (N, K). A free bias is the best one, so that Γᵀ1 = 0."""
        logits = variables["features"] @ variables["weight"].T
        bias = variables.get("bias", logits.new_zeros(self.num_classes))
        if self.bias == "free":
            bias = best_bias(self.loss, logits, self.labels, self._shares, bias)
        return loss_gradient(self.loss, logits + bias, self.labels, self._shares)

    def certificate(self, variables: Variables) -> Certificate:
        """Return the bound from the gradient at the point, or the padded model's if the inequality fails and it is better."""
        squared, bound = self.dual(variables)
        inequality = self.condition(squared, variables)
        return Certificate(bound if inequality.left <= inequality.right else max(bound, self.padded_bound), inequality)

    def condition(self, squared: float, variables: Variables) -> Inequality:
        """Return the condition of a global minimum at a critical point, for the squared spectral norm of Γ there."""
        error = gradient_rounding(variables["weight"], variables["features"], self._shares)
        rounding = error * (2 * squared**0.5 + error)
        return Inequality("‖Γ‖₂² <= λ_W λ_H", squared, self.lambda_w * self.lambda_h, rounding)

    @cached_property
    def padded_bound(self) -> float:
        """The lower bound from the solution of the padded model."""
        if self.loss == "mse":
            sums, generator = self.reduced.padded(), torch.Generator().manual_seed(0)
            start = torch.randn(sums.cross.shape, generator=generator, dtype=torch.float64)
            return sums.dual(EliminatedFeatures().minimize(sums, start).variables["weight"])[1]
        wide = self.padded()
        return wide.dual(wide.solvers[0]().run(wide, wide.start(0)).variables)[1]

    def dual(self, variables: Variables) -> tuple[float, float]:
        """Return the squared spectral norm of Γ, and the lower bound from it."""
        gradient = self.logit_gradient(variables)
        sizes, axes = torch.linalg.eigh(gradient.T @ gradient)
        pulls = (axes.T @ gradient.T @ self.inputs).square().sum(dim=1)

        def conjugate(t: float) -> float:
            return float(loss_conjugate(self.loss, t * gradient, self.labels, self._shares))

        return best_bound(sizes, pulls, conjugate, self.lambda_w, self.lambda_h)


# Rounds of ridge regression on the best features before the first descent: they cost as much as an evaluation each, and save
# ten of 39 in the benchmark.
_ROUNDS = 4


@dataclass(frozen=True)
class EliminatedFeatures:
    """L-BFGS in the weight alone, with the best features for each weight. It solves ``MUFM`` with mean squared error.

    The first start is ridge regression, improved by four rounds that alternate between the best features and the best weight.
    Random weights follow, until a point is certified.

    Attributes:
        starts: The largest number of starts.
        descent: The solver from each start.
    """

    starts: int = 6
    descent: LBFGS = field(default_factory=LBFGS)

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Keep the best of several starts."""
        assert isinstance(problem, MUFM)
        found = self.minimize(problem.reduced, start["weight"])
        return SolverResult(problem.best_features(found.variables["weight"]), found.history, found.converged, found.description)

    @staticmethod
    def _first_weight(reduced: ReducedMUFM) -> Tensor:
        """Return the weight after ridge regression on the data and on the best features in turn."""
        first = weight = reduced.ridge()
        for _ in range(_ROUNDS):
            weight = reduced.alternated(weight)
        # Rounding can spoil a round where decays are tiny; then ridge regression on the data is the start.
        return min((first, weight), key=lambda one: reduced.value_and_gradient({"weight": one})[0])

    def minimize(self, reduced: ReducedMUFM, start: Tensor) -> SolverResult:
        """Find the best weight from the sums over the samples."""
        generator = torch.Generator().manual_seed(0)
        best: SolverResult | None = None
        for number in range(self.starts):
            if number < 2:
                weight = self._first_weight(reduced) if number == 0 else start
            else:
                weight = torch.randn(start.shape, generator=generator, dtype=torch.float64)
            found = self.descent.minimize(reduced.value_and_gradient, {"weight": weight})
            if best is None or found.history[-1] < best.history[-1]:
                best = found
            if reduced.dual(best.variables["weight"])[0] <= reduced.lambda_w * reduced.lambda_h:
                break
        assert best is not None
        description = f"features eliminated, best of {number + 1} starts, {best.description}"
        return SolverResult(best.variables, best.history, best.converged, description)
