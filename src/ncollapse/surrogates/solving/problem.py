"""The pattern of every surrogate model: a problem and a solver give a solution, with a proof of how close it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ncollapse.metrics import LayerStatistics, evaluate_metrics, select_metrics
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments, LinearClassifier

# Named float64 tensors; "weight" (K, d), "bias" (K,) and "features" (N, d) mean the same in every model that has them.
Variables = dict[str, Tensor]
# A relative gap below this is what the gradient of a solved problem, a few 1e-10, leaves open to first order.
CERTIFIED = 1e-6
# What solvers leave of a minimum that is zero.
_ZERO = 1e-11
# The sides of an inequality that is an equality at the solution are known as well as the gradient is.
_EQUAL = 1e-6


@dataclass(frozen=True)
class Inequality:
    """A condition of a theorem, with both of its sides.

    Attributes:
        text: What is compared, such as "c < 1".
        left: The smaller side, if it holds.
        right: The larger side, if it holds.
    """

    text: str
    left: float
    right: float

    @property
    def holds(self) -> bool:
        """Whether the left side is the smaller one, to 1e-6 of the right."""
        return self.left <= self.right + _EQUAL * abs(self.right)

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        return f"{self.text} {verdict}: {self.left:.6g} against {self.right:.6g}"


@dataclass(frozen=True)
class Certificate:
    """What is proven about a point.

    Attributes:
        lower_bound: No point of the model has a smaller objective; -inf where theory gives no bound.
        inequality: The condition that selects the branch, or under which the point is a global minimizer.
    """

    lower_bound: float
    inequality: Inequality


@dataclass(frozen=True)
class Solution:
    """A point of a surrogate model, how good it is, and how it was found.

    Attributes:
        value: Its objective.
        variables: Named tensors in float64, among them "features" of shape (N, d), one sample a row.
        labels: Classes of the samples, shape (N,).
        certificate: Lower bound of the model's minimum and the inequality behind it.
        converged: Whether the solver reached its tolerance, or the certificate proves the point; closed forms always have.
        history: Objective at every iteration; one entry for closed forms.
        source: How it was found, for the status.
    """

    value: float
    variables: Variables
    labels: Tensor
    certificate: Certificate
    converged: bool
    history: tuple[float, ...] = field(repr=False)
    source: str

    @property
    def gap(self) -> float:
        """Objective minus lower bound: at most this much is to be gained, up to rounding."""
        return self.value - self.certificate.lower_bound

    @property
    def certified(self) -> bool:
        """Whether the gap proves a global minimum, to 1e-6 of the objective, or 1e-11 where that is zero."""
        return math.isfinite(self.value) and self.gap <= max(CERTIFIED * abs(self.value), _ZERO)

    @property
    def status(self) -> str:
        """What is known about the point, as a sentence."""
        if not self.converged:
            return f"Not converged: {self.source}; the gap to the lower bound is {self.gap:.3g}."
        if self.certified:
            return f"Global minimum: {self.source}; the gap to the lower bound is {self.gap:.3g}."
        if math.isinf(self.gap):
            return f"Critical point: {self.source}; no lower bound is known."
        return f"Critical point, not certified: {self.source}; the gap to the lower bound is {self.gap:.3g}."

    def metrics(self, ids: Sequence[str] | None = None) -> dict[str, float]:
        """Collapse metrics of the solution, from the registry.

        Args:
            ids: Metric ids; None takes all that need no d×d matrix. Those that need a classifier are left out where the
                model has none.

        Returns:
            Values by id, nan where undefined (of features that are all zero, say).
        """
        features, labels = self.variables["features"], self.labels
        moments = ClassMoments.from_batch(features, labels, int(labels.max()) + 1)
        weight = self.variables.get("weight")
        head = None if weight is None else LinearClassifier.from_parameters(weight, self.variables.get("bias"))
        centers = ClassCenters.from_moments(moments)
        decisions = ClassDecisions.from_batch(features, labels, centers, head)
        layer = LayerStatistics(moments, centers, decisions, decisions, head)
        return {value.metric: value.value for value in evaluate_metrics(layer, select_metrics(ids))}


class NotConverged(RuntimeError):
    """A solver stopped before its tolerance.

    Attributes:
        solution: Where it stopped.
    """

    def __init__(self, solution: Solution) -> None:
        super().__init__(
            f"{solution.status} Give the solver more iterations or a larger tolerance, or pass allow_unconverged=True to get "
            "the point where it stopped."
        )
        self.solution = solution


@dataclass(frozen=True)
class Run:
    """What a solver hands back.

    Attributes:
        variables: Where it stopped.
        history: Objective at every iteration.
        converged: Whether it reached its tolerance.
        words: What it did, for the status.
    """

    variables: Variables
    history: tuple[float, ...]
    converged: bool
    words: str


class Solver(Protocol):
    """A way to solve a problem: a value that holds the settings."""

    def run(self, problem: Problem, start: Variables) -> Run:
        """Descend from a start.

        Args:
            problem: The surrogate model.
            start: Where to begin.

        Returns:
            Where it stopped.
        """


class Problem(ABC):
    """A surrogate model with its numbers: an objective over named tensors, and what can be proven about a point.

    Attributes:
        labels: Classes of the samples, shape (N,).
    """

    # Not an abstract property, for which models that take labels as a field could not stand in.
    labels: Tensor

    @property
    @abstractmethod
    def default_solver(self) -> Solver:
        """What ``solve`` takes unless told otherwise."""

    @abstractmethod
    def start(self, seed: int) -> Variables:
        """A random start.

        Args:
            seed: Of its generator.

        Returns:
            Standard normal variables.
        """

    @abstractmethod
    def objective(self, variables: Variables) -> Tensor:
        """The function to minimize, differentiable.

        Args:
            variables: A point.

        Returns:
            0-d tensor.
        """

    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """Objective and gradient, by automatic differentiation unless a model knows better.

        Args:
            variables: A point.

        Returns:
            The value and the gradient by name.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in variables.items()}
        value = self.objective(leaves)
        gradients = torch.autograd.grad(value, list(leaves.values()))
        return float(value.detach()), dict(zip(leaves, gradients, strict=True))

    @abstractmethod
    def certificate(self, variables: Variables) -> Certificate:
        """What is proven about a point.

        Args:
            variables: Any point; the bound is tight at a global minimizer.

        Returns:
            The lower bound and the inequality.
        """

    def complete(self, variables: Variables) -> Variables:
        """All variables of a solution, for models that are solved in fewer.

        Args:
            variables: As solvers see them.

        Returns:
            The same with "features", one sample a row.
        """
        return variables

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
        """
        begin = self.start(seed) if start is None else start
        run = (solver or self.default_solver).run(self, begin)
        solution = self.solution(run.variables, run.words, run.history, run.converged)
        if not (solution.converged or allow_unconverged):
            raise NotConverged(solution)
        return solution

    def solution(self, variables: Variables, source: str, history: tuple[float, ...] = (), converged: bool = True) -> Solution:
        """Describe a point.

        Args:
            variables: The point, as solvers see it.
            source: How it was found.
            history: Objective at every iteration.
            converged: Whether the solver reached its tolerance.

        Returns:
            The point with its objective and certificate.
        """
        value = float(self.objective(variables))
        certificate = self.certificate(variables)
        found = Solution(value, self.complete(variables), self.labels, certificate, converged, history or (value,), source)
        return replace(found, converged=converged or found.certified)


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
