"""Networks and data sets by name: a function, a library's network, a run directory."""

from ncollapse.targets.by_name import MeasureRequest, measure_by_name
from ncollapse.targets.measure_network import OwnData, measure_own
from ncollapse.targets.measure_run import measure_run

__all__ = ["MeasureRequest", "OwnData", "measure_by_name", "measure_own", "measure_run"]
