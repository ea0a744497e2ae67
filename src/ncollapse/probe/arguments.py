"""What the ways to measure take: arguments checked, and what they stand for found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ncollapse.groups import Processes
from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.registry import select_metrics
from ncollapse.probe.memory import available_memory
from ncollapse.probe.totals import CollectOptions
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention, convention_parts


def select(metrics: Sequence[str] | None, convention: Convention, num_classes: int) -> list[Metric]:
    """The metrics asked for, with the arguments checked that they are evaluated with."""
    convention_parts(convention)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes must be an integer, at least 1, got {num_classes!r}.")
    if metrics is not None and (isinstance(metrics, str) or not metrics):
        raise ValueError(
            f"metrics must be a list of ids, such as ['pfc1', 'nc3'], got {metrics!r}. None takes the default ones."
        )
    return select_metrics(metrics)


def check_classifier_metrics(selected: Sequence[Metric], found: str) -> None:
    """Check that metrics which somebody named are not left out silently, where there is no classifier."""
    names = [metric.id for metric in selected if "classifier" in metric.needs]
    if names:
        raise ValueError(
            f"Metrics {', '.join(names)} need a classifier ({found}). Name it with classifier=, or leave them out."
        )


def classifier_on(layer: str, dim: int, classifier: tuple[Tensor, Tensor | None], num_classes: int) -> LinearClassifier:
    """A classifier that somebody hands in, checked against the layer that feeds it."""
    if not (isinstance(classifier, tuple) and len(classifier) == 2):
        raise TypeError(
            f"classifier must be a pair (weight, bias or None), got {type(classifier).__name__}. "
            "Of a linear layer pass (layer.weight, layer.bias)."
        )
    head = LinearClassifier.from_parameters(*classifier).to("cpu")
    if head.weight.shape != (num_classes, dim):
        raise ValueError(
            f"The classifier's weight must have shape ({num_classes}, {dim}) for layer {layer!r}, "
            f"got {tuple(head.weight.shape)}."
        )
    return head


def options_of(selected: Sequence[Metric], num_classes: int, budget: int, path: bool, where: str) -> CollectOptions:
    """What must be collected for metrics."""
    needs = frozenset().union(*(metric.needs for metric in selected))
    return CollectOptions(num_classes, budget, "centers" in needs, "scatter" in needs, path, where)


def reference_centers(reference: Measurement | None, num_classes: int) -> dict[str, ClassCenters | None] | None:
    """Centers of a reference by layer."""
    if reference is None:
        return None
    if reference.num_classes != num_classes:
        raise ValueError(
            f"The reference has {reference.num_classes} classes, the data {num_classes}. "
            "Measure both splits with one num_classes."
        )
    return {name: statistics.centers for name, statistics in reference.statistics.items()}


def check_budget(given: int | None) -> None:
    """Check a memory budget."""
    if given is not None and given < 0:
        raise ValueError(f"memory_budget must be a number of bytes, at least 0, got {given}.")


def memory_budget_of(device: torch.device, processes: Processes, given: int | None = None) -> int:
    """Bytes that kept features may take."""
    if given is not None:
        return given
    sharing = processes.num_sharing_memory if device.type == "cpu" else 1
    return available_memory(device) // (4 * sharing)
