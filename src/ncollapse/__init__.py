"""Measure neural collapse and progressive feedforward collapse at every layer of a PyTorch network.

>>> import ncollapse as nc
>>> sorted(nc.METRICS)[:3]
['accuracy', 'cdnv', 'entropy_rank_between']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ncollapse.version import __version__

if TYPE_CHECKING:
    from ncollapse.analysis import local_elasticity as local_elasticity
    from ncollapse.analysis import weight_decay_bounds as weight_decay_bounds
    from ncollapse.depth import GeodesicCurve as GeodesicCurve
    from ncollapse.depth import LineDecisions as LineDecisions
    from ncollapse.depth import PathStatistics as PathStatistics
    from ncollapse.depth import cka_matrix as cka_matrix
    from ncollapse.depth import collapsed_optimality as collapsed_optimality
    from ncollapse.depth import effective_depth as effective_depth
    from ncollapse.depth import neighbor_scores as neighbor_scores
    from ncollapse.depth import progression as progression
    from ncollapse.depth import separation_law as separation_law
    from ncollapse.depth import theorem1 as theorem1
    from ncollapse.depth import theorem2 as theorem2
    from ncollapse.depth import theorem3 as theorem3
    from ncollapse.depth import transport_chain as transport_chain
    from ncollapse.depth import transport_score as transport_score
    from ncollapse.etf import helmert_basis as helmert_basis
    from ncollapse.etf import nearest_etf as nearest_etf
    from ncollapse.etf import simplex_etf as simplex_etf
    from ncollapse.hooks import Layers as Layers
    from ncollapse.hooks import Tap as Tap
    from ncollapse.hooks import find_layers as find_layers
    from ncollapse.hooks import next_tokens as next_tokens
    from ncollapse.measurement import Measurement as Measurement
    from ncollapse.metrics import FLAGS as FLAGS
    from ncollapse.metrics import METRICS as METRICS
    from ncollapse.metrics import cdnv_matrix as cdnv_matrix
    from ncollapse.metrics import coding_rate as coding_rate
    from ncollapse.metrics import weight_alignment as weight_alignment
    from ncollapse.probe import CollapseMetrics as CollapseMetrics
    from ncollapse.probe import collect_features as collect_features
    from ncollapse.probe import measure as measure
    from ncollapse.probe import measure_features as measure_features
    from ncollapse.probe import watch as watch
    from ncollapse.statistics import ClassMoments as ClassMoments
    from ncollapse.statistics import ClassScatter as ClassScatter
    from ncollapse.statistics import PairedMoments as PairedMoments

# Each name is imported when it is first used: torch takes seconds, and `ncollapse --help` needs none of it.
_HOMES = {
    "depth": (
        *("GeodesicCurve", "LineDecisions", "PathStatistics", "cka_matrix", "effective_depth", "neighbor_scores"),
        *("progression", "separation_law", "theorem1", "theorem2", "theorem3"),
        *("collapsed_optimality", "transport_chain", "transport_score"),
    ),
    "etf": ("helmert_basis", "nearest_etf", "simplex_etf"),
    "metrics": ("FLAGS", "METRICS", "cdnv_matrix", "coding_rate", "weight_alignment"),
    "hooks": ("Layers", "Tap", "find_layers", "next_tokens"),
    "measurement": ("Measurement",),
    "analysis": ("local_elasticity", "weight_decay_bounds"),
    "probe": ("CollapseMetrics", "collect_features", "measure", "measure_features", "watch"),
    "statistics": ("ClassMoments", "ClassScatter", "PairedMoments"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = {
    *("analysis", "claims", "data", "depth", "drawing", "etf", "hooks", "integrations", "margins", "measurement", "metrics"),
    *("models", "probe", "records", "report", "statistics", "studies", "surrogates", "targets", "train"),
}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF, *_ROOMS})
