"""Attach to a network, stream the data once, give a table."""

from ncollapse.probe.blocks import weight_decay_bounds
from ncollapse.probe.measure import collect_features, measure, measure_features
from ncollapse.probe.measurement import Measurement, Row
from ncollapse.probe.reading import next_tokens, unpack_batch
from ncollapse.probe.tap import Tap

__all__ = [
    "Measurement",
    "Row",
    "Tap",
    "collect_features",
    "measure",
    "measure_features",
    "next_tokens",
    "unpack_batch",
    "weight_decay_bounds",
]
