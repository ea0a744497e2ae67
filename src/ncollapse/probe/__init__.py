"""Attach to a network, stream the data once, give a table."""

from ncollapse.probe.elasticity import Elasticity, local_elasticity
from ncollapse.probe.measure import collect_features, measure, measure_features
from ncollapse.probe.measurement import Measurement, Row

__all__ = ["Elasticity", "Measurement", "Row", "collect_features", "local_elasticity", "measure", "measure_features"]
