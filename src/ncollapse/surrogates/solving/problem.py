"""The base classes of all surrogate models: a problem and a solver give a solution with a certificate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol, final

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels
from ncollapse.surrogates.solving.arguments import check_finite
from ncollapse.surrogates.solving.losses import LossName, loss_value
from ncollapse.surrogates.solving.solution import Certificate, NotConverged, Solution, Variables


@dataclass(frozen=True, eq=False)
class SolverResult:
    """Where a solver stopped."""

    variables: Variables
    history: tuple[float, ...]  # the objective at every step
    converged: bool
    description: str  # how the point was found, for the status
    criterion: Literal["gradient", "gap"] = "gradient"  # what the tolerance limits


class Solver(Protocol):
    """A way to solve a problem: a value that holds the settings."""

    def run(self, problem: Problem, start: Variables) -> SolverResult:
        """Descend from a start, on a problem that names this solver among its ``solvers``."""


class Problem(ABC):
    """A surrogate model with its numbers: an objective over named tensors, and a lower bound for every point.

    To add a model, implement the abstract methods; do not override the others.

    Attributes:
        labels: Classes of the samples, shape (N,).
    """

    # A plain annotation: some models store labels as a field, others compute them.
    labels: Tensor

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes, K."""

    @property
    @abstractmethod
    def solvers(self) -> tuple[type[Solver], ...]:
        """The solvers that fit the model with its numbers. The first is the default of ``solve``."""

    @abstractmethod
    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw a random start. ``normal`` returns standard normal entries in float64 for the sizes it is called with."""

    @abstractmethod
    def objective(self, variables: Variables) -> Tensor:
        """Return the function to minimize: a differentiable 0-d tensor."""

    @abstractmethod
    def certificate(self, variables: Variables) -> Certificate:
        """Return the lower bound of the minimum that a point gives, and the inequality behind it."""

    def complete(self, variables: Variables) -> Variables:
        """Convert the solver's variables to the full solution, which has "features"."""
        # Models that are solved in other variables (e.g. features eliminated) do work here.
        return variables

    @cached_property
    def _shares(self) -> Tensor:
        return torch.full((len(self.labels),), 1 / len(self.labels), dtype=torch.float64)

    def _mean_loss(self, name: LossName, logits: Tensor) -> Tensor:
        return loss_value(name, logits, self.labels, self._shares)

    @final
    def start(self, seed: int = 0) -> Variables:
        """Draw a random start by a seed."""
        generator = torch.Generator().manual_seed(seed)
        return self.draw(lambda *sizes: torch.randn(*sizes, generator=generator, dtype=torch.float64))

    @final
    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """Return the objective and its gradient by name."""
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
            start: Where to begin; None draws a random start from the seed.
            allow_unconverged: Return the point even if the solver stopped early. Its status says so.

        Returns:
            The point with its certificate.

        Raises:
            NotConverged: If the solver stopped before its tolerance.
            TypeError: If the solver does not fit the model.
        """
        chosen = self.solvers[0]() if solver is None else solver
        if not isinstance(chosen, self.solvers):
            names = " or ".join(f"{kind.__name__}()" for kind in self.solvers)
            solves = not isinstance(chosen, type) and hasattr(chosen, "run")
            got = f"{type(chosen).__name__}()" if solves else repr(chosen)
            raise TypeError(f"solver must be {names} for this {type(self).__name__}, got {got}. Take one of those.")
        run = chosen.run(self, self.start(seed) if start is None else start)
        solution = self.solution(run.variables, run.description, run.history, run.converged, run.criterion)
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
        criterion: Literal["gradient", "gap"] = "gradient",
    ) -> Solution:
        """Describe a point.

        Args:
            variables: The point, as solvers see it.
            source: How it was found, in words; the other arguments are described at ``Solution``.

        Returns:
            The point with its objective and certificate.
        """
        value, point = float(self.objective(variables)), self.complete(variables)
        certificate, steps = self.certificate(variables), history or (value,)
        found = Solution(value, point, self.labels, certificate, converged, steps, source, criterion)
        return replace(found, converged=True) if found.certified else found


class ClassMeansProblem(Problem):
    """A problem of classes with given ``counts`` of samples, whose features are one mean per class."""

    counts: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.counts)

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]  # computed here, a field elsewhere
        """The classes: there is one row of features for each."""
        return torch.arange(self.num_classes)


class CountsProblem(ClassMeansProblem):
    """A problem of classes with given ``counts`` of samples, each with its own features; they are sorted by class."""

    counts: tuple[int, ...]

    @property
    def num_samples(self) -> int:
        """The number of samples, N."""
        return sum(self.counts)

    @cached_property
    def labels(self) -> Tensor:  # type: ignore[override]  # as above
        """Classes of the samples, sorted, shape (N,)."""
        return torch.arange(self.num_classes).repeat_interleave(torch.tensor(self.counts))


class DataProblem(Problem):
    """A problem on given ``inputs`` of shape (N, d), one sample a row, with their ``labels``."""

    inputs: Tensor

    @cached_property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return int(self.labels.max()) + 1

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of samples of each class."""
        return tuple(torch.bincount(self.labels, minlength=self.num_classes).tolist())

    def _check_data(self) -> None:
        """Check the data, and keep them in float64."""
        if self.inputs.ndim != 2:
            raise ValueError(f"inputs must have shape (N, d), got {tuple(self.inputs.shape)}. Flatten the samples.")
        check_finite(type(self).__name__, self.inputs)
        object.__setattr__(self, "labels", check_labels(self.labels, len(self.inputs), self.num_classes))
        object.__setattr__(self, "inputs", self.inputs.detach().double())
        if self.num_classes < 2 or min(self.counts) == 0:
            raise ValueError(
                f"labels must hold two or more classes, each with a sample, got counts {self.counts}. Number the classes that "
                "occur from 0 on."
            )


def differentiate(objective: Callable[[Variables], Tensor], variables: Variables) -> tuple[float, Variables]:
    """Value and gradient of a function of named tensors."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in variables.items()}
    value = objective(leaves)
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return float(value.detach()), dict(zip(leaves, gradients, strict=True))
