"""Curves over the layers: progression, separation, neighbours, similarity, the straight line, its theorems, transport."""

from ncollapse.depth.geodesic import GRID, GeodesicCurve, LineDecisions, log_linear, prediction_error
from ncollapse.depth.neighbors import NeighborScore, neighbor_predictions, neighbor_scores
from ncollapse.depth.path import PathStatistics, Position
from ncollapse.depth.progression import EPSILONS, EffectiveDepth, Progression, effective_depth, progression
from ncollapse.depth.separation import SeparationLaw, separation_law
from ncollapse.depth.similarity import cka_matrix, linear_cka
from ncollapse.depth.theorems import Theorem1, Theorem2, Theorem3, theorem1, theorem2, theorem3
from ncollapse.depth.transport import gelbrich_squared, wasserstein2_squared

__all__ = [
    "EPSILONS",
    "GRID",
    "EffectiveDepth",
    "GeodesicCurve",
    "LineDecisions",
    "NeighborScore",
    "PathStatistics",
    "Position",
    "Progression",
    "SeparationLaw",
    "Theorem1",
    "Theorem2",
    "Theorem3",
    "cka_matrix",
    "effective_depth",
    "gelbrich_squared",
    "linear_cka",
    "log_linear",
    "neighbor_predictions",
    "neighbor_scores",
    "prediction_error",
    "progression",
    "separation_law",
    "theorem1",
    "theorem2",
    "theorem3",
    "wasserstein2_squared",
]
