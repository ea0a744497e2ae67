"""Solutions: a point of a surrogate model, what is proven about it, and how it was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.table import measurement_of
from ncollapse.metrics import LayerStatistics, select_metrics
from ncollapse.metrics.selection import CORE, MetricChoice
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassifierChoices, ClassMoments, LinearClassifier

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
    """A condition of a theorem, such as "c < 1", with the numbers on its left and on its right.

    Attributes:
        rounding: The largest error of the left side by rounding; 0 where it is negligible.
    """

    text: str
    left: float
    right: float
    rounding: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether both sides agree, to 1e-6 of the right one or to rounding."""
        return self._agree or abs(self.left - self.right) <= self.rounding

    @property
    def _agree(self) -> bool:
        return abs(self.left - self.right) <= _EQUAL * abs(self.right)

    @property
    def holds(self) -> bool:
        """Whether the left side is smaller, or both are equal."""
        return self.left <= self.right or self.equal

    def __str__(self) -> str:
        if self.equal:
            verdict = "holds with equality" if "<=" in self.text else "is an equality"
            if self._agree:
                return f"{self.text} {verdict}: both sides are {self.right:.6g}"
            return f"{self.text} {verdict} to rounding: {self.left:.6g} against {self.right:.6g}"
        return f"{self.text} {'holds' if self.holds else 'does not hold'}: {self.left:.6g} against {self.right:.6g}"


def unless_it_holds(condition: Inequality) -> Inequality | None:
    """Leave out a condition on a model's own numbers where it holds: it tells nothing there."""
    return None if condition.holds else condition


@dataclass(frozen=True)
class Certificate:
    """What is proven about a point.

    Attributes:
        lower_bound: No point of the model has a smaller objective; -inf where no bound is known.
        inequality: The condition that selects the branch, or that makes the point a global minimizer; None if there is none.
        weak: Why the bound cannot be reached by this model, such as "d < K"; empty where it can.
    """

    lower_bound: float
    inequality: Inequality | None = None
    weak: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """A point of a surrogate model, how good it is, and how it was found. ``print`` shows it in a few lines.

    Attributes:
        value: The objective.
        variables: Named tensors in float64, among them "features" of shape (N, d), one sample a row.
        labels: Classes of the samples, shape (N,).
        converged: Whether the solver reached its tolerance or the certificate proves the point; always true of closed forms.
        history: The objective at every iteration; one entry for closed forms.
        source: How the point was found, in words.
        criterion: Quantity that the solver's tolerance limits: "gradient", or "gap" to the lower bound.
    """

    value: float
    variables: Variables
    labels: Tensor
    certificate: Certificate
    converged: bool
    history: tuple[float, ...]
    source: str
    criterion: Literal["gradient", "gap"] = "gradient"

    @property
    def gap(self) -> float:
        """Objective minus lower bound: no other point is better by more, up to rounding."""
        return self.value - self.certificate.lower_bound

    @property
    def certified(self) -> bool:
        """Whether the gap proves a global minimum: to 1e-6 of the objective, or 1e-11 where the bound is zero."""
        # A bound above the value bounds nothing: it proves that one of the two is wrong.
        floor = _ZERO if self.certificate.lower_bound == 0 else CERTIFIED * abs(self.value)
        return math.isfinite(self.value) and abs(self.gap) <= floor

    @property
    def status(self) -> str:
        """What is known about the point, in a sentence."""
        return f"{self._verdict()}: {self.source}; {self._distance()}."

    def _verdict(self) -> str:
        if not self.converged:
            return "Not converged"
        if self.certified:
            return "Global minimum"
        if math.isinf(self.gap) or self.certificate.weak:
            return "Critical point"
        if self.criterion == "gap":
            return f"Within {100 * self.gap / abs(self.value):.2g} % of the global minimum"
        return "Critical point, not certified"

    def _distance(self) -> str:
        if math.isinf(self.certificate.lower_bound):
            return "no lower bound is known"
        if self.certificate.weak and not self.certified:
            return f"no useful bound: {self.certificate.weak}"
        return f"the gap to the lower bound is {self.gap:.3g}"

    def measurement(self, metrics: MetricChoice = None) -> Measurement:
        """Measure the collapse of the features, as ``ncollapse.measure`` does for one layer of a network.

        Args:
            metrics: As for ``ncollapse.measure``. A model without classifier leaves out the metrics that need one.

        Returns:
            The measurement of the layer "features"; undefined values are nan (if all features are zero, for example).
        """
        features, labels = self.variables["features"], self.labels
        moments = ClassMoments.from_batch(features, labels, int(labels.max()) + 1)
        weight = self.variables.get("weight")
        head = None if weight is None else LinearClassifier.from_parameters(weight, self.variables.get("bias"))
        centers = ClassCenters.from_moments(moments)
        decisions = ClassDecisions.from_batch(features, labels, centers, head)
        choices = None if head is None else ClassifierChoices.from_batch(head.choices(features), labels, moments.num_classes)
        layer = LayerStatistics(moments, centers, decisions, decisions, head, choices=choices)
        chosen = f"the features of a solution: {self.source}"
        selected = select_metrics(metrics)
        shown = CORE if metrics is None else [metric.id for metric in selected]
        return measurement_of({"features": layer}, selected, split="train", chosen=chosen, shown=shown)

    def metrics(self, ids: MetricChoice = None) -> dict[str, float]:
        """Compute collapse metrics of the features: their values by id."""
        return {row.metric: row.value for row in self.measurement(ids).rows}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.value:.6g}. {self.status}>"

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in self.variables.items())
        lines = [self.status, f"objective {self.value:.10g}, lower bound {self.certificate.lower_bound:.10g}"]
        if self.certificate.inequality is not None:
            lines.append(str(self.certificate.inequality))
        values = ", ".join(f"{id} {value:.4g}" for id, value in self.metrics("core").items())
        return "\n".join([*lines, f"variables: {shapes}", f"collapse of the features: {values}"])


class NotConverged(RuntimeError):
    """A solver stopped before its tolerance."""

    def __init__(self, solution: Solution, solver: str, others: Sequence[str]) -> None:
        elsewhere = f", or solve with {' or '.join(others)}" if others else ""
        super().__init__(
            f"{solution.status} Likely causes: (a) too few steps for its tolerance: give {solver} more steps or a larger "
            "tolerance; (b) no step lowers the objective any more, at a kink of ReLU or where its digits are used up. "
            f"Next: pass allow_unconverged=True and judge the point by its gap{elsewhere}."
        )
        self.solution = solution
