"""Feature cases that every metric and statistic is checked on, and the way from features to a layer's statistics."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ncollapse.metrics import METRICS, LayerStatistics
from ncollapse.statistics import (
    ClassCenters,
    ClassDecisions,
    ClassifierChoices,
    ClassMoments,
    ClassParts,
    ClassScatter,
    CrossMoments,
    LinearClassifier,
    PairedMoments,
)
from ncollapse.statistics.parts import part_labels


@dataclass(frozen=True)
class Case:
    """Features with labels and a classifier; `rtol` is what float64 arithmetic allows the oracle itself on them."""

    name: str
    features: Tensor
    labels: Tensor
    num_classes: int
    weight: Tensor
    bias: Tensor
    rtol: float = 1e-10


def make_case(
    name: str,
    counts: tuple[int, ...],
    dim: int,
    *,
    spread: float = 2.0,
    noise: float = 1.0,
    offset: float = 0.0,
    means: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    rtol: float = 1e-10,
    seed: int = 0,
) -> Case:
    """Gaussian classes in shuffled order; the classifier is related to the class means, but not equal to them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    num_classes = len(counts)
    means = spread * normal(num_classes, dim) if means is None else means
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    features = offset + means[labels] + noise * normal(len(labels), dim)
    weight = means / means.norm() + 0.3 * normal(num_classes, dim)
    return Case(name, features.to(dtype), labels, num_classes, weight, 0.2 * normal(num_classes), rtol)


def _cases() -> Iterator[Case]:
    yield make_case("balanced", (8, 8, 8, 8), 6)
    yield make_case("imbalanced", (9, 4, 3, 7), 6)
    yield make_case("overlapping", (12, 5, 9), 4, spread=0.7)
    yield make_case("two_classes", (6, 6), 5, spread=1.0)
    yield make_case("two_imbalanced_classes", (9, 2), 5)
    yield make_case("low_dimension", (7, 7, 7, 7, 7, 7), 3)
    yield make_case("many_classes_few_dimensions", (3, 2, 4, 3, 5, 2, 3, 4, 3, 3, 2, 6), 4)
    yield make_case("one_dimension", (5, 6, 4), 1)
    yield make_case("dimension_of_the_frame", (6, 6, 6, 6), 3)
    yield make_case("one_sample_class", (6, 1, 5), 4)
    yield make_case("one_sample_each", (1, 1, 1, 1), 5)
    yield make_case("fewer_samples_than_dimensions", (3, 2, 3), 20)
    line = torch.linspace(-3, 5, 5, dtype=torch.float64)[:, None].square() * torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, 0.2])
    yield make_case("means_on_a_line", (6, 4, 6, 3, 5), 6, means=line.double())
    # Rounding of a mean of 1e3 is 1e-13, seen against a deviation of 1e-3.
    yield make_case("far_mean_tiny_std", (9, 5, 7), 6, offset=1e3, noise=1e-3, rtol=1e-8)
    yield make_case("deep_collapse", (9, 5, 7), 6, noise=1e-6, rtol=1e-8)
    yield make_case("tiny_scale", (5, 5, 5), 4, spread=2e-8, noise=1e-8)
    yield make_case("large_scale", (5, 5, 5), 4, spread=2e8, noise=1e8)
    yield make_case("float32", (8, 8, 8, 8), 6, offset=3.0, dtype=torch.float32)
    yield make_case("bfloat16", (8, 6, 8, 8), 6, offset=3.0, dtype=torch.bfloat16)
    yield make_case("float16", (8, 6, 8, 8), 6, dtype=torch.float16)
    # More numbers than one float64 work block holds, so that the joints between blocks are crossed.
    yield make_case("several_blocks", (200, 170, 230), 512, spread=0.3, dtype=torch.float32)
    spatial = make_case("spatial", (8, 6, 7), 12)
    yield Case("spatial", spatial.features.reshape(-1, 3, 2, 2), spatial.labels, 3, spatial.weight, spatial.bias)
    strided = make_case("strided", (8, 6, 7), 5)
    yield Case("strided", strided.features.T.contiguous().T, strided.labels.int(), 3, strided.weight, strided.bias)


CASES = {case.name: case for case in _cases()}
# The registry without estimates for a population and floors of noise, which have tests of their own.
PLAIN = [metric for id, metric in METRICS.items() if "." not in id]


def classifier_of(case: Case) -> LinearClassifier:
    return LinearClassifier.from_parameters(case.weight, case.bias)


def layer_statistics(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    classifier: LinearClassifier | None = None,
    *,
    convention: str = "class",
    batch_size: int | None = None,
    scatter: bool = True,
) -> LayerStatistics:
    """Statistics of a layer, streamed in batches: the moments first, then what needs their final means."""
    features, labels = features.flatten(1), labels.reshape(-1).long()
    size = len(features) if batch_size is None else batch_size
    batches = [(features[i : i + size], labels[i : i + size]) for i in range(0, len(features), size)]
    moments = ClassMoments.empty(num_classes, features.shape[1])
    full = ClassScatter.empty(num_classes, features.shape[1]) if scatter else None
    parts = ClassParts.empty(num_classes, features.shape[1])
    choices = None if classifier is None else ClassifierChoices.empty(num_classes)
    for h, y in batches:
        parts.add_(h, part_labels(y, moments.counts))
        moments = moments.merge(ClassMoments.from_batch(h, y, num_classes))
        if full is not None:
            full = full.merge(ClassScatter.from_batch(h, y, num_classes))
        if choices is not None:
            choices = choices.merge(ClassifierChoices.from_batch(classifier.choices(h), y, num_classes))
    if bool((moments.counts == 0).any()):
        return LayerStatistics(
            moments, classifier=classifier, scatter=full, class_parts=parts, convention=convention, choices=choices
        )
    centers = ClassCenters.from_moments(moments)
    decisions = ClassDecisions.empty(centers)
    for h, y in batches:
        decisions = decisions.merge(ClassDecisions.from_batch(h, y, centers, classifier, squares=True))
    return LayerStatistics(moments, centers, decisions, decisions, classifier, full, parts, convention, choices=choices)


def statistics_of(case: Case, **options) -> LayerStatistics:
    return layer_statistics(case.features, case.labels, case.num_classes, classifier_of(case), **options)


def all_statistics(features: Tensor, labels: Tensor, num_classes: int, classifier: LinearClassifier, centers: ClassCenters):
    """One of each kind of statistic on the same samples; the decisions by given centers."""
    return {
        "moments": ClassMoments.from_batch(features, labels, num_classes),
        "paired": PairedMoments.from_batch(features, features.square() + 0.5 * features, labels, num_classes),
        "parts": ClassParts.from_batch(features, labels, num_classes),
        "scatter": ClassScatter.from_batch(features, labels, num_classes),
        "decisions": ClassDecisions.from_batch(features, labels, centers, classifier, squares=True),
        "choices": ClassifierChoices.from_batch(classifier.choices(features), labels, num_classes),
        "cross": CrossMoments.from_labels(features, labels, num_classes),
    }


def tensors_of(value: object) -> dict[str, Tensor]:
    """All tensors of a statistic by name, those of the statistics inside it included."""
    found = {}
    for name in (item.name for item in fields(value)):
        field = getattr(value, name)
        if isinstance(field, Tensor):
            found[name] = field
        else:
            found |= {f"{name}.{inner}": tensor for inner, tensor in tensors_of(field).items()}
    return found
