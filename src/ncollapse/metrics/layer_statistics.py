"""The statistics of a layer that its metrics are evaluated on, and the degenerate cases that they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ncollapse.metrics.geometry import GramRows, cosine_sums, etf_distance
from ncollapse.metrics.noise import etf_floor, mean_noise, spread_share
from ncollapse.metrics.pairs import CosineSums, add_pairs, are_many
from ncollapse.metrics.population import Population
from ncollapse.metrics.uniformity import EnergySums, PairEnergy
from ncollapse.metrics.variability import CdnvSums, between_spectrum
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, ConventionParts, convention_parts
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.parts import ClassParts
from ncollapse.statistics.remembered import RememberedMoments
from ncollapse.statistics.scatter import ClassScatter
from ncollapse.tensor_fields import stacked_tensors

Need = Literal["centers", "logits", "classifier", "scatter", "parts", "left_out"]
# Some metrics hold K×K matrices, and one solves a problem for each class.
_MOST_CLASSES, _MOST_HULLS = 1024, 256
# Layers with more numbers in their means, or more classes, are evaluated one by one: then calls cost little.
_MOST_STACKED, _MOST_STACKED_CLASSES = 2**16, 128


class PairValues(NamedTuple):
    """The values of metrics of all pairs of class means, and the share of CDNV that noise explains."""

    max_angle: Tensor
    energy: PairEnergy
    cdnv: Tensor
    cdnv_noise: Tensor


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

    @classmethod
    def stacked(cls, layers: Sequence[LayerStatistics]) -> LayerStatistics:
        """Stack layers of one size along a first dimension: moments, centers and decisions, for metrics that take several."""
        first = layers[0]

        def stack(kind: type, name: str) -> Any:
            values = [getattr(layer, name) for layer in layers]
            return None if values[0] is None else stacked_tensors(kind, values)

        moments, within = stack(RememberedMoments, "moments"), stack(ClassDecisions, "within")
        centers = stack(ClassCenters, "centers")
        return LayerStatistics(
            moments=moments,
            centers=None if centers is None else replace(centers, moments=moments),
            within=within,
            decisions=within if first.decisions is first.within else stack(ClassDecisions, "decisions"),
            convention=first.convention,
            own_means=first.own_means,
            reference=stack(ClassMoments, "reference"),
        )

    def remembering(self) -> LayerStatistics:
        """Return a copy for the metrics of one evaluation, so that what these share is forgotten with it."""
        moments, centers = RememberedMoments.of(self.moments), self.centers
        if centers is not None and centers.moments is self.moments:
            centers = replace(centers, moments=moments)
        return replace(self, moments=moments, centers=centers)

    @property
    def size(self) -> tuple[object, ...] | None:
        """A key that is equal for layers that can be stacked; None if copying this layer would cost more than it saves."""
        if self.moments.means.numel() > _MOST_STACKED or self.moments.num_classes > _MOST_STACKED_CLASSES:
            return None
        shapes = [None if part is None else part.counts.shape for part in (self.within, self.decisions, self.reference)]
        basis = None if self.centers is None else self.centers.basis.shape
        same = (self.decisions is self.within, self.convention, self.own_means)
        return (self.moments.means.shape, tuple(self.moments.counts.tolist()), basis, *shapes, *same)

    @cached_property
    def centered_means(self) -> Tensor:
        """Class means minus the convention's global mean, for NC2, NC3 and GNC2."""
        return self.moments.centered_means(self.parts.center)

    @property
    def parts(self) -> ConventionParts:
        """The parts of the convention."""
        return convention_parts(self.convention)

    @cached_property
    def pairs(self) -> PairValues:
        """What the metrics of all pairs of class means need, from one walk over them."""
        cosines, energy = self.mean_cosines, EnergySums(self.centered_means)
        variances = CdnvSums(self.moments, squares=self.centered_means.square().sum(dim=-1), noise=mean_noise(self.moments))
        add_pairs(self.centered_means, [cosines, energy, variances])
        return PairValues(cosines.max_angle, energy.result(), variances.mean, variances.noise_share)

    @cached_property
    def mean_cosines(self) -> CosineSums:
        """Cosines of the centered class means."""
        return CosineSums(self.centered_means)

    @property
    def equiangularity(self) -> Tensor:
        """Spread of the cosines between centered class means, of which many need no walk over pairs."""
        if not are_many(self.centered_means):
            # One walk for all metrics of pairs.
            _ = self.pairs
        return self.mean_cosines.equiangularity

    @cached_property
    def row_cosines(self) -> CosineSums:
        """Cosines of the classifier rows."""
        assert self.classifier is not None, "this metric names classifier in its needs"
        return cosine_sums(self.classifier.weight)

    @cached_property
    def gram_means(self) -> GramRows:
        """Centered class means, for distances of their Gram matrices."""
        return GramRows(self.centered_means)

    @cached_property
    def gram_classifier(self) -> GramRows:
        """Classifier rows, for distances of their Gram matrices."""
        assert self.classifier is not None, "this metric names classifier in its needs"
        return GramRows(self.classifier.weight)

    @property
    def frame_means(self) -> Tensor:
        """Class means minus their mean, for PFC2 in all conventions."""
        return self.centered_means if self.parts.center == "class" else self.moments.centered_means("class")

    @cached_property
    def etf_distance(self) -> Tensor:
        """Distance of the class means' Gram matrix from a simplex ETF's, PFC2."""
        return etf_distance(self.gram_means if self.parts.center == "class" else self.frame_means)

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
        """Return the eigenvalues of the between-class covariance, those that are zero exactly 0."""
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

    def conditions(self) -> list[set[str]]:
        """Find the degenerate cases (keys of ``FLAGS``) that apply, of each layer; of one layer a list of one set."""
        return [found | self.conditions_of_classifier for found in self._conditions_of_means()]

    @property
    def conditions_of_classifier(self) -> set[str]:
        """The degenerate cases of the classifier that apply."""
        if self.classifier is None:
            return set() if self.choices is None else {"classifier_unproven"}
        return set() if _is_finite(self.classifier) else {"classifier_not_finite"}

    def _conditions_of_means(self) -> list[set[str]]:
        moments = self.moments
        num_layers = 1 if moments.means.ndim == 2 else len(moments.means)
        if moments.num_classes < 2:
            return [{"one_class"}] * num_layers
        if bool((moments.counts == 0).any()):
            return [{"empty_class"} | ({"own_means"} if self.own_means else set())] * num_layers
        sizes = {name for name, holds in self._conditions_of_sizes().items() if holds}
        spreads = self._conditions_of_spread()
        table = torch.stack([holds.reshape(-1).expand(num_layers) for holds in spreads.values()], dim=1).tolist()
        return [sizes | {name for name, holds in zip(spreads, row, strict=True) if holds} for row in table]

    def _conditions_of_sizes(self) -> dict[str, bool]:
        """Find the conditions that are the same for all layers of one size."""
        num_classes, dim = self.moments.num_classes, self.moments.dim
        fewest, most = (int(end) for end in torch.aminmax(self.moments.counts))
        return {
            "own_means": self.own_means,
            "two_classes": num_classes == 2,
            "low_dimension": dim < num_classes - 1,
            "no_orthoplex": num_classes % 2 == 1 or num_classes > 2 * dim,
            "no_softmax_code": (num_classes > 2 * dim and dim != 2) or num_classes > _MOST_HULLS,
            "imbalanced": fewest != most,
            # Around the mean of samples, unequal counts can balance an odd number of means.
            "odd_on_line": dim == 1 and num_classes % 2 == 1 and (self.parts.center == "class" or fewest == most),
            "single_samples": fewest == 1,
            "single_left_out": fewest == 1,
            "single_centers": self.reference is None and fewest == 1,
            "many_classes": num_classes > _MOST_CLASSES,
            "over_budget": self.over_budget,
        }

    def _conditions_of_spread(self) -> dict[str, Tensor]:
        moments, deciding = self.moments, self.reference or self.moments
        between, floor = moments.between_trace(self.convention), moments.rounding_floor
        no_between, span = between <= floor, min(moments.num_classes - 1, moments.dim)
        return {
            "no_between": no_between,
            "rank_deficient": torch.zeros_like(no_between)
            if self.centers is None
            else ~no_between & ((self.spectrum() > 0).sum(dim=-1) < span),
            "same_centers": deciding.between_trace(self.convention) <= deciding.rounding_floor,
            "no_variance": moments.within_trace() + between <= floor,
        }


def _is_finite(classifier: LinearClassifier) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in classifier)
