"""Curves over the layers: progression, the straight-line prediction, theorem predicates, paths and transport."""

from ncollapse.depth.geodesic import GRID, GeodesicCurve, LineDecisions, log_linear, prediction_error
from ncollapse.depth.path import PathStatistics, Position
from ncollapse.depth.progression import EPSILONS, EffectiveDepth, Progression, effective_depth, progression
from ncollapse.depth.theorems import Theorem1, Theorem2, Theorem3, theorem1, theorem2, theorem3
from ncollapse.depth.transport import gelbrich_squared, wasserstein2_squared
from ncollapse.depth.transport_score import (
    Estimate,
    TransportScore,
    label_wasserstein2_squared,
    stratified_sample,
    transport_score,
)

__all__ = [
    "EPSILONS",
    "GRID",
    "EffectiveDepth",
    "Estimate",
    "GeodesicCurve",
    "LineDecisions",
    "PathStatistics",
    "Position",
    "Progression",
    "Theorem1",
    "Theorem2",
    "Theorem3",
    "TransportScore",
    "effective_depth",
    "gelbrich_squared",
    "label_wasserstein2_squared",
    "log_linear",
    "prediction_error",
    "progression",
    "stratified_sample",
    "theorem1",
    "theorem2",
    "theorem3",
    "transport_score",
    "wasserstein2_squared",
]
