"""Descent on networks with ReLU, whose kinks are rounded off less and less."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from ncollapse.surrogates.solving.problem import Problem, Run, differentiate
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
        """The objective with every ReLU replaced by a parabola within a width of its kink."""

    @final
    def objective(self, variables: Variables) -> Tensor:
        """The function to minimize."""
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

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start, width by width."""
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
