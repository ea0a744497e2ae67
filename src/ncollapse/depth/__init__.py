"""Curves over the layers: progression, separation, neighbors, similarity, the straight line, its theorems, transport, drift.

Features are flat, shape (N, d), one row per sample, and those of several layers are of the same samples in the same order.
Costs, energies and squared distances are in units of squared features. A function with a ``seed`` has a generator of its own:
PyTorch's global one is neither read nor advanced. Derivations are in docs/theory.md, chapter 3.
"""

from ncollapse.depth.chain import TransportChain, excess_energy, transport_chain
from ncollapse.depth.class_arcs import ClassArcs, collapsed_optimality
from ncollapse.depth.drift import frame_drift, mean_drift, shape_drift
from ncollapse.depth.flattening import flattening
from ncollapse.depth.geodesic import GRID, GeodesicCurve, LineDecisions, log_linear, prediction_error
from ncollapse.depth.mean_flow import MeanFlow, mean_path_cost
from ncollapse.depth.neighbors import NeighborScore, neighbor_predictions, neighbor_scores
from ncollapse.depth.path import PathStatistics, Position
from ncollapse.depth.progression import EPSILONS, effective_depth, progression
from ncollapse.depth.separation import SeparationLaw, separation_law
from ncollapse.depth.similarity import cka_matrix, linear_cka
from ncollapse.depth.theorems import polar_alignment, theorem1, theorem2, theorem3
from ncollapse.depth.transport import gelbrich_squared, wasserstein2_squared
from ncollapse.depth.transport_bounds import (
    PairViolations,
    SlicedBound,
    SwapBound,
    pair_violations,
    sliced_wasserstein2,
    swap_bound,
)
from ncollapse.depth.transport_score import (
    Estimate,
    TransportScore,
    label_wasserstein2_squared,
    stratified_sample,
    transport_score,
)
from ncollapse.depth.weight_decay import BlockMoments, normalized_bound, single_layer_bound, two_layer_bound
from ncollapse.records.depth import EffectiveDepth, ExcessEnergy, Progression
from ncollapse.records.theorems import (
    BlockBound,
    CollapsedOptimality,
    Flattening,
    PolarAlignment,
    Theorem1,
    Theorem2,
    Theorem3,
    WeightDecayBound,
)

__all__ = [
    "EPSILONS",
    "GRID",
    "BlockBound",
    "BlockMoments",
    "ClassArcs",
    "CollapsedOptimality",
    "EffectiveDepth",
    "Estimate",
    "ExcessEnergy",
    "Flattening",
    "GeodesicCurve",
    "LineDecisions",
    "MeanFlow",
    "NeighborScore",
    "PairViolations",
    "PathStatistics",
    "PolarAlignment",
    "Position",
    "Progression",
    "SeparationLaw",
    "SlicedBound",
    "SwapBound",
    "Theorem1",
    "Theorem2",
    "Theorem3",
    "TransportChain",
    "TransportScore",
    "WeightDecayBound",
    "cka_matrix",
    "collapsed_optimality",
    "effective_depth",
    "excess_energy",
    "flattening",
    "frame_drift",
    "gelbrich_squared",
    "label_wasserstein2_squared",
    "linear_cka",
    "log_linear",
    "mean_drift",
    "mean_path_cost",
    "neighbor_predictions",
    "neighbor_scores",
    "normalized_bound",
    "pair_violations",
    "polar_alignment",
    "prediction_error",
    "progression",
    "separation_law",
    "shape_drift",
    "single_layer_bound",
    "sliced_wasserstein2",
    "stratified_sample",
    "swap_bound",
    "theorem1",
    "theorem2",
    "theorem3",
    "transport_chain",
    "transport_score",
    "two_layer_bound",
    "wasserstein2_squared",
]
