"""The pattern of every surrogate model: a problem and a solver give a solution, with a proof of how close it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, final

import torch
from torch import Tensor

from ncollapse.surrogates.solving.solution import Certificate, NotConverged, Solution, Variables


@dataclass(frozen=True, eq=False)
class Run:
    """What a solver hands back.

    Attributes:
        history: Objective at every iteration.
        converged: Whether it reached its tolerance.
        words: What it did, for the status.
        stopped_at: What its tolerance is about: a small "gradient" or a small "gap".
    """

    variables: Variables
    history: tuple[float, ...]
    converged: bool
    words: str
    stopped_at: Literal["gradient", "gap"] = "gradient"


class Solver(Protocol):
    """A way to solve a problem: a value that holds the settings."""

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start.

        Args:
            problem: The surrogate model.
            start: Where to begin.

        Returns:
            Where it stopped.

        Raises:
            TypeError: If the model does not name the solver among its ``solvers``.
        """


class Problem(ABC):
    """A surrogate model with its numbers: an objective over named tensors, and what can be proven about a point.

    A model says what is abstract here; everything else is final.

    Attributes:
        labels: Classes of the samples, shape (N,).
    """

    # Not an abstract property, for which models that take labels as a field could not stand in.
    labels: Tensor

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """K."""

    @property
    @abstractmethod
    def solvers(self) -> tuple[type[Solver], ...]:
        """Solvers of this library that fit the model with its numbers; ``solve`` takes the first unless told otherwise."""

    @abstractmethod
    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Make a start.

        Args:
            normal: Gives a tensor of standard normal entries, in float64, for the sizes it is called with.
        """

    @abstractmethod
    def objective(self, variables: Variables) -> Tensor:
        """The function to minimize, differentiable.

        Returns:
            0-d tensor.
        """

    @abstractmethod
    def certificate(self, variables: Variables) -> Certificate:
        """What is proven about a point.

        Args:
            variables: Any point; the bound is tight at a global minimizer.

        Returns:
            The lower bound and the inequality.
        """

    @abstractmethod
    def complete(self, variables: Variables) -> Variables:
        """All variables of a solution, for models that are solved in fewer or others.

        Args:
            variables: As solvers see them.

        Returns:
            The same with "features", one sample a row.
        """

    @final
    def start(self, seed: int = 0) -> Variables:
        """A random start, drawn by a seed."""
        generator = torch.Generator().manual_seed(seed)
        return self.draw(lambda *sizes: torch.randn(*sizes, generator=generator, dtype=torch.float64))

    @final
    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """Objective and, by name, its gradient."""
        return differentiate(self.objective, variables)

    @final
    def solve(
        self,
        solver: Solver | None = None,
        *,
        start: Variables | None = None,
        seed: int = 0,
        allow_unconverged: bool = False,
    ) -> Solution:
        """Minimize from one start.

        Args:
            solver: Such as ``LBFGS()`` or ``GradientDescent(learning_rate=0.1)``; None takes the model's default.
            start: Where to begin; None draws a random start.
            seed: Of the random start.
            allow_unconverged: Return the point where a solver ran out of iterations, with a status that says so.

        Returns:
            The point with its certificate.

        Raises:
            NotConverged: If the solver stopped before its tolerance, unless that is allowed.
            TypeError: If the solver does not fit the model.
        """
        chosen = self.solvers[0]() if solver is None else solver
        run = chosen.run(self, self.start(seed) if start is None else start)
        solution = self.solution(run.variables, run.words, run.history, run.converged, run.stopped_at)
        if not (solution.converged or allow_unconverged):
            others = [f"{kind.__name__}()" for kind in self.solvers if not isinstance(chosen, kind)]
            raise NotConverged(solution, type(chosen).__name__, others)
        return solution

    @final
    def solution(
        self,
        variables: Variables,
        source: str,
        history: tuple[float, ...] = (),
        converged: bool = True,
        stopped_at: Literal["gradient", "gap"] = "gradient",
    ) -> Solution:
        """Describe a point.

        Args:
            variables: The point, as solvers see it.
            source: How it was found.
            history: Objective at every iteration.
            converged: Whether the solver reached its tolerance.
            stopped_at: What that tolerance is about.

        Returns:
            The point with its objective and certificate.
        """
        value, point = float(self.objective(variables)), self.complete(variables)
        certificate, steps = self.certificate(variables), history or (value,)
        found = Solution(value, point, self.labels, certificate, converged, steps, source, stopped_at)
        return replace(found, converged=True) if found.certified else found


class CountsProblem(Problem):
    """A problem of classes with given numbers of samples, sorted by class.

    Attributes:
        counts: n_k, samples of each class.
    """

    counts: tuple[int, ...]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.counts)

    @property
    def num_samples(self) -> int:
        """N."""
        return sum(self.counts)

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]  # computed here, a field elsewhere
        """Classes of the samples, sorted."""
        return torch.arange(self.num_classes).repeat_interleave(torch.tensor(self.counts))


def differentiate(objective: Callable[[Variables], Tensor], variables: Variables) -> tuple[float, Variables]:
    """Value and gradient of a function of named tensors."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in variables.items()}
    value = objective(leaves)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return float(value.detach()), dict(zip(leaves, gradients, strict=True))


def check_accepted(problem: Problem, solver: Solver) -> None:
    """Check that a problem names a solver among its own."""
    if not isinstance(solver, problem.solvers):
        names = " or ".join(f"{kind.__name__}()" for kind in problem.solvers)
        raise TypeError(
            f"solver must be {names} for this {type(problem).__name__}, got {type(solver).__name__}(). Take one of those."
        )
