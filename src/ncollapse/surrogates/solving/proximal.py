"""Problems that are equivalent to a convex program in the logits, and the solver for them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.nuclear import NuclearProgram
from ncollapse.surrogates.solving.problem import Problem, Run
from ncollapse.surrogates.solving.solution import Variables


class NuclearProblem(Problem):
    """A problem in weight and features that a convex program in the classes' logits solves."""

    @property
    @abstractmethod
    def program(self) -> NuclearProgram:
        """The convex program, one row of logits a class."""

    @abstractmethod
    def from_logits(self, logits: Tensor, bias: Tensor) -> Variables:
        """Balanced weight and features for logits (K, K) of the class means without bias, and a bias (K,)."""

    @final
    def class_logits(self, variables: Variables) -> tuple[Tensor, Tensor]:
        """Logits of the class means without bias, shape (K, K), and the bias, shape (K,)."""
        membership = one_hot(self.labels, self.num_classes)
        means = membership.T @ variables["features"] / membership.sum(dim=0).unsqueeze(1)
        logits = means @ variables["weight"].T
        return logits, variables.get("bias", logits.new_zeros(self.num_classes))


def polish(problem: Problem, run: Run) -> Run:
    """One proximal step in the logits from where a run stopped, if that is no worse."""
    # A descent in weight and features creeps where decays are tiny. The step solves what is left in the well-conditioned
    # directions of the logits, and ends in balanced factors.
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
    """Accelerated proximal gradient descent in the logits. It finds the global minimum, and takes no start.

    Attributes:
        tolerance: Gap to the lower bound at the end, relative to the objective.
        max_iterations: The number of steps after which it gives up.
    """

    tolerance: float = 1e-12
    max_iterations: int = 100_000

    def run(self, problem: Problem, start: Variables) -> Run:
        """Solve the convex program and split its logits into weight and features."""
        assert isinstance(problem, NuclearProblem)
        found = problem.program.minimize(tolerance=self.tolerance, max_iterations=self.max_iterations)
        words = f"accelerated proximal gradient descent in the logits, {found.iterations} steps"
        return Run(problem.from_logits(found.logits, found.bias), found.history, found.converged, words, "gap")
