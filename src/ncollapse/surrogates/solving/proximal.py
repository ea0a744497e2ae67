"""Problems that come down to a convex program in logits, and the solver for them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ncollapse.surrogates.solving.nuclear import NuclearProgram
from ncollapse.surrogates.solving.problem import Problem, Run, Variables


class NuclearProblem(Problem):
    """A problem in weight and features that a convex program in the classes' logits solves."""

    @property
    @abstractmethod
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits a class."""

    @abstractmethod
    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Balanced weight and features with given logits."""


@dataclass(frozen=True)
class Proximal:
    """Accelerated proximal gradient descent in the logits, to a gap: finds the global minimum whatever the start.

    Attributes:
        tolerance: Gap to the lower bound at the end, relative to the objective.
        max_iterations: Steps before it gives up.
    """

    tolerance: float = 1e-12
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> Run:
        """Solve the convex program and split its logits into weight and features.

        Args:
            problem: A problem with a convex program in logits.
            start: Unused: the steps begin at zero logits.

        Returns:
            Where it stopped.

        Raises:
            TypeError: If the problem has no such program.
        """
        if not isinstance(problem, NuclearProblem):
            raise TypeError(
                f"Proximal solves problems with a convex program in logits, got {type(problem).__name__}. Take LBFGS()."
            )
        found = problem.program.minimize(tolerance=self.tolerance, max_iterations=self.max_iterations)
        words = f"accelerated proximal gradient descent in the logits, {found.iterations} steps"
        return Run(problem.from_logits(found.logits, found.bias), found.history, found.converged, words)
