"""Surrogate models of neural collapse: solved, with a proof of how close each solution is to the global minimum."""

from ncollapse.surrogates.batch_norm_net import BatchNormNet
from ncollapse.surrogates.bounded_outputs import BoundedOutputs, average_by_class
from ncollapse.surrogates.central_path import CentralPath, signal_after
from ncollapse.surrogates.deep_ufm import DeepUFM, collapse_threshold, layer_ranks, low_rank_start
from ncollapse.surrogates.depth_floor import block_cost, depth_floor
from ncollapse.surrogates.fixed_etf import FixedETF, Forces, feature_forces, weight_forces
from ncollapse.surrogates.gufm import GUFM, great_circle_blocks, layer_norm
from ncollapse.surrogates.imbalance import (
    minority_collapse_ratio,
    minority_cosine,
    minority_threshold,
    seli_geometry,
    solve_sdp,
)
from ncollapse.surrogates.layer_peeled import GroupedNewton, LayerPeeled
from ncollapse.surrogates.locally_elastic_estimates import RateIntegrals, estimate_integrals, smooth_rate, tail_index
from ncollapse.surrogates.locally_elastic_sde import Growth, LocallyElasticSDE, SDEPath, pairwise_separability
from ncollapse.surrogates.max_margin import KKT, MarginFlow, MaxMargin
from ncollapse.surrogates.mse_decomposition import MSEDecomposition, decompose_mse, least_squares_classifier
from ncollapse.surrogates.mufm import MUFM, EliminatedFeatures
from ncollapse.surrogates.mufm_flow import FlowPath, gradient_flow
from ncollapse.surrogates.mufm_laws import CriticalPoint, alignment, critical_point, merged_decay, shrinkage, straight_layers
from ncollapse.surrogates.mufm_progress import CollapseProgress, GrowthThreshold, collapse_progress, growth_threshold
from ncollapse.surrogates.near_collapse import NearCollapse
from ncollapse.surrogates.normalized_features import NormalizedFeatures
from ncollapse.surrogates.reduced_mufm import ReducedMUFM
from ncollapse.surrogates.solving.arguments import balanced
from ncollapse.surrogates.solving.flows import FlowEnd
from ncollapse.surrogates.solving.nuclear import Proximal
from ncollapse.surrogates.solving.problem import Problem, Solver
from ncollapse.surrogates.solving.solution import Certificate, Inequality, NotConverged, Solution
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent, ProjectedGradient, SmoothedReLU
from ncollapse.surrogates.ufm import UFM
from ncollapse.surrogates.unregularized_ufm import UnregularizedUFM, collapsed_bias, collapsed_eigenvalue
from ncollapse.surrogates.weight_normalized_net import WeightNormalizedNet, best_norm, margin_variation

__all__ = [
    "GUFM",
    "KKT",
    "LBFGS",
    "MUFM",
    "UFM",
    "BatchNormNet",
    "BoundedOutputs",
    "CentralPath",
    "Certificate",
    "CollapseProgress",
    "CriticalPoint",
    "DeepUFM",
    "EliminatedFeatures",
    "FixedETF",
    "FlowEnd",
    "FlowPath",
    "Forces",
    "GradientDescent",
    "GroupedNewton",
    "Growth",
    "GrowthThreshold",
    "Inequality",
    "LayerPeeled",
    "LocallyElasticSDE",
    "MSEDecomposition",
    "MarginFlow",
    "MaxMargin",
    "NearCollapse",
    "NormalizedFeatures",
    "NotConverged",
    "Problem",
    "ProjectedGradient",
    "Proximal",
    "RateIntegrals",
    "ReducedMUFM",
    "SDEPath",
    "SmoothedReLU",
    "Solution",
    "Solver",
    "UnregularizedUFM",
    "WeightNormalizedNet",
    "alignment",
    "average_by_class",
    "balanced",
    "best_norm",
    "block_cost",
    "collapse_progress",
    "collapse_threshold",
    "collapsed_bias",
    "collapsed_eigenvalue",
    "critical_point",
    "decompose_mse",
    "depth_floor",
    "estimate_integrals",
    "feature_forces",
    "gradient_flow",
    "great_circle_blocks",
    "growth_threshold",
    "layer_norm",
    "layer_ranks",
    "least_squares_classifier",
    "low_rank_start",
    "margin_variation",
    "merged_decay",
    "minority_collapse_ratio",
    "minority_cosine",
    "minority_threshold",
    "pairwise_separability",
    "seli_geometry",
    "shrinkage",
    "signal_after",
    "smooth_rate",
    "solve_sdp",
    "straight_layers",
    "tail_index",
    "weight_forces",
]
