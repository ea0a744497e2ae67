"""Collapse metrics: pure functions of statistics, and their registry.

Unless a docstring says otherwise, a metric is a 0-d float64 tensor without unit. It is 0 at exact collapse, stays the same if
all features are moved, rotated or scaled together, and is nan if a class has no samples. "Rows" are centered class means (class
means minus a global mean) or classifier rows, which are not centered, shape (K, d), float64. ``convention`` names the class
weights of the covariances and of the global mean (docs/theory.md, 1.2). The formulas are in docs/theory.md, chapter 2.
"""

from ncollapse.metrics.alignment import class_stable_ranks, subspace_alignment, weight_alignment
from ncollapse.metrics.coding_rate import CodingRate, coding_rate, coding_rate_of_scatter
from ncollapse.metrics.decision import (
    classifier_accuracy,
    held_out_cdnv,
    held_out_variability,
    ncc_accuracy,
    ncc_agreement,
    ncc_error,
    ncc_mismatch,
    strong_collapse,
    weak_collapse,
)
from ncollapse.metrics.duality import (
    bias_collapse,
    self_duality,
    self_duality_cosine,
    self_duality_etf,
    strong_collapse_bias,
    strong_collapse_features,
    strong_collapse_weights,
)
from ncollapse.metrics.entry import FLAGS, Metric, MetricValue, evaluate_metrics
from ncollapse.metrics.geometry import (
    equiangularity,
    equinorm,
    etf_distance,
    gram_distance,
    max_angle,
    orthoplex_distance,
    row_sum,
    seli_distance,
    tight_frame_distance,
)
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.metrics.ood import (
    PrincipalSubspace,
    auroc,
    center_distance_score,
    mahalanobis_score,
    nci_score,
    neco_score,
    ood_orthogonality,
)
from ncollapse.metrics.registry import METRICS
from ncollapse.metrics.selection import CORE, MetricChoice, select_metrics
from ncollapse.metrics.spectrum import entropy_rank, numerical_rank, participation_ratio, stable_rank
from ncollapse.metrics.uniformity import (
    PairEnergy,
    hyperspherical_energy,
    hyperspherical_variation,
    log_equinorm,
    one_vs_rest_distance,
    pair_energy,
    softmax_code_gap,
    uniform_duality,
)
from ncollapse.metrics.variability import (
    FisherRatios,
    between_inverse_trace,
    cdnv,
    cdnv_matrix,
    fisher_ratios,
    separation,
    within_between_ratio,
    within_total_ratio,
)

__all__ = [
    "CORE",
    "FLAGS",
    "METRICS",
    "CodingRate",
    "FisherRatios",
    "LayerStatistics",
    "Metric",
    "MetricChoice",
    "MetricValue",
    "PairEnergy",
    "PrincipalSubspace",
    "auroc",
    "between_inverse_trace",
    "bias_collapse",
    "cdnv",
    "cdnv_matrix",
    "center_distance_score",
    "class_stable_ranks",
    "classifier_accuracy",
    "coding_rate",
    "coding_rate_of_scatter",
    "entropy_rank",
    "equiangularity",
    "equinorm",
    "etf_distance",
    "evaluate_metrics",
    "fisher_ratios",
    "gram_distance",
    "held_out_cdnv",
    "held_out_variability",
    "hyperspherical_energy",
    "hyperspherical_variation",
    "log_equinorm",
    "mahalanobis_score",
    "max_angle",
    "ncc_accuracy",
    "ncc_agreement",
    "ncc_error",
    "ncc_mismatch",
    "nci_score",
    "neco_score",
    "numerical_rank",
    "one_vs_rest_distance",
    "ood_orthogonality",
    "orthoplex_distance",
    "pair_energy",
    "participation_ratio",
    "row_sum",
    "select_metrics",
    "self_duality",
    "self_duality_cosine",
    "self_duality_etf",
    "seli_distance",
    "separation",
    "softmax_code_gap",
    "stable_rank",
    "strong_collapse",
    "strong_collapse_bias",
    "strong_collapse_features",
    "strong_collapse_weights",
    "subspace_alignment",
    "tight_frame_distance",
    "uniform_duality",
    "weak_collapse",
    "weight_alignment",
    "within_between_ratio",
    "within_total_ratio",
]
