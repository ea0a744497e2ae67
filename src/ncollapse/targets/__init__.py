"""Networks and data sets by name: a function, a library's network, a run directory."""

from ncollapse.targets.checkpoint_series import measure_target_checkpoints
from ncollapse.targets.diagnosed_target import diagnose_target
from ncollapse.targets.measured_target import write_measurement
from ncollapse.targets.named_data import NamedData, load_data
from ncollapse.targets.networks import load_network
from ncollapse.targets.target import Target, measure_splits, measure_target

__all__ = [
    "NamedData",
    "Target",
    "diagnose_target",
    "load_data",
    "load_network",
    "measure_splits",
    "measure_target",
    "measure_target_checkpoints",
    "write_measurement",
]
