"""Attach to a network, stream the data once, give a table."""

from ncollapse.probe.blocks import weight_decay_bounds
from ncollapse.probe.measure import collect_features, measure, measure_features
from ncollapse.probe.measurement import Measurement, Row

__all__ = ["Measurement", "Row", "collect_features", "measure", "measure_features", "weight_decay_bounds"]
