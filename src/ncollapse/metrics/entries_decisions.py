"""Entries of the registry about the classifier and about decisions: duality, nearest centers, held-out samples."""

from __future__ import annotations

from typing import Any

from ncollapse.metrics import decision, duality, held_out, uniformity
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.entry_parts import (
    CENTERS,
    CLASSIFIER,
    INF,
    JOINT,
    NO_SPREAD,
    PAPYAN,
    PFC,
    WU,
    ZHU,
    classifier_of,
    decisions_of,
)
from ncollapse.statistics.conventions import convention_parts

_MIXON = "Mixon, Parshall & Pi (2020), unconstrained features"


def duality_entries() -> list[Metric]:
    """NC3 and strong collapse under the squared loss."""
    both: dict[str, Any] = {"at_collapse": 0.0, "direction": "decreases"}
    strong: dict[str, Any] = {
        "needs": CLASSIFIER, "bounds": (0.0, INF), "reference": _MIXON, "nan_flag": "imbalanced", **both,
        "undefined_when": frozenset({"imbalanced"}),
    }  # fmt: skip
    no_scale = frozenset({"translation", "rotation"})
    return [
        Metric(
            "nc3", "squared distance of classifier and centered class means",
            lambda s: duality.self_duality(classifier_of(s).weight, s.centered_means), CLASSIFIER,
            bounds=(0.0, 4.0), reference=PAPYAN, undefined_when=NO_SPREAD, nan_flag="zero_classifier", **both,
        ),
        Metric(
            "nc3_etf", "distance of W M̄ from a simplex ETF",
            lambda s: duality.self_duality_etf(classifier_of(s).weight, s.centered_means), CLASSIFIER,
            bounds=(0.0, 2.0), reference=ZHU, undefined_when=NO_SPREAD, nan_flag="zero_classifier",
            flagged_when=frozenset({"low_dimension"}), **both,
        ),
        Metric(
            "nc3_cosine", "one minus the mean cosine of features with their classifier rows",
            lambda s: duality.self_duality_cosine(decisions_of(s)), JOINT, bounds=(0.0, 2.0),
            reference="arXiv 2505.15239", invariant=frozenset({"rotation", "scale"}), nan_flag="zero_vector", **both,
        ),
        Metric(
            "unc3", "spread over classes of the cosine of classifier row and centered class mean",
            lambda s: uniformity.uniform_duality(classifier_of(s).weight, s.centered_means), CLASSIFIER,
            bounds=(0.0, 1.0), reference=WU, undefined_when=NO_SPREAD, nan_flag="zero_vector", **both,
        ),
        Metric(
            "nc3_bias", "norm of the logits of the global mean",
            lambda s: duality.bias_collapse(s.moments, classifier_of(s), convention_parts(s.convention).center),
            CLASSIFIER, bounds=(0.0, INF), reference=ZHU, invariant=frozenset({"rotation"}), **both,
        ),
        Metric(
            "snc1", "strong collapse of the weights under the squared loss",
            lambda s: duality.strong_collapse_weights(s.moments, classifier_of(s)), invariant=no_scale | {"scale"}, **strong,
        ),
        Metric(
            "snc2", "strong collapse of the features under the squared loss",
            lambda s: duality.strong_collapse_features(s.moments, classifier_of(s)), invariant=frozenset({"rotation"}),
            **strong,
        ),
        Metric(
            "snc3", "strong collapse of the bias under the squared loss",
            lambda s: duality.strong_collapse_bias(s.moments, classifier_of(s)), invariant=no_scale | {"scale"}, **strong,
        ),
    ]  # fmt: skip


def decision_entries() -> list[Metric]:
    """Nearest centers, NC4, and collapse of held-out samples."""
    flagged: dict[str, Any] = {
        "bounds": (0.0, 1.0), "flagged_when": frozenset({"own_means", "single_samples", "no_between"}), "despite_empty": True,
    }  # fmt: skip
    distance: dict[str, Any] = {
        "needs": CENTERS, "at_collapse": 0.0, "direction": "decreases", "reference": "Hui, Belkin & Nakkiran (2022)",
        "flagged_when": frozenset({"own_means", "single_samples"}), "bounds": (0.0, INF),
    }  # fmt: skip
    joint: dict[str, Any] = {"needs": JOINT, "invariant": frozenset({"rotation"}), **flagged}
    return [
        Metric(
            "pfc3", "nearest-class-center accuracy", lambda s: decision.ncc_accuracy(decisions_of(s)), CENTERS,
            at_collapse=1.0, direction="increases", reference=PFC, **flagged,
        ),
        Metric(
            "pfc3_error", "nearest-class-center error", lambda s: decision.ncc_error(decisions_of(s)), CENTERS,
            at_collapse=0.0, direction="decreases", reference=PFC, **flagged,
        ),
        Metric(
            "strong_collapse", "squared distance from the training mean of the own class, over tr Σ_B of training",
            lambda s: held_out.strong_collapse(s.moments, s.reference or s.moments, s.convention), **distance,
        ),
        Metric(
            "weak_collapse", "squared distance from the nearest training mean, over tr Σ_B of training",
            lambda s: held_out.weak_collapse(s.moments, decisions_of(s), s.reference or s.moments, s.convention), **distance,
        ),
        Metric(
            "nc4", "agreement of classifier and nearest class center", lambda s: decision.ncc_agreement(decisions_of(s)),
            at_collapse=1.0, direction="increases", reference=PAPYAN, **joint,
        ),
        Metric(
            "nc4_mismatch", "disagreement of classifier and nearest class center",
            lambda s: decision.ncc_mismatch(decisions_of(s)),
            at_collapse=0.0, direction="decreases", reference=PAPYAN, **joint,
        ),
        Metric(
            "accuracy", "accuracy of the classifier", lambda s: decision.classifier_accuracy(decisions_of(s)),
            at_collapse=1.0, direction="increases", reference=PAPYAN, **joint,
        ),
    ]  # fmt: skip
