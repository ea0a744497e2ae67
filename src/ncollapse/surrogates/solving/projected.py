"""Descent within a set: projected and Riemannian gradient steps with a line search."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from ncollapse.surrogates.solving.problem import Problem, Run
from ncollapse.surrogates.solving.solution import Variables
from ncollapse.surrogates.solving.solvers import largest

# Shorter steps do not move a point of order one.
_SHORTEST = 1e-16
# Of the promised fall that a step must bring.
_SHARE = 1e-4


class Constrained(Problem):
    """A problem over a set, such as a ball or a sphere."""

    @abstractmethod
    def retract(self, variables: Variables) -> Variables:
        """Bring a point back to the set."""

    def tangent(self, variables: Variables, gradient: Variables) -> Variables:
        """The part of a gradient along the set. That is all of it, unless the set has no inside."""
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

    def run(self, problem: Problem, start: Variables) -> Run:
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
        words = f"projected gradient descent, {len(history) - 1} steps, largest move of a unit step {steepest:.2g}"
        return Run(point, tuple(history), steepest <= self.tolerance * value, words)


def _step(problem: Constrained, point: Variables, descent: Variables, step: float) -> Variables:
    return problem.retract({name: part - step * descent[name] for name, part in point.items()})


def _move(problem: Constrained, point: Variables, descent: Variables, step: float) -> Variables:
    return {name: part - point[name] for name, part in _step(problem, point, descent, step).items()}


def _armijo(problem: Constrained, point: Variables, value: float, descent: Variables, step: float) -> float:
    """The longest of the halved steps that lowers the objective by a share of what its slope promises."""
    while step > _SHORTEST:
        move = _move(problem, point, descent, step)
        promise = sum(float(part.square().sum()) for part in move.values()) / step
        if float(problem.objective(_step(problem, point, descent, step))) <= value - _SHARE * promise:
            break
        step /= 2
    return step
