"""Descent on networks with ReLU: the kink is rounded off, less and less, so that the end is a point whose slope is zero."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from ncollapse.surrogates.solving.problem import Problem, Run, check_accepted, differentiate
from ncollapse.surrogates.solving.solution import Variables
from ncollapse.surrogates.solving.solvers import LBFGS, steepness


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
        """The objective with every ReLU a parabola within a width of its kink; at width 0 the objective itself."""

    @final
    def objective(self, variables: Variables) -> Tensor:
        """The function to minimize."""
        return self.rounded_objective(variables, 0.0)


@dataclass(frozen=True)
class SmoothedReLU:
    """L-BFGS with ReLU rounded off at ever smaller widths: minima of ReLU networks lie at kinks, where no gradient vanishes.

    A point whose rounded objective is stationary is one of the network's own: the mean of gradients within the width is zero.
    The history is of the rounded objectives, but for its last entry.

    Attributes:
        widths: Distances from the kink within which ReLU is rounded off, falling.
        tolerance: Gradient of the rounded objective at the last width, in units of the objective over the largest variable.
        descent: How each is followed.
    """

    widths: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    tolerance: float = 1e-4
    descent: LBFGS = field(default_factory=LBFGS)

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start, width by width."""
        check_accepted(problem, self)
        assert isinstance(problem, ReLUProblem)
        # Each descent goes on to a tenth of the tolerance: L-BFGS would try for a ten-thousandth of its own.
        descent = replace(self.descent, tolerance=1e3 * self.tolerance)
        run = Run(start, (), False, "")
        for width in self.widths:
            slope_at = partial(differentiate, partial(problem.rounded_objective, width=width))
            found = descent.minimize(slope_at, run.variables)
            run = replace(found, history=run.history + found.history)
        converged = steepness(*slope_at(run.variables), run.variables) <= self.tolerance
        history = (*run.history, float(problem.objective(run.variables)))
        return Run(run.variables, history, converged, f"ReLU rounded off within {self.widths[-1]:g}, {run.words}")
