"""Solvers for any smooth problem: L-BFGS and the plain gradient descent that papers use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize

from ncollapse.surrogates.solving.problem import Problem, Run, Variables


def largest(tensors: Variables) -> float:
    """Largest absolute entry."""
    return max(float(tensor.abs().max()) for tensor in tensors.values())


def _flatten(variables: Variables) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in variables.values()]).numpy()


def _unflatten(flat: np.ndarray, like: Variables) -> Variables:
    parts = torch.from_numpy(flat.copy()).split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory quasi-Newton descent in all variables (SciPy's L-BFGS-B).

    Attributes:
        tolerance: Largest absolute entry of the gradient at the end. It goes on to a thousandth of it where rounding allows.
        max_iterations: Steps before it gives up.
        memory: Pairs of steps and gradient differences that are kept.
    """

    tolerance: float = 1e-7
    max_iterations: int = 20_000
    memory: int = 30

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start.

        Args:
            problem: Its objective is minimized.
            start: Where to begin.

        Returns:
            Where it stopped.
        """
        return self.minimize(problem.value_and_gradient, start)

    def minimize(self, value_and_gradient: Callable[[Variables], tuple[float, Variables]], start: Variables) -> Run:
        """Minimize any function.

        Args:
            value_and_gradient: The function.
            start: Where to begin.

        Returns:
            Where it stopped.
        """

        def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(_unflatten(flat, start))
            return value, _flatten(gradient)

        history = [value_and_gradient(start)[0]]
        options = {"maxiter": self.max_iterations, "maxfun": 10 * self.max_iterations, "maxcor": self.memory}
        found = minimize(
            evaluate,
            _flatten(start),
            jac=True,
            method="L-BFGS-B",
            # ftol 0: a flat stretch is no reason to stop.
            options={**options, "gtol": self.tolerance / 1000, "ftol": 0.0},
            callback=lambda intermediate_result: history.append(float(intermediate_result.fun)),
        )
        variables = _unflatten(found.x, start)
        steepest = largest(value_and_gradient(variables)[1])
        words = f"L-BFGS, {found.nit} iterations, largest gradient entry {steepest:.2g}"
        return Run(variables, tuple(history), steepest <= self.tolerance, words)


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent in all variables, with one learning rate.

    Attributes:
        learning_rate: Step over gradient.
        tolerance: Largest absolute entry of the gradient at the end.
        max_iterations: Steps before it gives up.
    """

    learning_rate: float = 0.1
    tolerance: float = 1e-9
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start.

        Args:
            problem: Its objective is minimized.
            start: Where to begin.

        Returns:
            Where it stopped.

        Raises:
            ValueError: If the objective leaves the finite numbers: the learning rate is too large.
        """
        variables, history = dict(start), []
        for iteration in range(self.max_iterations + 1):
            value, gradient = problem.value_and_gradient(variables)
            if not math.isfinite(value):
                raise ValueError(
                    f"Gradient descent needs a learning rate below 2 over the largest curvature; with {self.learning_rate:g} "
                    f"the objective is {value} after {iteration} steps. Take a smaller one."
                )
            history.append(value)
            steepest = largest(gradient)
            if steepest <= self.tolerance or iteration == self.max_iterations:
                break
            variables = {name: tensor - self.learning_rate * gradient[name] for name, tensor in variables.items()}
        words = f"gradient descent, {iteration} steps of {self.learning_rate:g}, largest gradient entry {steepest:.2g}"
        return Run(variables, tuple(history), steepest <= self.tolerance, words)
