"""The multilayer unconstrained features model: features that leave the data at a price, and a last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.reduced_mufm import ReducedMUFM, best_bound
from ncollapse.surrogates.solving.arguments import check_finite, check_positive
from ncollapse.surrogates.solving.losses import LossName, check_loss, loss_conjugate, loss_gradient, loss_value, one_hot
from ncollapse.surrogates.solving.nuclear import best_bias
from ncollapse.surrogates.solving.problem import Problem, Run, Solver, check_accepted
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


@dataclass(frozen=True, eq=False)
class MUFM(Problem):
    r"""Multilayer unconstrained features model.

    .. math:: \min_{W, H, b}\; \ell(W H + b 1^T) + \frac{\lambda_W}{2} \lVert W \rVert^2
        + \frac{\lambda_H}{2} \lVert H - X \rVert^2

    with the loss averaged, and the last term summed, over the samples (for a mean pass :math:`\lambda_H / N`). It is what
    layers with costs :math:`\frac{\lambda_l}{2} \lVert H_l - H_{l-1} \rVert^2` come down to: they lie on the straight line from
    X to H, gap l in proportion to :math:`1/\lambda_l`, and :math:`1/\lambda_H = \sum_l 1/\lambda_l` (``merged_decay``).

    A critical point is a global minimizer if :math:`\lVert \Gamma \rVert_2^2 \le \lambda_W \lambda_H`, Γ being the gradient in
    the logits. The bound behind it is the model with K more dimensions in which X is zero, which is always certified.

    Attributes:
        inputs: X, shape (N, d), one sample a row, finite.
        labels: Classes in [0, K), each with a sample, shape (N,).
        loss: "mse" or "cross_entropy".
        lambda_w: Decay of the weight, positive.
        lambda_h: Cost of moving the features, positive.
        bias: "none" or "free".

    Raises:
        ValueError: If a number is out of range, the data are not finite, or a class is empty.

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
        check_loss(self.loss)
        check_positive(lambda_w=self.lambda_w, lambda_h=self.lambda_h)
        if self.bias not in {"none", "free"}:
            raise ValueError(f"bias must be 'none' or 'free', got {self.bias!r}.")
        if self.inputs.ndim != 2:
            raise ValueError(f"inputs must have shape (N, d), got {tuple(self.inputs.shape)}. Flatten the samples.")
        check_finite("MUFM", self.inputs)
        object.__setattr__(self, "labels", check_labels(self.labels, len(self.inputs), self.num_classes))
        object.__setattr__(self, "inputs", self.inputs.detach().double())
        empty = (torch.bincount(self.labels, minlength=self.num_classes) == 0).nonzero().flatten().tolist()
        if empty or self.num_classes < 2:
            raise ValueError(
                f"Two or more classes, each with a sample, are needed; got {self.num_classes}, without samples: {empty}."
            )

    @cached_property
    def num_classes(self) -> int:
        """K."""
        return int(self.labels.max()) + 1

    @cached_property
    def _shares(self) -> Tensor:
        return torch.full((len(self.inputs),), 1 / len(self.inputs), dtype=torch.float64)

    @property
    def solvers(self) -> tuple[type[Solver], ...]:
        """In the weight alone for "mse", in all variables for both losses."""
        return (EliminatedFeatures, LBFGS, GradientDescent) if self.loss == "mse" else (LBFGS, GradientDescent)

    @cached_property
    def reduced(self) -> ReducedMUFM:
        """The sums over the samples, for "mse": taken once."""
        decays, centered = {"lambda_w": self.lambda_w, "lambda_h": self.lambda_h}, self.bias == "free"
        return ReducedMUFM.from_samples(self.inputs, self.labels, self.num_classes, **decays, centered=centered)

    def padded(self) -> MUFM:
        """The same model with K more dimensions in which the data are zero: its minimum bounds this one's from below."""
        wide = torch.cat([self.inputs, self.inputs.new_zeros(len(self.inputs), self.num_classes)], dim=1)
        numbers = {"lambda_w": self.lambda_w, "lambda_h": self.lambda_h}
        return MUFM(wide, self.labels, loss=self.loss, bias=self.bias, **numbers)

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Standard normal weight and features, and a bias of zero."""
        weight, features = normal(self.num_classes, self.inputs.shape[1]), normal(*self.inputs.shape)
        bias = {} if self.bias == "none" else {"bias": weight.new_zeros(self.num_classes)}
        return {"weight": weight, "features": features} | bias

    def complete(self, variables: Variables) -> Variables:
        """The point itself."""
        return variables

    def objective(self, variables: Variables) -> Tensor:
        """Loss, decay and the cost of moving, of "weight" (K, d), "features" (N, d) and, if free, "bias" (K,)."""
        weight, features = variables["weight"], variables["features"]
        logits = features @ weight.T + variables.get("bias", 0.0)
        decay = self.lambda_w * weight.square().sum() + self.lambda_h * (features - self.inputs).square().sum()
        return loss_value(self.loss, logits, self.labels, self._shares) + 0.5 * decay

    def best_features(self, weight: Tensor) -> Variables:
        r"""The least point of given weights (K, d) under the mean squared error: :math:`H = X - W^T \Gamma / \lambda_H`."""
        inputs, targets = self.inputs, one_hot(self.labels, self.num_classes)
        shift = inputs.mean(dim=0), targets.mean(dim=0)
        if self.bias == "free":
            inputs, targets = inputs - shift[0], targets - shift[1]
        system = len(inputs) * torch.eye(len(weight), dtype=torch.float64) + weight @ weight.T / self.lambda_h
        gradient = torch.linalg.solve(system, inputs @ weight.T - targets, left=False)
        point = {"weight": weight, "features": self.inputs - gradient @ weight / self.lambda_h}
        return point if self.bias == "none" else point | {"bias": shift[1] - weight @ shift[0]}

    def logit_gradient(self, variables: Variables) -> Tensor:
        """Gradient Γ of the loss in the logits, shape (N, K); at the best bias if it is free, so that Γᵀ1 = 0."""
        logits = variables["features"] @ variables["weight"].T
        bias = variables.get("bias", logits.new_zeros(self.num_classes))
        if self.bias == "free":
            bias = best_bias(self.loss, logits, self.labels, self._shares, bias)
        return loss_gradient(self.loss, logits + bias, self.labels, self._shares)

    def certificate(self, variables: Variables) -> Certificate:
        """Lower bound from the point's own gradient if that is admitted, else from the padded model, solved once."""
        squared, bound = self.dual(variables)
        inequality = Inequality("‖Γ‖₂² <= λ_W λ_H", squared, self.lambda_w * self.lambda_h)
        return Certificate(bound if inequality.left <= inequality.right else max(bound, self.padded_bound), inequality)

    @cached_property
    def padded_bound(self) -> float:
        """Lower bound of the minimum from the solution of the padded model."""
        if self.loss == "mse":
            sums, generator = self.reduced.padded(), torch.Generator().manual_seed(0)
            start = torch.randn(sums.cross.shape, generator=generator, dtype=torch.float64)
            return sums.dual(EliminatedFeatures().minimize(sums, start).variables["weight"])[1]
        wide = self.padded()
        return wide.dual(wide.solvers[0]().run(wide, wide.start(0)).variables)[1]

    def dual(self, variables: Variables) -> tuple[float, float]:
        """Squared spectral norm of Γ, and a lower bound of the minimum from it, as ``best_bound`` says."""
        gradient = self.logit_gradient(variables)
        sizes, axes = torch.linalg.eigh(gradient.T @ gradient)
        pulls = (axes.T @ gradient.T @ self.inputs).square().sum(dim=1)

        def conjugate(t: float) -> float:
            return float(loss_conjugate(self.loss, t * gradient, self.labels, self._shares))

        return best_bound(sizes, pulls, conjugate, self.lambda_w, self.lambda_h)


@dataclass(frozen=True)
class EliminatedFeatures:
    """L-BFGS in the weight alone, the features being the best ones: for ``MUFM`` with mean squared error.

    It begins at ridge regression, then at random weights, until a start is certified.

    Attributes:
        descent: How each is followed.
    """

    starts: int = 6
    descent: LBFGS = field(default_factory=LBFGS)

    def run(self, problem: Problem, start: Variables) -> Run:
        """Keep the best of several starts."""
        check_accepted(problem, self)
        assert isinstance(problem, MUFM)
        found = self.minimize(problem.reduced, start["weight"])
        return Run(problem.best_features(found.variables["weight"]), found.history, found.converged, found.words)

    def minimize(self, reduced: ReducedMUFM, start: Tensor) -> Run:
        """Find the best weight from the sums alone, at a cost that does not depend on the number of samples."""
        generator = torch.Generator().manual_seed(0)
        best: Run | None = None
        for number in range(self.starts):
            if number < 2:
                weight = reduced.ridge() if number == 0 else start
            else:
                weight = torch.randn(start.shape, generator=generator, dtype=torch.float64)
            found = self.descent.minimize(reduced.value_and_gradient, {"weight": weight})
            if best is None or found.history[-1] < best.history[-1]:
                best = found
            if reduced.dual(best.variables["weight"])[0] <= reduced.lambda_w * reduced.lambda_h:
                break
        assert best is not None
        words = f"features eliminated, best of {number + 1} starts, {best.words}"
        return Run(best.variables, best.history, best.converged, words)
