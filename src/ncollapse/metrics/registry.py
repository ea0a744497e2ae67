"""The registry of metrics: for each its id, needs, value at exact collapse, bounds, direction and reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ncollapse.metrics import decision, duality, geometry, uniformity
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.layer_statistics import LayerStatistics, Need
from ncollapse.metrics.mean_entries import (
    floor_entries,
    geometry_entries,
    population_entries,
    spectrum_entries,
    uniformity_entries,
    variability_entries,
)
from ncollapse.metrics.noise import spread_share
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices

_PAPYAN = "Papyan, Han & Donoho (2020), PNAS"
_MIXON = "Mixon, Parshall & Pi (2020), unconstrained features"
_ZHU = "Zhu et al. (2021), NeurIPS"
_ZHAO = "Zhao, Cheng, Masarczyk & Lucchi (2026), ICLR, arXiv 2602.16642"
_WU = "Wu & Papyan (2024), NeurIPS"
_PFC = "Progressive feedforward collapse, arXiv 2405.00985"
_JIANG = "Jiang et al. (2024), ICML, arXiv 2310.05351"

_NO_SPREAD = frozenset({"no_between"})
_NO_ROOM = frozenset({"low_dimension"})
_CENTERS: frozenset[Need] = frozenset({"centers"})
_CLASSIFIER: frozenset[Need] = frozenset({"classifier"})
_JOINT: frozenset[Need] = frozenset({"centers", "classifier"})
_CHOSEN: frozenset[Need] = frozenset({"centers", "logits"})
_INF = math.inf


# The casts tell the type checker what an entry's needs guarantee.
def _spread(s: LayerStatistics) -> Tensor:
    return s.spread_share


def _spread_of_deciding(s: LayerStatistics) -> Tensor:
    """Return the share of noise in the means that decide, if they were computed from the same samples."""
    return s.spread_share if s.reference is None else torch.zeros(())


def _decisions_of(s: LayerStatistics) -> ClassDecisions:
    return cast(ClassDecisions, s.decisions)


def _classifier_of(s: LayerStatistics) -> LinearClassifier:
    return cast(LinearClassifier, s.classifier)


def _reference_entries() -> list[Metric]:
    """Return the entries that compare the class means with other frames than the simplex ETF."""
    means: dict[str, Any] = {
        "needs": frozenset(), "nan_flag": "mean_at_center", "noise": _spread, "flagged_when": frozenset({"two_classes"}),
    }  # fmt: skip
    falling: dict[str, Any] = {"at_collapse": 0.0, "direction": "decreases"}
    frame: dict[str, Any] = {"bounds": (0.0, math.sqrt(2.0)), **means}
    return [
        Metric(
            "pfc2_tight_frame", "distance of the class means' Gram matrix from the nearest tight frame's, for any K and d",
            lambda s: geometry.tight_frame_distance(s.frame_means), reference="Dang et al. (2023), ICML, arXiv 2301.00437",
            undefined_when=_NO_SPREAD, **falling, **frame,
        ),
        Metric(
            "pfc2_orthoplex", "distance of the class means' Gram matrix from that of an orthoplex, for even K <= 2d",
            lambda s: geometry.orthoplex_distance(s.frame_means), reference=_JIANG, at_collapse=None, direction="none",
            undefined_when=_NO_SPREAD | {"no_orthoplex", "many_classes"}, **frame | {"nan_flag": "no_orthoplex"},
        ),
        Metric(
            "pfc2_seli", "distance of the class means' Gram matrix from that of unequal counts (SELI), for K <= d+1",
            lambda s: geometry.seli_distance(s.frame_means, s.moments.counts),
            reference="Thrampoulidis et al. (2022), NeurIPS", undefined_when=_NO_SPREAD | _NO_ROOM | {"many_classes"},
            **falling, **frame,
        ),
        Metric(
            "softmax_code", "shortfall of the class means' smallest margin, each against all others, from the largest possible",
            lambda s: uniformity.softmax_code_gap(s.frame_means), reference=_JIANG, bounds=(0.0, 1.0),
            undefined_when=_NO_SPREAD | {"no_softmax_code"}, **falling, **means,
        ),
    ]  # fmt: skip


def _weight_entries() -> list[Metric]:
    """Return the entries of NC2 of the classifier."""
    rows: dict[str, Any] = {
        "needs": _CLASSIFIER, "at_collapse": 0.0, "direction": "decreases", "nan_flag": "zero_classifier",
        "despite_empty": True,
    }  # fmt: skip
    return [
        Metric(
            "nc2_equinorm_weights", "variation of the norms of the classifier rows",
            lambda s: geometry.equinorm(_classifier_of(s).weight, ddof=s.parts.ddof), bounds=(0.0, _INF), reference=_PAPYAN,
            **rows,
        ),
        Metric(
            "nc2_equiangularity_weights", "spread of the cosines between classifier rows",
            lambda s: s.row_cosines.equiangularity, bounds=(0.0, 1.0), reference=_PAPYAN,
            flagged_when=frozenset({"two_classes"}), **rows,
        ),
        Metric(
            "nc2_max_angle_weights", "mean distance of the cosines between classifier rows from -1/(K-1)",
            lambda s: s.row_cosines.max_angle, bounds=(0.0, 2.0), reference=_PAPYAN,
            flagged_when=_NO_ROOM, **rows,
        ),
        Metric(
            "nc2_etf_weights", "distance of the classifier's Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(s.gram_classifier), bounds=(0.0, 2.0), reference=_ZHU,
            flagged_when=_NO_ROOM, **rows,
        ),
        Metric(
            "nc0", "norm of the sum of the classifier rows, relative to that of all",
            lambda s: geometry.row_sum(_classifier_of(s).weight), bounds=(0.0, _INF), reference=_ZHAO, **rows,
        ),
    ]  # fmt: skip


def _duality_entries() -> list[Metric]:
    """Return the entries of NC3 and of strong collapse under the squared loss."""
    both: dict[str, Any] = {"at_collapse": 0.0, "direction": "decreases"}
    strong: dict[str, Any] = {
        "needs": _CLASSIFIER, "bounds": (0.0, _INF), "reference": _MIXON, "nan_flag": "imbalanced", **both,
        "undefined_when": frozenset({"imbalanced"}),
    }  # fmt: skip
    no_scale = frozenset({"translation", "rotation"})
    return [
        Metric(
            "nc3", "squared distance of classifier and centered class means",
            lambda s: duality.self_duality(_classifier_of(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 4.0), reference=_PAPYAN, undefined_when=_NO_SPREAD, nan_flag="zero_classifier", noise=_spread, **both,
        ),
        Metric(
            "nc3_etf", "distance of W M̄ from a simplex ETF",
            lambda s: duality.self_duality_etf(s.gram_classifier, s.gram_means), _CLASSIFIER,
            bounds=(0.0, 2.0), reference=_ZHU, undefined_when=_NO_SPREAD, nan_flag="zero_classifier",
            flagged_when=_NO_ROOM, noise=_spread, **both,
        ),
        Metric(
            "nc3_cosine", "one minus the mean cosine of features with their classifier rows",
            lambda s: duality.self_duality_cosine(_decisions_of(s)), _JOINT, bounds=(0.0, 2.0),
            reference="arXiv 2505.15239", invariant=frozenset({"rotation", "scale"}), nan_flag="zero_vector", **both,
        ),
        Metric(
            "unc3", "spread over classes of the cosine of classifier row and centered class mean",
            lambda s: uniformity.uniform_duality(_classifier_of(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 1.0), reference=_WU, undefined_when=_NO_SPREAD, nan_flag="zero_vector", noise=_spread, **both,
        ),
        Metric(
            "nc3_bias", "norm of the logits of the global mean",
            lambda s: duality.bias_collapse(s.moments, _classifier_of(s), s.parts.center), _CLASSIFIER,
            bounds=(0.0, _INF), reference=_ZHU, invariant=frozenset({"rotation"}), **both,
        ),
        Metric(
            "snc1", "strong collapse of the weights under the squared loss",
            lambda s: duality.strong_collapse_weights(s.moments, _classifier_of(s)), invariant=no_scale | {"scale"},
            flagged_when=_NO_ROOM, **strong,
        ),
        Metric(
            "snc2", "strong collapse of the features under the squared loss",
            lambda s: duality.strong_collapse_features(s.moments, _classifier_of(s)), invariant=frozenset({"rotation"}),
            flagged_when=frozenset({"single_samples"}), **strong,
        ),
        Metric(
            "snc3", "strong collapse of the bias under the squared loss",
            lambda s: duality.strong_collapse_bias(s.moments, _classifier_of(s)), invariant=no_scale | {"scale"}, **strong,
        ),
    ]  # fmt: skip


def _decision_entries() -> list[Metric]:
    """Return the entries of nearest centers, NC4, and collapse of held-out samples."""
    flagged: dict[str, Any] = {
        "bounds": (0.0, 1.0), "flagged_when": frozenset({"own_means", "single_centers", "same_centers"}), "despite_empty": True,
        "noise": _spread_of_deciding,
    }  # fmt: skip
    distance: dict[str, Any] = {
        "needs": _CENTERS, "at_collapse": 0.0, "direction": "decreases", "reference": "Hui, Belkin & Nakkiran (2022)",
        "flagged_when": frozenset({"own_means", "single_centers"}), "bounds": (0.0, _INF),
        "noise": lambda s: s.spread_share if s.reference is None else spread_share(s.reference, s.convention),
    }  # fmt: skip
    joint: dict[str, Any] = {"needs": _CHOSEN, "invariant": frozenset({"rotation"}), **flagged}
    return [
        Metric(
            "pfc3", "nearest-class-center accuracy", lambda s: decision.ncc_accuracy(_decisions_of(s)), _CENTERS,
            at_collapse=1.0, direction="increases", reference=_PFC, **flagged,
        ),
        Metric(
            "pfc3_error", "nearest-class-center error", lambda s: decision.ncc_error(_decisions_of(s)), _CENTERS,
            at_collapse=0.0, direction="decreases", reference=_PFC, **flagged,
        ),
        Metric(
            "strong_collapse", "squared distance from the training mean of the own class, over tr Σ_B of training",
            lambda s: decision.strong_collapse(s.moments, s.reference or s.moments, s.convention), **distance,
        ),
        Metric(
            "weak_collapse", "squared distance from the nearest training mean, over tr Σ_B of training",
            lambda s: decision.weak_collapse(s.moments, _decisions_of(s), s.reference or s.moments, s.convention), **distance,
        ),
        Metric(
            "nc4", "agreement of logits and nearest class center", lambda s: decision.ncc_agreement(_decisions_of(s)),
            at_collapse=1.0, direction="increases", reference=_PAPYAN, **joint,
        ),
        Metric(
            "nc4_mismatch", "disagreement of logits and nearest class center",
            lambda s: decision.ncc_mismatch(_decisions_of(s)),
            at_collapse=0.0, direction="decreases", reference=_PAPYAN, **joint,
        ),
        Metric(
            "accuracy", "accuracy of the network", lambda s: decision.classifier_accuracy(cast(ClassifierChoices, s.choices)),
            frozenset({"logits"}), at_collapse=1.0, bounds=(0.0, 1.0), direction="increases", reference=_PAPYAN,
            invariant=frozenset({"rotation"}), despite_empty=True,
        ),
    ]  # fmt: skip


# All formulas of class means and decisions take several layers at once.
METRICS: dict[str, Metric] = {
    metric.id: replace(metric, stacks=metric.needs <= _CENTERS)
    for metric in (
        *variability_entries(),
        *geometry_entries(),
        *_reference_entries(),
        *_weight_entries(),
        *uniformity_entries(),
        *_duality_entries(),
        *_decision_entries(),
        *spectrum_entries(),
        *floor_entries(),
        *population_entries(),
    )
}
