"""Measure neural collapse and progressive feedforward collapse at every layer of a PyTorch network.

The names most used are here; everything else is in the sub-packages, which are attributes too.

>>> import ncollapse as nc
>>> sorted(nc.METRICS)[:2]
['accuracy', 'cdnv']
>>> nc.surrogates.UFM.__name__
'UFM'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ncollapse.version import __version__

if TYPE_CHECKING:
    from ncollapse import analysis as analysis
    from ncollapse import claims as claims
    from ncollapse import data as data
    from ncollapse import depth as depth
    from ncollapse import drawing as drawing
    from ncollapse import etf as etf
    from ncollapse import experiments as experiments
    from ncollapse import hooks as hooks
    from ncollapse import integrations as integrations
    from ncollapse import margins as margins
    from ncollapse import measurement as measurement
    from ncollapse import metrics as metrics
    from ncollapse import models as models
    from ncollapse import probe as probe
    from ncollapse import recipes as recipes
    from ncollapse import records as records
    from ncollapse import report as report
    from ncollapse import statistics as statistics
    from ncollapse import studies as studies
    from ncollapse import surrogates as surrogates
    from ncollapse import targets as targets
    from ncollapse import testing as testing
    from ncollapse import train as train
    from ncollapse.analysis import Diagnosis as Diagnosis
    from ncollapse.analysis import diagnose as diagnose
    from ncollapse.analysis import truncate as truncate
    from ncollapse.depth import effective_depth as effective_depth
    from ncollapse.depth import progression as progression
    from ncollapse.etf import simplex_etf as simplex_etf
    from ncollapse.hooks import Tap as Tap
    from ncollapse.hooks import next_tokens as next_tokens
    from ncollapse.integrations import Recorder as Recorder
    from ncollapse.integrations import measure_checkpoints as measure_checkpoints
    from ncollapse.measurement import Measurement as Measurement
    from ncollapse.measurement import compare as compare
    from ncollapse.metrics import FLAGS as FLAGS
    from ncollapse.metrics import METRICS as METRICS
    from ncollapse.probe import CollapseMetrics as CollapseMetrics
    from ncollapse.probe import collect_features as collect_features
    from ncollapse.probe import find_layers as find_layers
    from ncollapse.probe import measure as measure
    from ncollapse.probe import measure_features as measure_features
    from ncollapse.probe import measure_store as measure_store
    from ncollapse.probe import watch as watch
    from ncollapse.statistics import ClassMoments as ClassMoments
    from ncollapse.statistics import ClassScatter as ClassScatter
    from ncollapse.statistics import PairedMoments as PairedMoments
    from ncollapse.targets import load_data as load_data
    from ncollapse.targets import load_network as load_network

# Each name is imported when it is first used: torch takes seconds, and `ncollapse --help` needs none of it.
_HOMES = {
    "analysis": ("Diagnosis", "diagnose", "truncate"),
    "depth": ("effective_depth", "progression"),
    "etf": ("simplex_etf",),
    "hooks": ("Tap", "next_tokens"),
    "integrations": ("Recorder", "measure_checkpoints"),
    "measurement": ("Measurement", "compare"),
    "metrics": ("FLAGS", "METRICS"),
    "probe": ("CollapseMetrics", "collect_features", "find_layers", "measure", "measure_features", "measure_store", "watch"),
    "statistics": ("ClassMoments", "ClassScatter", "PairedMoments"),
    "targets": ("load_data", "load_network"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    *("analysis", "claims", "data", "depth", "drawing", "etf", "experiments", "hooks", "integrations", "margins"),
    *("measurement", "metrics", "models", "probe", "recipes", "records", "report", "statistics", "studies", "surrogates"),
    *("targets", "testing", "train"),
)

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_ROOMS})
