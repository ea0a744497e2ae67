"""Solvers: L-BFGS and plain gradient descent for smooth problems, and descent on sets and on networks with ReLU."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from ncollapse.surrogates.solving.nuclear import NuclearProblem, polish
from ncollapse.surrogates.solving.problem import Problem, SolverResult, differentiate
from ncollapse.surrogates.solving.solution import Variables

# An objective that has fallen to this share of its first value is zero to rounding.
_VANISHED = 1e-16
# L-BFGS goes on to this share of its tolerance if rounding allows.
_FURTHER = 1e-4
# Steps of L-BFGS between two proximal ones, for convex programs: what converges without them takes fewer, as a rule.
_BETWEEN = 200
# Shorter steps do not move a point of order one.
_SHORTEST = 1e-16
# A step must bring this share of the fall that its slope promises.
_SHARE = 1e-4


def largest(tensors: Variables) -> float:
    """Largest absolute entry."""
    return max(float(tensor.abs().max()) for tensor in tensors.values())


def scaled_gradient(value: float, gradient: Variables, variables: Variables) -> float:
    """Largest entry of the gradient in units of the objective and of the largest variable."""
    # A change of a variable by a share t of the largest one changes the objective by about this number times t, relative to
    # itself. So the number means the same for tiny decays, whose optimal objective is tiny, as for large ones.
    entry = largest(gradient)
    return entry * largest(variables) / abs(value) if entry > 0 and value != 0 else entry


def _end(vanished: bool, gradient: float) -> str:
    return "objective zero to rounding" if vanished else f"relative gradient {gradient:.2g}"


def _flatten(variables: Variables) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in variables.values()]).numpy()


def _unflatten(flat: np.ndarray, like: Variables) -> Variables:
    parts = torch.from_numpy(flat.copy()).split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory quasi-Newton descent in all variables (SciPy's L-BFGS-B).

    If the problem is a convex program in the logits, a proximal step of that program follows every 200 steps and the end.

    Attributes:
        tolerance: Largest entry of the gradient at the end, in units of the objective over the largest variable. The descent
            goes on to a ten-thousandth of it if rounding allows.
        max_iterations: The number of steps after which it gives up.
        memory: The number of past steps that it keeps.
    """

    tolerance: float = 1e-6
    max_iterations: int = 20_000
    memory: int = 30

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start."""
        if not isinstance(problem, NuclearProblem):
            return self.minimize(problem.value_and_gradient, start)
        # Polished on the way too: with tiny decays descent alone creeps.
        run = SolverResult(start, (), False, "")
        while True:
            limit = min(len(run.history) + _BETWEEN, self.max_iterations)
            found = replace(self, max_iterations=limit).minimize(problem.value_and_gradient, run.variables, run.history)
            run = polish(problem, found)
            # Stop: converged, stalled before this round's limit, or out of steps.
            if found.converged or len(found.history) <= limit or limit == self.max_iterations:
                return run

    def minimize(
        self,
        value_and_gradient: Callable[[Variables], tuple[float, Variables]],
        start: Variables,
        before: tuple[float, ...] = (),
    ) -> SolverResult:
        """Minimize any function of named tensors, given with its gradient, after a history of former steps."""
        last = value_and_gradient(start)
        history = [*before] or [last[0]]
        left, zero_level = self.max_iterations + 1 - len(history), _VANISHED * abs(history[0])

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal last
            last = value_and_gradient(_unflatten(flat, start))
            return last[0], _flatten(last[1])

        def after_step(intermediate_result: optimize.OptimizeResult) -> None:
            value = float(intermediate_result.fun)
            history.append(value)
            # A step ends with an evaluation at its end, whose gradient is kept.
            relative = scaled_gradient(value, last[1], _unflatten(intermediate_result.x, start))
            if abs(value) <= zero_level or relative <= _FURTHER * self.tolerance:
                raise StopIteration

        counts = {"maxiter": left, "maxfun": 10 * left, "maxcor": self.memory}
        # How this differs from SciPy's own stopping: (1) tolerances are relative to the objective; (2) a flat stretch does not
        # stop it.
        options = {**counts, "gtol": 0.0, "ftol": 0.0}
        found = optimize.minimize(evaluate, _flatten(start), jac=True, method="L-BFGS-B", options=options, callback=after_step)
        variables = _unflatten(found.x, start)
        value, gradient = value_and_gradient(variables)
        relative = scaled_gradient(value, gradient, variables)
        vanished = abs(value) <= zero_level
        description = f"L-BFGS, {len(history) - 1} iterations, {_end(vanished, relative)}"
        return SolverResult(variables, tuple(history), vanished or relative <= self.tolerance, description)


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent in all variables, with one learning rate.

    Attributes:
        learning_rate: Step length; must stay below 2 / (largest curvature).
        tolerance: Largest entry of the gradient at the end, in units of the objective over the largest variable.
        max_iterations: The number of steps after which it gives up.
    """

    learning_rate: float = 0.1
    tolerance: float = 1e-9
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start."""
        variables, history = dict(start), []
        for iteration in range(self.max_iterations + 1):
            value, gradient = problem.value_and_gradient(variables)
            if not math.isfinite(value):
                raise ValueError(
                    f"learning_rate must be below 2 over the largest curvature, got {self.learning_rate:g}: the objective is "
                    f"{value} after {iteration} steps. Take a smaller one."
                )
            history.append(value)
            relative = scaled_gradient(value, gradient, variables)
            vanished = abs(value) <= _VANISHED * abs(history[0])
            converged = vanished or relative <= self.tolerance
            if converged or iteration == self.max_iterations:
                break
            variables = {name: tensor - self.learning_rate * gradient[name] for name, tensor in variables.items()}
        description = f"gradient descent, {iteration} steps of {self.learning_rate:g}, {_end(vanished, relative)}"
        run = SolverResult(variables, tuple(history), converged, description)
        # A descent cut short is shown as it is.
        return polish(problem, run) if converged else run


class Constrained(Problem):
    """A problem over a set, such as a ball or a sphere."""

    @abstractmethod
    def retract(self, variables: Variables) -> Variables:
        """Bring a point back to the set."""

    def tangent(self, variables: Variables, gradient: Variables) -> Variables:
        """Return the part of a gradient along the set. That is all of it, unless the set has no inside."""
        return gradient


@dataclass(frozen=True)
class ProjectedGradient:
    """Projected gradient descent: steps along the negative gradient, brought back to the set.

    Armijo's rule halves a step until it lowers the objective enough. The next step tries twice its length.

    Attributes:
        tolerance: Largest entry by which a step of length one moves the end, relative to the objective (which is positive).
        max_iterations: The number of steps after which it gives up.
    """

    tolerance: float = 1e-7
    max_iterations: int = 20_000

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start."""
        assert isinstance(problem, Constrained)
        point, step, history = problem.retract(start), 1.0, []
        while True:
            value, gradient = problem.value_and_gradient(point)
            history.append(value)
            descent = problem.tangent(point, gradient)
            steepest = largest(_move(problem, point, descent, 1.0))
            if steepest <= self.tolerance * value or len(history) > self.max_iterations:
                break
            step = _armijo(problem, point, value, descent, 2 * step)
            point = _step(problem, point, descent, step)
        description = f"projected gradient descent, {len(history) - 1} steps, largest move of a unit step {steepest:.2g}"
        return SolverResult(point, tuple(history), steepest <= self.tolerance * value, description)


def _step(problem: Constrained, point: Variables, descent: Variables, step: float) -> Variables:
    return problem.retract({name: part - step * descent[name] for name, part in point.items()})


def _move(problem: Constrained, point: Variables, descent: Variables, step: float) -> Variables:
    return {name: part - point[name] for name, part in _step(problem, point, descent, step).items()}


def _armijo(problem: Constrained, point: Variables, value: float, descent: Variables, step: float) -> float:
    """Return the longest of the halved steps that lowers the objective by a share of what its slope promises."""
    while step > _SHORTEST:
        move = _move(problem, point, descent, step)
        promise = sum(float(part.square().sum()) for part in move.values()) / step
        if float(problem.objective(_step(problem, point, descent, step))) <= value - _SHARE * promise:
            break
        step /= 2
    return step


def rounded_relu(inputs: Tensor, width: float) -> Tensor:
    """ReLU with its kink replaced by a parabola within a distance of zero; ReLU itself at width 0."""
    # It is the mean of ReLU over shifts of up to the width, and its gradient the mean of gradients nearby.
    if width == 0:
        return torch.relu(inputs)
    return torch.where(inputs.abs() < width, (inputs + width).square() / (4 * width), torch.relu(inputs))


class ReLUProblem(Problem):
    """A problem whose objective has kinks where ReLU has."""

    @abstractmethod
    def rounded_objective(self, variables: Variables, width: float) -> Tensor:
        """Return the objective with every ReLU replaced by a parabola within a width of its kink."""

    @final
    def objective(self, variables: Variables) -> Tensor:
        """Return the function to minimize."""
        return self.rounded_objective(variables, 0.0)


@dataclass(frozen=True)
class SmoothedReLU:
    """L-BFGS with ReLU rounded off at ever smaller widths.

    Minima of ReLU networks lie at kinks, where no gradient vanishes. The gradient of the rounded objective is a mean of
    gradients nearby, and it does vanish there. The history holds rounded objectives; only its last entry is the objective
    itself.

    Attributes:
        widths: Falling distances from the kink within which ReLU is rounded off.
        tolerance: Largest entry of the last rounded gradient, in units of the objective over the largest variable.
        descent: The solver at each width.
    """

    widths: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    tolerance: float = 1e-4
    descent: LBFGS = field(default_factory=LBFGS)

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start, width by width."""
        assert isinstance(problem, ReLUProblem)
        # Each descent goes on to a tenth of the tolerance: L-BFGS would try for a ten-thousandth of its own.
        descent = replace(self.descent, tolerance=1e3 * self.tolerance)
        run = SolverResult(start, (), False, "")
        for width in self.widths:
            slope_at = partial(differentiate, partial(problem.rounded_objective, width=width))
            found = descent.minimize(slope_at, run.variables)
            run = replace(found, history=run.history + found.history)
        converged = scaled_gradient(*slope_at(run.variables), run.variables) <= self.tolerance
        history = (*run.history, float(problem.objective(run.variables)))
        return SolverResult(
            run.variables, history, converged, f"ReLU rounded off within {self.widths[-1]:g}, {run.description}"
        )
