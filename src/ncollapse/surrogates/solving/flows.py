"""Flows along which an objective falls: Runge–Kutta steps, gradient descent, and the end of a flow with its path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.problem import Problem
from ncollapse.surrogates.solving.solution import Solution, Variables

State = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False, repr=False)
class FlowEnd(Solution):
    """The point of a flow at the last time that the caller asked for. It need not be a minimum.

    Attributes:
        times: Times from 0 on, equally spaced; for gradient descent the numbers of steps, from dense to sparse.
        path: The point at each time. The history holds the objectives.
    """

    times: tuple[float, ...] = ()
    path: tuple[Variables, ...] = ()

    def _verdict(self) -> str:
        return "End of a flow"


def runge_kutta(slope: Callable[[State], State], state: State, step: float) -> State:
    """Take one step of the classical method of order four."""

    def moved(by: State, share: float) -> State:
        return tuple(part + share * step * change for part, change in zip(state, by, strict=True))

    first = slope(state)
    second = slope(moved(first, 0.5))
    third = slope(moved(second, 0.5))
    fourth = slope(moved(third, 1.0))
    return moved(tuple(a + 2 * b + 2 * c + d for a, b, c, d in zip(first, second, third, fourth, strict=True)), 1 / 6)


def follow(
    problem: Problem,
    slope: Callable[[Variables], Variables],
    start: Variables,
    duration: float,
    num_steps: int,
    retract: Callable[[Variables], Variables] = dict,
) -> FlowEnd:
    """Follow a flow along which an objective falls."""
    check_positive(duration=duration, num_steps=num_steps)
    names, step = list(start), duration / num_steps

    def derivative(state: State) -> State:
        found = slope(dict(zip(names, state, strict=True)))
        return tuple(found[name] for name in names)

    path, history = [start], [float(problem.objective(start))]
    for number in range(num_steps):
        state = runge_kutta(derivative, tuple(path[-1].values()), step)
        path.append(retract(dict(zip(names, state, strict=True))))
        history.append(float(problem.objective(path[-1])))
        if not (math.isfinite(history[-1]) and history[-1] <= history[-2] + 1e-9 * history[0]):
            raise ValueError(
                f"The objective must fall along the flow, but at t = {(number + 1) * step:.3g} it went from {history[-2]:.3g} "
                f"to {history[-1]:.3g} with steps of {step:.3g}. Take more steps, or a shorter duration."
            )
    end = problem.solution(path[-1], f"{num_steps} steps up to t = {duration:g}", tuple(history))
    times = tuple(step * number for number in range(num_steps + 1))
    return FlowEnd(**vars(end), times=times, path=tuple(path))


def descend(problem: Problem, start: Variables, learning_rate: float, num_steps: int) -> FlowEnd:
    """Follow plain gradient descent, and keep about a hundred points of it."""
    check_positive(learning_rate=learning_rate, num_steps=num_steps)
    kept = {0} | {round(num_steps ** (i / 100)) for i in range(101)}
    variables, path, history = dict(start), [], []
    for step in range(num_steps + 1):
        value, gradient = problem.value_and_gradient(variables)
        if not math.isfinite(value):
            raise ValueError(
                f"learning_rate must be below 2 over the largest curvature, got {learning_rate:g}: the objective is {value} "
                f"after {step} steps. Take a smaller one."
            )
        if step in kept:
            path.append(variables)
            history.append(value)
        variables = {name: part - learning_rate * gradient[name] for name, part in variables.items()}
    source = f"{num_steps} steps of gradient descent of {learning_rate:g}"
    end = problem.solution(path[-1], source, tuple(history))
    return FlowEnd(**vars(end), times=tuple(float(step) for step in sorted(kept)), path=tuple(path))
