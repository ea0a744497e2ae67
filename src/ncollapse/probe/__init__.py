"""The measuring functions: measure a network, features, or a training loop, and return a table."""

from ncollapse.probe.collapse_metrics import CollapseMetrics
from ncollapse.probe.collect_features import collect_features
from ncollapse.probe.find_layers import Layers, find_layers
from ncollapse.probe.measure import measure, measure_features
from ncollapse.probe.measure_store import measure_store
from ncollapse.probe.watch import watch

__all__ = [
    "CollapseMetrics",
    "Layers",
    "collect_features",
    "find_layers",
    "measure",
    "measure_features",
    "measure_store",
    "watch",
]
