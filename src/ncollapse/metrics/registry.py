"""The registry: every metric's id, what it needs, its value at exact collapse, bounds, direction and reference."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ncollapse.metrics.entries_decisions import decision_entries, duality_entries
from ncollapse.metrics.entries_features import (
    geometry_entries,
    spectrum_entries,
    uniformity_entries,
    variability_entries,
)
from ncollapse.metrics.entry import LayerStatistics, Metric, MetricValue

METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        *variability_entries(),
        *geometry_entries(),
        *uniformity_entries(),
        *duality_entries(),
        *decision_entries(),
        *spectrum_entries(),
    )
}


def select_metrics(ids: Sequence[str] | None) -> list[Metric]:
    """Entries by id, in the order of the registry.

    Args:
        ids: Metric ids; None takes all that need no d×d matrix.

    Returns:
        The entries.

    Raises:
        ValueError: If an id is unknown; the message names near ones.
    """
    if ids is None:
        return [metric for metric in METRICS.values() if "scatter" not in metric.needs]
    for name in ids:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=3) or list(METRICS)
            raise ValueError(f"No metric {name!r}. Near ones: {', '.join(near)}. All ids: ncollapse.METRICS.")
    return [metric for metric in METRICS.values() if metric.id in set(ids)]


def evaluate_metrics(statistics: LayerStatistics, metrics: Sequence[Metric]) -> list[MetricValue]:
    """Evaluate metrics on one layer; those whose classifier or scatter was not collected give no value.

    Args:
        statistics: Of the layer.
        metrics: Registry entries.

    Returns:
        One value per metric that applies, in order.
    """
    conditions = statistics.conditions()
    missing = {name for name in ("classifier", "scatter") if getattr(statistics, name) is None}
    return [metric.evaluate(statistics, conditions) for metric in metrics if not metric.needs & missing]
