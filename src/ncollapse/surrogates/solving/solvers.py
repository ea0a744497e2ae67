"""Solvers for any smooth problem: L-BFGS and the plain gradient descent that papers use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize

from ncollapse.surrogates.solving.problem import Problem, Run
from ncollapse.surrogates.solving.proximal import NuclearProblem, polish
from ncollapse.surrogates.solving.solution import Variables

# An objective that has fallen to this share of where it began is zero as far as its digits go.
_VANISHED = 1e-16
# L-BFGS goes on to this share of its tolerance.
_FURTHER = 1e-4
# Steps between two proximal ones, for convex programs.
_BETWEEN = 1000


def largest(tensors: Variables) -> float:
    """Largest absolute entry."""
    return max(float(tensor.abs().max()) for tensor in tensors.values())


def steepness(value: float, gradient: Variables, variables: Variables) -> float:
    """Largest entry of the gradient in units of the objective and of the largest variable."""
    # A change of the variables by a share t of the largest changes the objective by about this times t of itself, so that it
    # means the same for tiny decays, whose optimal objective is tiny, as for large ones.
    slope = largest(gradient)
    return slope * largest(variables) / abs(value) if slope > 0 and value != 0 else slope


def _end(vanished: bool, slope: float) -> str:
    return "objective zero to rounding" if vanished else f"relative gradient {slope:.2g}"


def _flatten(variables: Variables) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in variables.values()]).numpy()


def _unflatten(flat: np.ndarray, like: Variables) -> Variables:
    parts = torch.from_numpy(flat.copy()).split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory quasi-Newton descent in all variables (SciPy's L-BFGS-B).

    If the problem is a convex program in the logits, a proximal step of that program follows every thousand steps and the end.

    Attributes:
        tolerance: Largest entry of the gradient at the end, in units of the objective over the largest variable. The descent
            goes on to a ten-thousandth of it if rounding allows.
        max_iterations: The number of steps after which it gives up.
        memory: The number of past steps that it keeps.
    """

    tolerance: float = 1e-6
    max_iterations: int = 20_000
    memory: int = 30

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start."""
        if not isinstance(problem, NuclearProblem):
            return self.minimize(problem.value_and_gradient, start)
        # Polished on the way too: with tiny decays descent alone creeps for thousands of steps.
        run = Run(start, (), False, "")
        while True:
            limit = min(len(run.history) + _BETWEEN, self.max_iterations)
            found = replace(self, max_iterations=limit).minimize(problem.value_and_gradient, run.variables, run.history)
            run = polish(problem, found)
            if found.converged or len(found.history) <= limit or limit == self.max_iterations:
                return run

    def minimize(
        self,
        value_and_gradient: Callable[[Variables], tuple[float, Variables]],
        start: Variables,
        before: tuple[float, ...] = (),
    ) -> Run:
        """Minimize any function of named tensors, given with its gradient, after a history of former steps."""
        last = value_and_gradient(start)
        history = [*before] or [last[0]]
        left, vanished = self.max_iterations + 1 - len(history), _VANISHED * abs(history[0])

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal last
            last = value_and_gradient(_unflatten(flat, start))
            return last[0], _flatten(last[1])

        def after_step(intermediate_result: OptimizeResult) -> None:
            value = float(intermediate_result.fun)
            history.append(value)
            # A step ends with an evaluation at its end, whose gradient is kept.
            slope = steepness(value, last[1], _unflatten(intermediate_result.x, start))
            if abs(value) <= vanished or slope <= _FURTHER * self.tolerance:
                raise StopIteration

        counts = {"maxiter": left, "maxfun": 10 * left, "maxcor": self.memory}
        # No tolerance of SciPy's own: they are absolute, and a flat stretch is no reason to stop.
        options = {**counts, "gtol": 0.0, "ftol": 0.0}
        found = minimize(evaluate, _flatten(start), jac=True, method="L-BFGS-B", options=options, callback=after_step)
        variables = _unflatten(found.x, start)
        value, gradient = value_and_gradient(variables)
        slope = steepness(value, gradient, variables)
        gone = abs(value) <= vanished
        words = f"L-BFGS, {len(history) - 1} iterations, {_end(gone, slope)}"
        return Run(variables, tuple(history), gone or slope <= self.tolerance, words)


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent in all variables, with one learning rate.

    Attributes:
        tolerance: Largest entry of the gradient at the end, in units of the objective over the largest variable.
        max_iterations: The number of steps after which it gives up.
    """

    learning_rate: float = 0.1
    tolerance: float = 1e-9
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> Run:
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
            slope = steepness(value, gradient, variables)
            gone = abs(value) <= _VANISHED * abs(history[0])
            converged = gone or slope <= self.tolerance
            if converged or iteration == self.max_iterations:
                break
            variables = {name: tensor - self.learning_rate * gradient[name] for name, tensor in variables.items()}
        words = f"gradient descent, {iteration} steps of {self.learning_rate:g}, {_end(gone, slope)}"
        run = Run(variables, tuple(history), converged, words)
        # A descent cut short is shown as it is.
        return polish(problem, run) if converged else run
