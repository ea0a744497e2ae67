"""Problems that come down to a convex program in logits, and the solver for them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.nuclear import NuclearProgram
from ncollapse.surrogates.solving.problem import Problem, Run, check_accepted
from ncollapse.surrogates.solving.solution import Variables


class NuclearProblem(Problem):
    """A problem in weight and features that a convex program in the classes' logits solves."""

    @property
    @abstractmethod
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits a class."""

    @abstractmethod
    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Balanced weight and features with given logits.

        Args:
            logits: Of the class means, without bias, shape (K, K).
            bias: Shape (K,).

        Raises:
            ValueError: If the logits have a higher rank than the features have dimensions.
        """

    @final
    def class_logits(self, variables: Variables) -> tuple[Tensor, Tensor]:
        """Logits of the class means without bias, shape (K, K), and the bias, shape (K,)."""
        membership = one_hot(self.labels, self.num_classes)
        means = membership.T @ variables["features"] / membership.sum(dim=0).unsqueeze(1)
        logits = means @ variables["weight"].T
        return logits, variables.get("bias", logits.new_zeros(self.num_classes))


def polish(problem: Problem, run: Run) -> Run:
    """One proximal step in the logits from where a run stopped, if that is no worse."""
    # A descent in weight and features leaves a gradient that the bound feels to first order: whether a gap of 1e-6 is reached
    # would depend on rounding, so on the number of threads. The step solves for the logits what is left in the well-conditioned
    # directions, and ends in balanced factors.
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
    """Accelerated proximal gradient descent in the logits, to a gap: finds the global minimum whatever the start.

    Attributes:
        tolerance: Gap to the lower bound at the end, relative to the objective.
        max_iterations: Steps before it gives up.
    """

    tolerance: float = 1e-12
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> Run:
        """Solve the convex program and split its logits into weight and features."""
        check_accepted(problem, self)
        assert isinstance(problem, NuclearProblem)
        found = problem.program.minimize(tolerance=self.tolerance, max_iterations=self.max_iterations)
        words = f"accelerated proximal gradient descent in the logits, {found.iterations} steps"
        return Run(problem.from_logits(found.logits, found.bias), found.history, found.converged, words, "gap")
