"""The result of a measurement: tidy rows and the statistics behind them."""

from ncollapse.measurement.measurement import Measurement, Row

__all__ = ["Measurement", "Row"]
