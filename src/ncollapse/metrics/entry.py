"""The entry of a metric in the registry, its evaluation on the statistics of layers, and the flags of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ncollapse.metrics.layer_statistics import LayerStatistics, Need
from ncollapse.metrics.noise import LARGEST_SHARE
from ncollapse.metrics.population import PopulationEstimate

FLAGS: dict[str, str] = {
    "empty_class": "a class has no samples, so nothing over all classes is defined",
    "no_between": "all class means coincide, so nothing relative to their spread is defined",
    "no_variance": "the features do not vary at all",
    "two_classes": "with two classes the value is the same for any features, since centered means are opposite",
    "low_dimension": "a simplex ETF does not fit into fewer than K-1 dimensions, so the value at collapse cannot be reached; "
    "pfc2_tight_frame has a reference that can",
    "no_orthoplex": "an orthoplex has an even number of corners, at most 2d, or the best pairs of classes were not proven",
    "no_softmax_code": "the best margin is known for K <= 2d or d = 2 only, and the margin is computed for up to 256 classes",
    "odd_on_line": "in one dimension an odd number of class means cannot be equally far from their center",
    "rank_deficient": "the class means span fewer than min(K-1, d) dimensions; the missing directions are left out",
    "coincident_means": "two class means coincide, so their distance-normalized variance is not defined",
    "mean_at_center": "a class mean coincides with the global mean, so its angle is not defined",
    "zero_classifier": "a classifier row is zero, so its direction is not defined",
    "classifier_unproven": "no linear map of the last layer's features was found that gives the network's logits",
    "classifier_not_finite": "the classifier's weights or biases contain NaN or inf",
    "zero_vector": "a feature, a centered class mean or a classifier row is zero, so its cosine is not defined",
    "coincident_directions": "two centered class means point the same way, or one has no direction: no finite energy",
    "imbalanced": "the classes have unequal counts, for which the metric is not defined",
    "one_class": "one class alone has no geometry",
    "single_samples": "a class has one sample, which cannot vary: its variability of 0 is no collapse",
    "single_centers": "a class has one sample, which is its own class mean and so always nearest to it",
    "single_left_out": "a class has one sample: without it the class has no mean, so the sample counts as wrong",
    "same_centers": "all class means by which samples are decided coincide, so every sample gets the smallest class index",
    "undersampled": "noise of the class means, from few samples, explains more than half of what the value measures",
    "noise_only": "an estimated spread of class means is not positive: their noise explains all of it",
    "few_samples": "the estimate needs four samples of every class, one for each of its independent parts",
    "no_noise": "nothing varies within a class, so that there is no noise to compare with",
    "unresolved": "a distance or direction between class means is within four standard errors of 0, so the value is uncertain",
    "unbounded": "these samples do not rule out that two class means coincide, so the value has no upper bound",
    "many_classes": "the metric holds K×K matrices and is computed for up to 1024 classes",
    "over_budget": "the metric needs the final class means, but the features exceeded memory_budget and cannot be read again",
    "own_means": "decided with this split's own class means, because no training measurement was given: pass reference=",
}


class MetricValue(NamedTuple):
    """One evaluated metric.

    Attributes:
        value: A float; nan if undefined.
        standard_error: Standard error of the value; None if it is not estimated.
        flags: Keys of ``FLAGS`` that qualify the value or explain why it is undefined.
    """

    metric: str
    value: float
    standard_error: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """One registry entry. ``print(METRICS["pfc1"])`` shows what a user should know of it.

    Attributes:
        id: Public name, a column of tables.
        title: A description in a few words.
        compute: Function from the statistics of a layer to the value, or to an estimate with its standard error. The registry's
            are one-line lambdas in ``metrics/registry.py``.
        needs: Statistics besides moments that must have been collected. "centers" means all sums around the final class means,
            "logits" the network's choices. A metric whose logits, classifier or scatter are missing has no row.
        at_collapse: Value at exact collapse; None if it depends on K (ranks).
        bounds: Smallest and largest possible value.
        direction: Whether it increases or decreases towards collapse.
        invariant: Transformations of the features that leave it unchanged.
        undefined_when: Conditions under which the value is nan.
        flagged_when: Conditions that qualify the value.
        nan_flag: The flag of a nan that no condition explains.
        despite_empty: Whether it is defined even if a class has no samples here, because it depends on the classifier alone, or
            on the class means of a training set that has samples of all classes.
        noise: Function that returns the share of the value that noise of class means explains. Above one half the value is
            flagged ``undersampled``.
        stacks: Whether both functions also take several layers stacked along a first dimension, and return a value for each.
    """

    id: str
    title: str
    compute: Callable[[LayerStatistics], Tensor | PopulationEstimate]
    needs: frozenset[Need]
    at_collapse: float | None
    bounds: tuple[float, float]
    direction: Literal["decreases", "increases", "none"]
    reference: str
    invariant: frozenset[str] = frozenset({"translation", "rotation", "scale"})
    undefined_when: frozenset[str] = frozenset()
    flagged_when: frozenset[str] = frozenset()
    nan_flag: str = "no_between"
    despite_empty: bool = False
    noise: Callable[[LayerStatistics], Tensor] | None = None
    stacks: bool = False

    def __str__(self) -> str:
        collapsed = "" if self.at_collapse is None else f"; {self.at_collapse:.4g} at collapse"
        flags = sorted({self.nan_flag, *self.undefined_when, *self.flagged_when})
        lines = [f"{self.id}: {self.title}", f"Range: {self.bounds[0]:.4g} to {self.bounds[1]:.4g}{collapsed}"]
        lines += [f"Flags: {', '.join(flags)} (ncollapse.FLAGS has their meanings)", f"Source: {self.reference}"]
        if self.compute.__module__.startswith("ncollapse."):
            anchor = self.id.replace(".", "")
            lines.append(f"Formula: docs/metrics.md#{anchor} in the source archive, and the same page of the site")
        return "\n".join(lines)

    def evaluate(self, statistics: LayerStatistics, conditions: set[str]) -> MetricValue:
        """Return the value and its flags; nan with a flag if it is undefined.

        Args:
            conditions: One of ``statistics.conditions()``.
        """
        return self.evaluate_each(statistics, [conditions], statistics.decisions is not None, statistics.choices is not None)[0]

    def evaluate_each(
        self, statistics: LayerStatistics, conditions: Sequence[set[str]], decided: bool, chosen: bool
    ) -> list[MetricValue]:
        """Return the values at one layer, or at each of several that are stacked."""
        possible = self._reasons(decided, chosen)
        reasons = [found & possible for found in conditions]
        if all(reasons):
            return [MetricValue(self.id, math.nan, None, tuple(sorted(found))) for found in reasons]
        found = self.compute(statistics)
        estimate = found if isinstance(found, PopulationEstimate) else PopulationEstimate(found, None)
        values = _numbers(estimate.value, len(conditions))
        errors = None if estimate.standard_error is None else float(estimate.standard_error)
        # The noise of a value that is nan may not be computable.
        wanted = self.noise is not None and not all(map(math.isnan, values))
        shares = _numbers(self.noise(statistics), len(conditions)) if wanted and self.noise else [0.0] * len(values)
        return [
            MetricValue(self.id, math.nan, None, tuple(sorted(reason)))
            if reason
            else self._judged(value, errors, share, (facts & self.flagged_when) | set(estimate.flags), bool(estimate.flags))
            for value, share, reason, facts in zip(values, shares, reasons, conditions, strict=True)
        ]

    def _reasons(self, decided: bool, chosen: bool) -> set[str]:
        """Return the conditions under which the value is nan."""
        reasons = {"one_class", *self.undefined_when}
        if not (self.despite_empty and ("centers" not in self.needs or decided)):
            reasons.add("empty_class")
        if "centers" in self.needs or ("logits" in self.needs and not chosen):
            reasons.add("over_budget")
        if self.needs & {"classifier", "logits"}:
            reasons.add("classifier_not_finite")
        if "classifier" in self.needs:
            reasons.add("classifier_unproven")
        return reasons

    def _judged(self, value: float, error: float | None, noise: float, flags: set[str], explained: bool) -> MetricValue:
        if math.isnan(value):
            return MetricValue(self.id, value, None, tuple(sorted(flags if explained else flags | {self.nan_flag})))
        if noise > LARGEST_SHARE:
            flags = flags | {"undersampled"}
        return MetricValue(self.id, value, error, tuple(sorted(flags)))


def _numbers(values: Tensor, count: int) -> list[float]:
    numbers: list[float] = values.reshape(-1).expand(count).tolist()
    return numbers


def evaluate_metrics(statistics: LayerStatistics, metrics: Sequence[Metric]) -> list[MetricValue]:
    """Return the values of metrics on one layer, in order, except of those whose statistics were not collected.

    Args:
        metrics: Registry entries, or metrics of your own.
    """
    return evaluate_layers([statistics], metrics)[0]


def evaluate_layers(layers: Sequence[LayerStatistics], metrics: Sequence[Metric]) -> list[list[MetricValue]]:
    """Return the values of metrics on each layer, as ``evaluate_metrics`` does."""
    # Ten classes of a hundred dimensions cost nothing but calls, a hundred of them a layer. So the layers of one size are
    # stacked, and each formula is called once for all.
    found: list[dict[str, MetricValue]] = [{} for _ in layers]
    groups: dict[object, list[int]] = {}
    for index, layer in enumerate(layers):
        size = layer.size
        groups.setdefault(index if size is None else size, []).append(index)
    for group in groups.values():
        alone = [layers[index].remembering() for index in group]
        whole = alone[0] if len(group) == 1 else LayerStatistics.stacked(alone)
        conditions = whole.conditions()
        several = [metric for metric in metrics if metric.stacks] if len(group) > 1 else []
        if several:
            _evaluate_together(whole, conditions, several, [found[index] for index in group])
        rest = [metric for metric in metrics if not (metric.stacks and several)]
        for index, layer, known in zip(group, alone, conditions, strict=True):
            lacks = layer.lacks
            here = [metric for metric in rest if not metric.needs & lacks]
            facts = known | layer.conditions_of_classifier if here else known
            found[index] |= {metric.id: metric.evaluate(layer, facts) for metric in here}
    return [[values[metric.id] for metric in metrics if metric.id in values] for values in found]


def _evaluate_together(
    whole: LayerStatistics, conditions: Sequence[set[str]], metrics: Sequence[Metric], found: Sequence[dict[str, MetricValue]]
) -> None:
    lacks = whole.lacks
    for metric in metrics:
        if not metric.needs & lacks:
            values = metric.evaluate_each(whole, conditions, whole.decisions is not None, False)
            for into, value in zip(found, values, strict=True):
                into[metric.id] = value
