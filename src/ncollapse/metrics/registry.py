"""The registry of metrics: for each its id, needs, value at exact collapse, bounds, direction and reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from ncollapse.metrics import decision, duality, geometry, held_out, spectrum, uniformity, variability
from ncollapse.metrics.entry import LayerStatistics, Metric, Need
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import convention_parts
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices

_PAPYAN = "Papyan, Han & Donoho (2020), PNAS"
_MIXON = "Mixon, Parshall & Pi (2020), unconstrained features"
_ZHU = "Zhu et al. (2021), NeurIPS"
_WU = "Wu & Papyan (2024), NeurIPS"
_PFC = "Progressive feedforward collapse, arXiv 2405.00985"

_NO_SPREAD = frozenset({"no_between"})
_ANGLES = frozenset({"two_classes", "low_dimension"})
_MOMENTS: frozenset[Need] = frozenset()
_CENTERS: frozenset[Need] = frozenset({"centers"})
_CLASSIFIER: frozenset[Need] = frozenset({"classifier"})
_JOINT: frozenset[Need] = frozenset({"centers", "classifier"})
_CHOSEN: frozenset[Need] = frozenset({"centers", "logits"})
_SCATTER: frozenset[Need] = frozenset({"scatter"})
_INF = math.inf


# The casts tell the type checker what an entry's needs guarantee.
def _centers_of(s: LayerStatistics) -> tuple[ClassCenters, ClassDecisions]:
    return cast(ClassCenters, s.centers), cast(ClassDecisions, s.within)


def _decisions_of(s: LayerStatistics) -> ClassDecisions:
    return cast(ClassDecisions, s.decisions)


def _classifier_of(s: LayerStatistics) -> LinearClassifier:
    return cast(LinearClassifier, s.classifier)


def _variability_entries() -> list[Metric]:
    """Return the entries of NC1 and related metrics."""
    common: dict[str, Any] = {
        "at_collapse": 0.0,
        "bounds": (0.0, _INF),
        "direction": "decreases",
        "undefined_when": _NO_SPREAD,
    }
    return [
        Metric(
            "pfc1", "within-class over between-class variability, tr Σ_W / tr Σ_B",
            lambda s: variability.within_between_ratio(s.moments, s.convention), _MOMENTS, reference=_PFC,
            flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "nc1", "tr(Σ_W Σ_B⁺) / K",
            lambda s: variability.between_inverse_trace(*_centers_of(s), s.convention), _CENTERS, reference=_PAPYAN,
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
        Metric(
            "nc1_total", "within-class share of the total variability",
            lambda s: variability.within_total_ratio(s.moments, s.convention), _MOMENTS,
            at_collapse=0.0, bounds=(0.0, 1.0), direction="decreases", reference=_PFC, nan_flag="no_variance",
            flagged_when=frozenset({"single_samples"}),
        ),
        Metric(
            "cdnv", "class-distance normalized variance, mean over pairs",
            lambda s: variability.cdnv(s.moments), _MOMENTS, reference="Galanti, György & Hutter (2022), ICLR",
            nan_flag="coincident_means", flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "separation", "law of data separation, D = tr(SS_w SS_b⁺)",
            lambda s: variability.separation(*_centers_of(s)), _CENTERS, reference="He & Su (2023), PNAS",
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
    ]  # fmt: skip


def _geometry_entries() -> list[Metric]:
    """Return the entries of NC2, for class means and for the classifier."""
    means: dict[str, Any] = {
        "needs": _MOMENTS, "at_collapse": 0.0, "direction": "decreases", "undefined_when": _NO_SPREAD,
        "nan_flag": "mean_at_center",
    }  # fmt: skip
    rows: dict[str, Any] = {
        "needs": _CLASSIFIER, "at_collapse": 0.0, "direction": "decreases", "nan_flag": "zero_classifier",
        "despite_empty": True,
    }  # fmt: skip
    return [
        Metric(
            "pfc2", "distance of the class means' Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(s.centered_means), bounds=(0.0, math.sqrt(2.0)), reference=_PFC,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm", "variation of the norms of the centered class means",
            lambda s: geometry.equinorm(s.centered_means), bounds=(0.0, _INF), reference=_PAPYAN,
            flagged_when=frozenset({"two_classes"}), **means,
        ),
        Metric(
            "nc2_equiangularity", "spread of the cosines between centered class means",
            lambda s: geometry.equiangularity(s.centered_means), bounds=(0.0, 1.0), reference=_PAPYAN,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_max_angle", "distance of those cosines from -1/(K-1)",
            lambda s: geometry.max_angle(s.centered_means), bounds=(0.0, 2.0), reference=_PAPYAN,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm_weights", "variation of the norms of the classifier rows",
            lambda s: geometry.equinorm(_classifier_of(s).weight), bounds=(0.0, _INF), reference=_PAPYAN, **rows,
        ),
        Metric(
            "nc2_equiangularity_weights", "spread of the cosines between classifier rows",
            lambda s: geometry.equiangularity(_classifier_of(s).weight), bounds=(0.0, 1.0), reference=_PAPYAN,
            flagged_when=_ANGLES, **rows,
        ),
        Metric(
            "nc2_max_angle_weights", "distance of those cosines from -1/(K-1)",
            lambda s: geometry.max_angle(_classifier_of(s).weight), bounds=(0.0, 2.0), reference=_PAPYAN,
            flagged_when=frozenset({"low_dimension"}), **rows,
        ),
        Metric(
            "nc2_etf_weights", "distance of the classifier's Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(_classifier_of(s).weight), bounds=(0.0, 2.0), reference=_ZHU,
            flagged_when=frozenset({"low_dimension"}), **rows,
        ),
    ]  # fmt: skip


def _uniformity_entries() -> list[Metric]:
    """Return the entries for uniformity of the class means on the sphere."""
    energy: dict[str, Any] = {
        "needs": _MOMENTS, "reference": "Liu et al. (2023), ICLR", "undefined_when": _NO_SPREAD,
        "nan_flag": "coincident_directions",
    }  # fmt: skip
    return [
        Metric(
            "gnc2", "spread over pairs of the log distance of the class means' directions", lambda s: s.pair_energy.std,
            at_collapse=0.0, bounds=(0.0, _INF), direction="decreases", flagged_when=frozenset({"two_classes"}), **energy,
        ),
        Metric(
            "hyperspherical_energy", "mean over pairs of minus the log distance of those directions",
            lambda s: s.pair_energy.mean, at_collapse=None, bounds=(-math.log(2.0), _INF), direction="none", **energy,
        ),
        Metric(
            "log_equinorm", "spread of the log norms of the centered class means",
            lambda s: uniformity.log_equinorm(s.centered_means), _MOMENTS, at_collapse=0.0, bounds=(0.0, _INF),
            direction="decreases", reference=_WU, undefined_when=_NO_SPREAD, nan_flag="mean_at_center",
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
            bounds=(0.0, 4.0), reference=_PAPYAN, undefined_when=_NO_SPREAD, nan_flag="zero_classifier", **both,
        ),
        Metric(
            "nc3_etf", "distance of W M̄ from a simplex ETF",
            lambda s: duality.self_duality_etf(_classifier_of(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 2.0), reference=_ZHU, undefined_when=_NO_SPREAD, nan_flag="zero_classifier",
            flagged_when=frozenset({"low_dimension"}), **both,
        ),
        Metric(
            "nc3_cosine", "one minus the mean cosine of features with their classifier rows",
            lambda s: duality.self_duality_cosine(_decisions_of(s)), _JOINT, bounds=(0.0, 2.0),
            reference="arXiv 2505.15239", invariant=frozenset({"rotation", "scale"}), nan_flag="zero_vector", **both,
        ),
        Metric(
            "unc3", "spread over classes of the cosine of classifier row and centered class mean",
            lambda s: uniformity.uniform_duality(_classifier_of(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 1.0), reference=_WU, undefined_when=_NO_SPREAD, nan_flag="zero_vector", **both,
        ),
        Metric(
            "nc3_bias", "norm of the logits of the global mean",
            lambda s: duality.bias_collapse(s.moments, _classifier_of(s), convention_parts(s.convention).center),
            _CLASSIFIER, bounds=(0.0, _INF), reference=_ZHU, invariant=frozenset({"rotation"}), **both,
        ),
        Metric(
            "snc1", "strong collapse of the weights under the squared loss",
            lambda s: duality.strong_collapse_weights(s.moments, _classifier_of(s)), invariant=no_scale | {"scale"}, **strong,
        ),
        Metric(
            "snc2", "strong collapse of the features under the squared loss",
            lambda s: duality.strong_collapse_features(s.moments, _classifier_of(s)), invariant=frozenset({"rotation"}),
            **strong,
        ),
        Metric(
            "snc3", "strong collapse of the bias under the squared loss",
            lambda s: duality.strong_collapse_bias(s.moments, _classifier_of(s)), invariant=no_scale | {"scale"}, **strong,
        ),
    ]  # fmt: skip


def _decision_entries() -> list[Metric]:
    """Return the entries of nearest centers, NC4, and collapse of held-out samples."""
    flagged: dict[str, Any] = {
        "bounds": (0.0, 1.0), "flagged_when": frozenset({"own_means", "single_samples", "no_between"}), "despite_empty": True,
    }  # fmt: skip
    distance: dict[str, Any] = {
        "needs": _CENTERS, "at_collapse": 0.0, "direction": "decreases", "reference": "Hui, Belkin & Nakkiran (2022)",
        "flagged_when": frozenset({"own_means", "single_samples"}), "bounds": (0.0, _INF),
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
            lambda s: held_out.strong_collapse(s.moments, s.reference or s.moments, s.convention), **distance,
        ),
        Metric(
            "weak_collapse", "squared distance from the nearest training mean, over tr Σ_B of training",
            lambda s: held_out.weak_collapse(s.moments, _decisions_of(s), s.reference or s.moments, s.convention), **distance,
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


def _rank_of(
    rank: Callable[[Tensor], Tensor], spectrum: Callable[[LayerStatistics], Tensor]
) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: rank(spectrum(s))


def _spectrum_entries() -> list[Metric]:
    """Return the entries of the ranks of Σ_B and Σ_T."""
    functions: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
        "rank": (spectrum.numerical_rank, "numerical rank"),
        "stable_rank": (spectrum.stable_rank, "stable rank"),
        "participation_ratio": (spectrum.participation_ratio, "participation ratio"),
        "entropy_rank": (spectrum.entropy_rank, "entropy rank"),
    }
    common: dict[str, Any] = {
        "at_collapse": None, "bounds": (0.0, _INF), "direction": "none", "reference": "Roy & Vetterli (2007), EUSIPCO",
    }  # fmt: skip
    between = [
        Metric(
            f"{name}_between", f"{title} of Σ_B", _rank_of(rank, LayerStatistics.spectrum), _CENTERS,
            undefined_when=_NO_SPREAD, **common,
        )
        for name, (rank, title) in functions.items()
    ]  # fmt: skip
    total = [
        Metric(
            f"{name}_total", f"{title} of Σ_T (needs d×d scatter)", _rank_of(rank, LayerStatistics.total_spectrum), _SCATTER,
            nan_flag="no_variance", **common,
        )
        for name, (rank, title) in functions.items()
    ]  # fmt: skip
    return between + total


METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        *_variability_entries(),
        *_geometry_entries(),
        *_uniformity_entries(),
        *_duality_entries(),
        *_decision_entries(),
        *_spectrum_entries(),
    )
}
