"""Surrogate models of neural collapse: solved, with a proof of how close each solution is to the global minimum."""

from ncollapse.surrogates.critical_point import CriticalPoint, critical_point
from ncollapse.surrogates.fixed_etf import FixedETF, Forces, feature_forces, weight_forces
from ncollapse.surrogates.great_circle import great_circle_blocks
from ncollapse.surrogates.gufm import GUFM, layer_norm
from ncollapse.surrogates.imbalance import minority_collapse_ratio, seli_geometry
from ncollapse.surrogates.layer_peeled import LayerPeeled, minority_cosine, minority_threshold
from ncollapse.surrogates.layer_peeled_sdp import solve_sdp
from ncollapse.surrogates.le_sde import LESDE, Growth, SDEPath, pairwise_separability
from ncollapse.surrogates.le_sde_estimates import RateIntegrals, estimate_integrals, smooth_rate, tail_index
from ncollapse.surrogates.max_margin import KKT, MarginFlow, MaxMargin
from ncollapse.surrogates.mufm import MUFM, EliminatedFeatures
from ncollapse.surrogates.mufm_flow import FlowPath, gradient_flow
from ncollapse.surrogates.mufm_laws import (
    CollapseProgress,
    alignment,
    collapse_progress,
    merged_decay,
    shrinkage,
    straight_layers,
)
from ncollapse.surrogates.mufm_reduced import ReducedMUFM
from ncollapse.surrogates.problem import Certificate, Inequality, NotConverged, Problem, Solution, Solver
from ncollapse.surrogates.proximal import Proximal
from ncollapse.surrogates.solvers import LBFGS, GradientDescent
from ncollapse.surrogates.ufm import UFM

__all__ = [
    "GUFM",
    "KKT",
    "LBFGS",
    "LESDE",
    "MUFM",
    "UFM",
    "Certificate",
    "CollapseProgress",
    "CriticalPoint",
    "EliminatedFeatures",
    "FixedETF",
    "FlowPath",
    "Forces",
    "GradientDescent",
    "Growth",
    "Inequality",
    "LayerPeeled",
    "MarginFlow",
    "MaxMargin",
    "NotConverged",
    "Problem",
    "Proximal",
    "RateIntegrals",
    "ReducedMUFM",
    "SDEPath",
    "Solution",
    "Solver",
    "alignment",
    "collapse_progress",
    "critical_point",
    "estimate_integrals",
    "feature_forces",
    "gradient_flow",
    "great_circle_blocks",
    "layer_norm",
    "merged_decay",
    "minority_collapse_ratio",
    "minority_cosine",
    "minority_threshold",
    "pairwise_separability",
    "seli_geometry",
    "shrinkage",
    "smooth_rate",
    "solve_sdp",
    "straight_layers",
    "tail_index",
    "weight_forces",
]
