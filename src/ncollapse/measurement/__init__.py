"""The result of a measurement: tidy rows and the statistics behind them."""

from ncollapse.measurement.comparison import Comparison, Drift, compare
from ncollapse.measurement.measurement import Measurement
from ncollapse.records.rows import Row

__all__ = ["Comparison", "Drift", "Measurement", "Row", "compare"]
