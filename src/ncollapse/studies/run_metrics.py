"""The metrics of a run: the default ones, those of the squared loss, and those of classes with many and with few samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ncollapse.metrics import Metric, select_metrics
from ncollapse.metrics.layer_statistics import LayerStatistics, Need
from ncollapse.recipes.recipe import Recipe
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices

_FANG = "Fang et al. (2021), PNAS"


def metrics_of(recipe: Recipe, counts: Tensor, *, by_reference: bool) -> list[str | Metric]:
    """Choose the metrics of a run whose training classes have so many samples."""
    squared = ("snc1", "snc2", "snc3") if recipe.train.loss == "mse" else ()
    groups = group_metrics(counts) if recipe.data.imbalance > 1 else []
    return [*select_metrics(None, by_reference=by_reference), *squared, *groups]


def group_metrics(counts: Tensor) -> list[Metric]:
    """Return the metrics of the classes with many and with few training samples; of equal classes none."""
    # A class has few if its size is below the geometric mean of the largest and the smallest one, and many if not.
    few = counts.double() < math.sqrt(float(counts.max()) * float(counts.min()))
    groups = (("many", ~few), ("few", few)) if bool(few.any()) else ()
    return [metric for name, chosen in groups for metric in _metrics_of_group(name, chosen.cpu().nonzero().flatten())]


def _metrics_of_group(name: str, classes: Tensor) -> list[Metric]:
    def entry(id: str, title: str, compute: Callable[[LayerStatistics], Tensor], *needs: Need) -> Metric:
        return replace(_SHARE, id=f"{id}.{name}", title=f"{title}, classes with {name} samples", compute=compute,
                       needs=frozenset(needs))  # fmt: skip

    def decided(s: LayerStatistics) -> Tensor:
        decisions = cast(ClassDecisions, s.decisions)
        return decisions.ncc_correct[classes].sum() / decisions.counts[classes].sum()

    def right(s: LayerStatistics) -> Tensor:
        choices = cast(ClassifierChoices, s.choices)
        return choices.correct[classes].double().sum() / choices.counts[classes].sum()

    def variability(s: LayerStatistics) -> Tensor:
        return s.moments.class_variances[classes].mean() / s.moments.between_trace(s.convention)

    def angle(s: LayerStatistics) -> Tensor:
        return mean_cosine(s.moments.centered_means("class")[classes])

    def row_angle(s: LayerStatistics) -> Tensor:
        return mean_cosine(cast(LinearClassifier, s.classifier).weight[classes])

    decreasing: dict[str, Any] = {"at_collapse": 0.0, "bounds": (0.0, math.inf), "direction": "decreases"}
    angles: dict[str, Any] = {"at_collapse": None, "bounds": (-1.0, 1.0), "direction": "none"}
    return [
        entry("accuracy", "accuracy of the network", right, "logits"),
        entry("pfc3", "nearest-class-center accuracy", decided, "centers"),
        replace(entry("pfc1", "mean within-class variance over tr Σ_B of all classes", variability), **decreasing),
        replace(entry("cosine", "mean cosine between centered class means", angle), **angles),
        replace(entry("cosine_weights", "mean cosine between classifier rows", row_angle, "classifier"), **angles),
    ]


_SHARE = Metric("", "", lambda s: s.moments.scatter_traces, frozenset(), 1.0, (0.0, 1.0), "increases", _FANG)


def mean_cosine(rows: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of n rows: -1/(n-1) for a simplex ETF, 1 for merged rows; nan for one row."""
    units = torch.nn.functional.normalize(rows, dim=1, eps=0.0)
    num_rows = len(rows)
    return (units.sum(dim=0).square().sum() - num_rows) / (num_rows * (num_rows - 1)) if num_rows > 1 else rows.sum() * math.nan
