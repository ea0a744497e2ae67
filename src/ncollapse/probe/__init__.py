"""Attach to a network, stream the data once, give a table."""

from ncollapse.probe.collapse_metrics import CollapseMetrics
from ncollapse.probe.measure import collect_features, measure, measure_features
from ncollapse.probe.watch import watch

__all__ = ["CollapseMetrics", "collect_features", "measure", "measure_features", "watch"]
