r"""Convex programs in the logits with a nuclear norm, the problems that are equivalent to them, and their solver.

The features H and the last layer W enter the loss only through the logits Z = H Wᵀ, and their decay is a norm of Z:

.. math::

    \min_{H W^T = Z} \tfrac{\lambda_H}{2} \lVert H \rVert^2 + \tfrac{\lambda_W}{2} \lVert W \rVert^2
    = \sqrt{\lambda_H \lambda_W} \, \lVert Z \rVert_*.

So a problem that is not convex in H and W has the minimum of a program that is convex in Z, a ``NuclearProgram``. Proximal
gradient steps solve it, Fenchel duality gives a lower bound at every point, and ``split_product`` goes back from Z to H and W.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from ncollapse.surrogates.solving.losses import LossName, loss_conjugate, loss_gradient, loss_value, one_hot
from ncollapse.surrogates.solving.problem import Problem, SolverResult
from ncollapse.surrogates.solving.solution import Variables

Bias = Literal["none", "free", "regularized"]

# Largest curvature of the losses in one row of logits.
_CURVATURE = {"mse": 1.0, "cross_entropy": 0.5}
# A sum of numbers that sum to at most one in absolute value is zero below this.
_EXACT = 1e-15
# Added to curvatures of the cross-entropy, which may vanish.
_FLAT = 1e-12
# Halved as often, no step moves a point.
_HALVINGS = 60


def soft_threshold(matrix: Tensor, level: float, rank: int | None = None) -> Tensor:
    """Reduce singular values by a level, to no less than 0: the proximal map of the nuclear norm, up to a rank if given."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    reduced = torch.clamp(values - level, min=0)
    return left[:, :rank] * reduced[:rank] @ right[:rank]


def project_on_ball(matrix: Tensor, radius: float) -> Tensor:
    """Find the nearest matrix whose nuclear norm is at most a radius."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    if values.sum() <= radius:
        return matrix
    # The level at which the reduced singular values sum to the radius (they are sorted, largest first).
    levels = (values.cumsum(0) - radius) / torch.arange(1, len(values) + 1)
    level = levels[int((values > levels).nonzero()[-1])]
    return left * torch.clamp(values - level, min=0) @ right


def split_product(product: Tensor, dim: int, ratio: float) -> tuple[Tensor, Tensor]:
    """Split a product H Wᵀ into balanced factors, features H and a weight W."""
    # Each factor gets the square roots of the singular values, in the first of d dimensions. Among all factors of the product
    # these have the least ratio · ‖H‖² + ‖W‖² / ratio, which is twice the nuclear norm: that is why decay of both factors
    # is a nuclear norm of the logits.
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    rank = int((values > 1e-12 * values[0]).sum())
    if dim < rank:
        raise ValueError(
            f"The optimal logits have rank {rank}, which needs dim >= {rank}, got {dim}. Raise dim, or solve in the weight and "
            "the features with LBFGS()."
        )
    roots = values[:rank].sqrt()
    features, weight = product.new_zeros(len(product), dim), product.new_zeros(product.shape[1], dim)
    features[:, :rank] = left[:, :rank] * roots / math.sqrt(ratio)
    weight[:, :rank] = right[:rank].T * roots * math.sqrt(ratio)
    return features, weight


@dataclass(frozen=True, eq=False)
class NuclearProgram:
    """Minimize a loss of logits whose nuclear norm is penalized or bounded."""

    # Over logits Z, one row per class or per sample, and a bias b, minimize
    #     Σ_k shares_k · loss(z_k + b, labels_k)  +  λ_b/2 ‖b‖²  +  penalty · ‖V‖_*,    V = diag(scales) Z.
    # With a finite radius there is no penalty, and ‖V‖_* ≤ radius. The shares sum to one. In a UFM with n_k samples of class k,
    # shares_k is n_k / N, and scales_k is √n_k because row k stands for the n_k equal rows of the class.

    loss: LossName
    labels: Tensor
    shares: Tensor
    scales: Tensor
    penalty: float = 0.0
    radius: float = math.inf
    bias: Bias = "none"
    lambda_b: float = 0.0

    def value(self, logits: Tensor, bias: Tensor) -> float:
        """Compute the objective of a feasible point."""
        nuclear = torch.linalg.svdvals(self.scales.unsqueeze(1) * logits).sum()
        smooth = loss_value(self.loss, logits + bias, self.labels, self.shares) + self.lambda_b / 2 * bias.square().sum()
        return float(smooth + self.penalty * nuclear)

    def dual(self, logits: Tensor, bias: Tensor) -> tuple[float, float]:
        """Return the spectral norm of the gradient, and a lower bound of the minimum that holds whatever the point is."""
        # By Fenchel duality every matrix Γ gives a lower bound: minus the loss's conjugate at Γ, less what the bias and the
        # nuclear norm can gain. The norm gains radius times the spectral norm of Γ (rows over scales), or nothing if that
        # norm is at most the penalty. A free bias could gain without end unless the columns of Γ sum to zero.
        if self.bias == "free":
            bias = best_bias(self.loss, logits, self.labels, self.shares, bias)
        gradient = loss_gradient(self.loss, logits + bias, self.labels, self.shares)
        norm = float(torch.linalg.matrix_norm(gradient / self.scales.unsqueeze(1), ord=2))
        if math.isfinite(self.radius):
            return norm, self._bound(gradient) - self.radius * norm
        return norm, max(map(self._bound, self._duals(logits, gradient)))

    def _duals(self, logits: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return two matrices Γ whose spectral norm (rows over scales) is at most the penalty, from the gradient at a point."""
        # One is the gradient itself, scaled down to the penalty. Its bound errs to first order in the distance to the minimum.
        # If decays are so tiny that outputs and targets agree to rounding, the gradient has no digits left. The other one is
        # Γ - V/t with its singular values cut off at the penalty; V are the scaled logits, and t is the length of a proximal
        # step. At a minimum it equals Γ. It takes its singular vectors from the logits, which have all their digits, and its
        # bound errs to second order only. Far from a minimum it may be no gradient of the cross-entropy, and the bound -inf.
        scales = self.scales.unsqueeze(1)
        step, _ = self._step_sizes()
        slope = gradient / scales
        left, values, right = torch.linalg.svd(scales * logits - step * slope, full_matrices=False)
        clipped = -left * torch.clamp(values / step, max=self.penalty) @ right
        scaled = slope * (self.penalty / max(self.penalty, float(torch.linalg.matrix_norm(slope, ord=2))))
        return self._admitted(clipped), self._admitted(scaled)

    def _admitted(self, slope: Tensor) -> Tensor:
        """Make Γ from a matrix Γ over scales. Sums of Γ that must be zero are made zero, as rounding leaves them near it."""
        scales = self.scales.unsqueeze(1)
        if self.bias == "free":
            slope = slope - scales * (scales.T @ slope) / scales.square().sum()
        if self.loss == "cross_entropy":
            slope = slope - slope.mean(dim=1, keepdim=True)
        return scales * slope

    def _bound(self, gradient: Tensor) -> float:
        """Compute the lower bound from a matrix of spectral norm at most the penalty."""
        bound = -float(loss_conjugate(self.loss, gradient, self.labels, self.shares))
        if self.bias == "regularized":
            bound -= float(gradient.sum(dim=0).square().sum()) / (2 * self.lambda_b)
        return bound

    def proximal(self, matrix: Tensor, step: float) -> Tensor:
        """Apply the proximal map of the penalty or the bound."""
        if math.isinf(self.radius):
            return soft_threshold(matrix, step * self.penalty)
        return project_on_ball(matrix, self.radius)

    def minimize(self, tolerance: float, max_iterations: int) -> tuple[Tensor, Tensor, list[float], bool]:
        """Return the best logits and bias, the objective at every tenth step, and whether it converged."""
        # Accelerated proximal gradient steps from zero (FISTA), without momentum after a step that turns back (O'Donoghue &
        # Candès 2015). The gap to the lower bound decides when to stop. It costs as much as a few steps, so it is
        # computed at every tenth one.
        step, bias_scale = self._step_sizes()
        # The last row of a point is the bias, in units in which one step size fits all rows.
        point = torch.zeros(len(self.labels) + 1, int(self.labels.max()) + 1, dtype=torch.float64)
        ahead, momentum, history = point, 1.0, []
        for iteration in range(max_iterations + 1):
            if iteration % 10 == 0:
                logits, bias = point[:-1] / self.scales.unsqueeze(1), bias_scale * point[-1]
                history.append(self.value(logits, bias))
                converged = history[-1] - self.dual(logits, bias)[1] <= tolerance * abs(history[-1])
                if converged or iteration == max_iterations:
                    break
            moved = self._proximal_step(ahead, step, bias_scale)
            turned = bool(((ahead - moved) * (moved - point)).sum() > 0)
            before, momentum = momentum, 1.0 if turned else (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = moved if turned else moved + (before - 1) / momentum * (moved - point)
            point = moved
        return logits, bias, history, converged

    def step(self, logits: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Take one proximal gradient step from any point, and return its logits and bias."""
        step, bias_scale = self._step_sizes()
        if self.bias == "free":
            # The step size is halved for a bias that moves at the same time. Here only the logits move.
            return self._step_with_best_bias(logits, bias, 2 * step)
        point = torch.cat([self.scales.unsqueeze(1) * logits, (bias / (bias_scale or 1.0)).unsqueeze(0)])
        moved = self._proximal_step(point, step, bias_scale)
        return moved[:-1] / self.scales.unsqueeze(1), bias_scale * moved[-1]

    def _step_with_best_bias(self, logits: Tensor, bias: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Take a step in the logits alone, with the best bias before and after."""
        # What all classes share moves into the bias, which costs nothing and lowers the nuclear norm. A joint step would creep:
        # along this shift only the tiny penalty tells logits and bias apart.
        scales = self.scales.unsqueeze(1)
        logits = logits - (scales.square() * logits).sum(dim=0) / scales.square().sum()
        bias = best_bias(self.loss, logits, self.labels, self.shares, bias)
        slope = loss_gradient(self.loss, logits + bias, self.labels, self.shares) / scales
        moved = self.proximal(scales * logits - step * slope, step) / scales
        return moved, best_bias(self.loss, moved, self.labels, self.shares, bias)

    def _proximal_step(self, point: Tensor, step: float, bias_scale: float) -> Tensor:
        moved = point - step * self._gradient(point, bias_scale)
        return torch.cat([self.proximal(moved[:-1], step), moved[-1:]])

    def _step_sizes(self) -> tuple[float, float]:
        """Return the step size, and the units of the bias."""
        # The step is one over the largest curvature in the scaled logits V. A bias moves the same logits, and (v + b)² can be
        # twice v² + b², so with a bias the curvature doubles. In its units the bias has the same curvature, one over the step.
        curvature = _CURVATURE[self.loss] * (1 if self.bias == "none" else 2)
        step = 1 / (curvature * float((self.shares / self.scales.square()).max()))
        return step, 0.0 if self.bias == "none" else 1 / math.sqrt((curvature + self.lambda_b) * step)

    def _gradient(self, point: Tensor, bias_scale: float) -> Tensor:
        bias = bias_scale * point[-1]
        gradient = loss_gradient(self.loss, point[:-1] / self.scales.unsqueeze(1) + bias, self.labels, self.shares)
        slope = gradient.sum(dim=0) + self.lambda_b * bias
        return torch.cat([gradient / self.scales.unsqueeze(1), bias_scale * slope.unsqueeze(0)])


def best_bias(loss: LossName, logits: Tensor, labels: Tensor, shares: Tensor, start: Tensor) -> Tensor:
    r"""Find the free bias that minimizes the loss of given logits, so that :math:`\Gamma^T 1 = 0`, by Newton's method."""
    bias, identity = start, torch.eye(logits.shape[1], dtype=torch.float64)
    for _ in range(50):
        move = loss_gradient(loss, logits + bias, labels, shares).sum(dim=0)
        if float(move.abs().max()) <= _EXACT:
            break
        # The curvature of the squared error is one, so its gradient is already the step of Newton's method.
        if loss == "cross_entropy":
            outputs = torch.softmax(logits + bias, dim=1)
            # The direction of the common shift, flat and never moved along, gets curvature 1/K. Others may be nearly flat.
            curvature = torch.diag(shares @ outputs) - outputs.T @ (shares.unsqueeze(1) * outputs) + 1 / len(identity)
            move = torch.linalg.solve(curvature + _FLAT * identity, move)
        # Far from the minimum a step of Newton's method may overshoot.
        highest = loss_value(loss, logits + bias, labels, shares) * (1 + 1e-14)
        for _ in range(_HALVINGS):
            if loss_value(loss, logits + bias - move, labels, shares) <= highest:
                break
            move = move / 2
        bias = bias - move
    return bias


class NuclearProblem(Problem):
    """A problem in weight and features that is equivalent to a convex program in the logits of the class means."""

    @property
    @abstractmethod
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits per class."""

    @abstractmethod
    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Return balanced weight and features for logits (K, K) of the class means without bias, and a bias (K,)."""

    @final
    def class_logits(self, variables: Variables) -> tuple[Tensor, Tensor]:
        """Return the logits of the class means without bias, shape (K, K), and the bias, shape (K,)."""
        membership = one_hot(self.labels, self.num_classes)
        means = membership.T @ variables["features"] / membership.sum(dim=0).unsqueeze(1)
        logits = means @ variables["weight"].T
        return logits, variables.get("bias", logits.new_zeros(self.num_classes))


def polish(problem: Problem, run: SolverResult) -> SolverResult:
    """Take one proximal step in the logits from the end of a run, unless it is worse."""
    # With tiny decays a descent in weight and features creeps, because these variables are ill-conditioned. One step in the
    # logits, which are well conditioned, takes most of what is left. Its end has balanced factors.
    if not isinstance(problem, NuclearProblem):
        return run
    try:
        variables = problem.from_logits(*problem.program.step(*problem.class_logits(run.variables)))
    except ValueError:
        # The step has a higher rank than the features have dimensions.
        return run
    before, after = (float(problem.objective(point)) for point in (run.variables, variables))
    return replace(run, variables=variables, history=(*run.history, after)) if after <= before else run


@dataclass(frozen=True)
class Proximal:
    """Accelerated proximal gradient descent in the logits. It finds the global minimum, and ignores the start.

    Attributes:
        tolerance: Gap to the lower bound at the end, relative to the objective.
        max_iterations: The number of steps after which it gives up.
    """

    tolerance: float = 1e-12
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Solve the convex program and split its logits into weight and features."""
        assert isinstance(problem, NuclearProblem)
        logits, bias, history, converged = problem.program.minimize(self.tolerance, self.max_iterations)
        description = f"accelerated proximal gradient descent in the logits, {10 * (len(history) - 1)} steps"
        return SolverResult(problem.from_logits(logits, bias), tuple(history), converged, description, "gap")
