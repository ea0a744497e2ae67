"""Curves over the layers: progression, the straight-line prediction, theorem predicates, paths and transport."""

from ncollapse.depth.chain import TransportChain, transport_chain
from ncollapse.depth.class_arcs import ClassArcs, CollapsedOptimality, collapsed_optimality
from ncollapse.depth.geodesic import GRID, GeodesicCurve, LineDecisions, log_linear, prediction_error
from ncollapse.depth.path import PathStatistics, Position
from ncollapse.depth.progression import EPSILONS, EffectiveDepth, Progression, effective_depth, progression
from ncollapse.depth.theorems import Theorem1, Theorem2, Theorem3, theorem1, theorem2, theorem3
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
from ncollapse.depth.weight_decay import (
    BlockBound,
    BlockMoments,
    WeightDecayBound,
    single_layer_bound,
    two_layer_bound,
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
    "GeodesicCurve",
    "LineDecisions",
    "PairViolations",
    "PathStatistics",
    "Position",
    "Progression",
    "SlicedBound",
    "SwapBound",
    "Theorem1",
    "Theorem2",
    "Theorem3",
    "TransportChain",
    "TransportScore",
    "WeightDecayBound",
    "collapsed_optimality",
    "effective_depth",
    "gelbrich_squared",
    "label_wasserstein2_squared",
    "log_linear",
    "pair_violations",
    "prediction_error",
    "progression",
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
