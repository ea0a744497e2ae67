"""The entry of a metric in the registry, the statistics of a layer that it is evaluated on, and the flags of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ncollapse.metrics.geometry import etf_distance
from ncollapse.metrics.noise import LARGEST_SHARE, PairVariance, etf_floor, pair_variance, spread_share
from ncollapse.metrics.population import Estimate, Population
from ncollapse.metrics.uniformity import PairEnergy, pair_energy
from ncollapse.metrics.variability import between_spectrum
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, ConventionParts, convention_parts
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments, rounding_floor
from ncollapse.statistics.parts import ClassParts
from ncollapse.statistics.scatter import ClassScatter

Need = Literal["centers", "logits", "classifier", "scatter", "parts", "left_out"]
# Estimates for a population hold several K×K matrices.
_MOST_CLASSES = 1024

FLAGS: dict[str, str] = {
    "empty_class": "a class has no samples, so nothing over all classes is defined",
    "no_between": "all class means coincide, so nothing relative to their spread is defined",
    "no_variance": "the features do not vary at all",
    "two_classes": "with two classes the value is the same for any features, since centered means are opposite",
    "low_dimension": "fewer than K-1 feature dimensions have no room for a simplex ETF: no value is that of collapse",
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
    "single_left_out": "a class has one sample, and no mean without it, so that this sample counts as wrong",
    "same_centers": "all class means that decide coincide, so that the smallest class index decides",
    "undersampled": "noise of the class means, from few samples, explains more than half of what the value measures",
    "noise_only": "an estimated spread of class means is not positive: their noise explains all of it",
    "few_samples": "the estimate needs four samples of every class, one for each of its independent parts",
    "no_noise": "nothing varies within a class, so that there is no noise to compare with",
    "unresolved": "a distance or direction between class means is within four standard errors of 0, so the value is uncertain",
    "unbounded": "two class means may coincide, for all that these samples tell, so that the value has no upper bound",
    "many_classes": "estimates for a population hold K×K matrices and are computed for up to 1024 classes",
    "over_budget": "the metric needs the final class means, but the features exceeded memory_budget and cannot be read again",
    "own_means": "decided with this split's own class means, because no training measurement was given: pass reference=",
}


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """Everything that the metrics of one layer may use.

    Attributes:
        moments: Class moments of the layer.
        centers: Its class means prepared for decisions; None if no metric needs them or a class is empty.
        within: Sums around the layer's own means, with the within-class covariance on their span; None without centers, or if
            a stream of features exceeded its memory budget.
        decisions: Decisions by the training set's means. On the training set this is the same object as ``within``.
        classifier: The last layer, if this layer feeds it.
        scatter: Full scatter matrices, if a metric needs them.
        class_parts: Moments of interleaved parts of the classes, if a metric needs them.
        convention: Class weights of the covariances and of the global mean.
        own_means: Whether a split other than train is decided by its own means.
        reference: Moments of the training set whose means decide; None if the layer's own means decide.
        choices: How often the network's logits are right, at the last layer; None elsewhere and without logits.
    """

    moments: ClassMoments
    centers: ClassCenters | None = None
    within: ClassDecisions | None = None
    decisions: ClassDecisions | None = None
    classifier: LinearClassifier | None = None
    scatter: ClassScatter | None = None
    class_parts: ClassParts | None = None
    convention: Convention = "class"
    own_means: bool = False
    reference: ClassMoments | None = None
    choices: ClassifierChoices | None = None

    @property
    def centered_means(self) -> Tensor:
        """Class means minus the convention's global mean, for NC2, NC3 and GNC2."""
        return self.moments.centered_means(self.parts.center)

    @property
    def parts(self) -> ConventionParts:
        """The parts of the convention."""
        return convention_parts(self.convention)

    @cached_property
    def pair_energy(self) -> PairEnergy:
        """Mean and deviation over pairs of the log energy of the class means' directions, from one pass over the pairs."""
        return pair_energy(self.centered_means)

    @cached_property
    def etf_distance(self) -> Tensor:
        """Distance of the class means' Gram matrix from a simplex ETF's, PFC2."""
        return etf_distance(self.moments.centered_means("class"))

    @cached_property
    def pair_variance(self) -> PairVariance:
        """CDNV, and the share of it that noise explains."""
        return pair_variance(self.moments)

    @cached_property
    def spread_share(self) -> Tensor:
        """Share of tr Σ_B that noise explains."""
        return spread_share(self.moments, self.convention)

    @cached_property
    def frame_share(self) -> Tensor:
        """Share of PFC2² that noise explains, whether it hides the ETF or feigns it."""
        floor = etf_floor(self.moments)
        # With two classes both are 0 up to rounding.
        return torch.maximum(self.spread_share, torch.where(floor > 0, floor / self.etf_distance, 0.0).square())

    @cached_property
    def population(self) -> Population:
        """Estimates for the population."""
        assert self.class_parts is not None, "this metric names parts in its needs"
        return Population.from_parts(self.moments, self.class_parts, self.convention)

    def spectrum(self) -> Tensor:
        """Return the non-zero eigenvalues of the between-class covariance."""
        assert self.centers is not None, "this metric names centers in its needs"
        return between_spectrum(self.centers, self.convention)[0]

    def total_spectrum(self) -> Tensor:
        """Return the eigenvalues of the total covariance with sample weights, ascending."""
        assert self.scatter is not None, "this metric names scatter in its needs"
        return torch.linalg.eigvalsh(self.scatter.total_covariance("sample"))

    @property
    def over_budget(self) -> bool:
        """Whether the sums around the final class means are missing, because a stream exceeded its memory budget."""
        return self.centers is not None and self.within is None

    @property
    def lacks(self) -> set[Need]:
        """Kinds of statistics that were not collected. Centers that are missing because of an empty class do not count."""
        found: dict[Need, bool] = {
            "centers": self.centers is None
            and self.decisions is None
            and self.moments.num_classes > 1
            and bool((self.moments.counts > 0).all()),
            "logits": self.choices is None and (self.classifier is None or not self.over_budget),
            "classifier": self.classifier is None and self.choices is None,
            "scatter": self.scatter is None,
            "parts": self.class_parts is None,
            "left_out": self.within is not None and not bool(self.within.left_out.any()),
        }
        return {need for need, missing in found.items() if missing}

    def conditions(self) -> set[str]:
        """Find the degenerate cases (keys of ``FLAGS``) that apply to these statistics."""
        moments = self.moments
        always = {"classifier_not_finite"} if not _is_finite(self.classifier) else set()
        if self.classifier is None and self.choices is not None:
            always = {"classifier_unproven"}
        if moments.num_classes < 2:
            return {"one_class"} | always
        if bool((moments.counts == 0).any()):
            return {"empty_class"} | always | ({"own_means"} if self.own_means else set())
        between, floor = moments.between_trace(self.convention), rounding_floor(moments)
        no_between, deciding = bool(between <= floor), self.reference or moments
        span, imbalanced = min(moments.num_classes - 1, moments.dim), bool((moments.counts != moments.counts[0]).any())
        found = {
            "own_means": self.own_means,
            "no_between": no_between,
            "rank_deficient": self.centers is not None and not no_between and len(self.spectrum()) < span,
            "two_classes": moments.num_classes == 2,
            "low_dimension": moments.dim < moments.num_classes - 1,
            "imbalanced": imbalanced,
            # Around the mean of samples, unequal counts can balance an odd number of means.
            "odd_on_line": moments.dim == 1
            and moments.num_classes % 2 == 1
            and (self.parts.center == "class" or not imbalanced),
            "single_samples": bool((moments.counts == 1).any()),
            "single_left_out": bool((moments.counts == 1).any()),
            "single_centers": self.reference is None and bool((moments.counts == 1).any()),
            "same_centers": bool(deciding.between_trace(self.convention) <= rounding_floor(deciding)),
            "no_variance": bool(moments.within_trace() + between <= floor),
            "many_classes": moments.num_classes > _MOST_CLASSES,
            "over_budget": self.over_budget,
        }
        return always | {condition for condition, holds in found.items() if holds}


def _is_finite(classifier: LinearClassifier | None) -> bool:
    return classifier is None or all(bool(torch.isfinite(part).all()) for part in classifier)


class MetricValue(NamedTuple):
    """One evaluated metric.

    Attributes:
        value: A float; nan if undefined.
        standard_error: Of the value; None if it is not estimated.
        flags: Keys of ``FLAGS`` that qualify the value or explain why it is undefined.
    """

    metric: str
    value: float
    standard_error: float | None
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """One registry entry.

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
        noise: Function to the share of the value that the noise of class means explains; above one half it is ``undersampled``.
    """

    id: str
    title: str
    compute: Callable[[LayerStatistics], Tensor | Estimate]
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

    def evaluate(self, statistics: LayerStatistics, conditions: set[str]) -> MetricValue:
        """Return the value and its flags; nan with a flag if it is undefined.

        Args:
            conditions: The result of ``statistics.conditions()``.
        """
        decided = "centers" not in self.needs or statistics.decisions is not None
        empty: set[str] = set() if self.despite_empty and decided else {"empty_class"}
        waiting = "centers" in self.needs or ("logits" in self.needs and statistics.choices is None)
        dropped: set[str] = {"over_budget"} if waiting else set()
        broken = {"classifier_not_finite"} if self.needs & {"classifier", "logits"} else set[str]()
        if "classifier" in self.needs:
            broken = broken | {"classifier_unproven"}
        reasons = conditions & ({"one_class"} | empty | dropped | broken | self.undefined_when)
        if reasons:
            return MetricValue(self.id, math.nan, None, tuple(sorted(reasons)))
        found = self.compute(statistics)
        estimate = found if isinstance(found, Estimate) else Estimate(found, None)
        flags = (conditions & self.flagged_when) | set(estimate.flags)
        value = float(estimate.value)
        if math.isnan(value):
            flags |= set() if estimate.flags else {self.nan_flag}
        elif self.noise is not None and float(self.noise(statistics)) > LARGEST_SHARE:
            flags.add("undersampled")
        error = None if estimate.standard_error is None or math.isnan(value) else float(estimate.standard_error)
        return MetricValue(self.id, value, error, tuple(sorted(flags)))


def evaluate_metrics(statistics: LayerStatistics, metrics: Sequence[Metric]) -> list[MetricValue]:
    """Return the values of metrics on one layer, in order, except of those whose statistics were not collected.

    Args:
        metrics: Registry entries, or metrics of your own.
    """
    conditions, lacks = statistics.conditions(), statistics.lacks
    return [metric.evaluate(statistics, conditions) for metric in metrics if not metric.needs & lacks]
