"""The registry: every metric's id, what it needs, its value at exact collapse, bounds, direction and reference."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import Tensor

from ncollapse.metrics import decision, duality, geometry, spectrum, variability
from ncollapse.metrics.layer import LayerStatistics, Metric, MetricValue, Need
from ncollapse.statistics.centers import ClassCenters, ClassDecisions, LinearClassifier
from ncollapse.statistics.conventions import convention_parts

_PAPYAN = "Papyan, Han & Donoho (2020), PNAS"
_ZHU = "Zhu et al. (2021), NeurIPS"
_PFC = "Progressive feedforward collapse, arXiv 2405.00985"
_MIXON = "Mixon, Parshall & Pi (2020), unconstrained features"

_NO_SPREAD = frozenset({"no_between"})
_ANGLES = frozenset({"two_classes", "low_dimension"})
_MOMENTS: frozenset[Need] = frozenset()
_CENTERS: frozenset[Need] = frozenset({"centers"})
_CLASSIFIER: frozenset[Need] = frozenset({"classifier"})
_JOINT: frozenset[Need] = frozenset({"centers", "classifier"})
_SCATTER: frozenset[Need] = frozenset({"scatter"})
_INF = math.inf


# An entry's `needs` guarantee these three; the casts tell the type checker so.
def _centers(s: LayerStatistics) -> tuple[ClassCenters, ClassDecisions]:
    return cast(ClassCenters, s.centers), cast(ClassDecisions, s.within)


def _decisions(s: LayerStatistics) -> ClassDecisions:
    return cast(ClassDecisions, s.decisions)


def _classifier(s: LayerStatistics) -> LinearClassifier:
    return cast(LinearClassifier, s.classifier)


def _variability() -> list[Metric]:
    common: dict[str, Any] = {
        "at_collapse": 0.0,
        "bounds": (0.0, _INF),
        "direction": "decreases",
        "undefined_when": _NO_SPREAD,
    }
    return [
        Metric(
            "pfc1", "within-class over between-class variability, tr Σ_W / tr Σ_B",
            lambda s: variability.within_between_ratio(s.moments, s.convention), _MOMENTS, reference=_PFC, **common,
        ),
        Metric(
            "nc1", "tr(Σ_W Σ_B⁺) / K",
            lambda s: variability.between_inverse_trace(*_centers(s), s.convention), _CENTERS, reference=_PAPYAN,
            flagged_when=frozenset({"rank_deficient"}), **common,
        ),
        Metric(
            "nc1_total", "within-class share of the total variability",
            lambda s: variability.within_total_ratio(s.moments, s.convention), _MOMENTS,
            at_collapse=0.0, bounds=(0.0, 1.0), direction="decreases", reference=_PFC, nan_flag="no_variance",
        ),
        Metric(
            "cdnv", "class-distance normalized variance, mean over pairs",
            lambda s: variability.cdnv(s.moments), _MOMENTS, reference="Galanti, György & Hutter (2022), ICLR",
            nan_flag="coincident_means", **common,
        ),
        Metric(
            "separation", "law of data separation, D = tr(SS_w SS_b⁺)",
            lambda s: variability.separation(*_centers(s)), _CENTERS, reference="He & Su (2023), PNAS",
            flagged_when=frozenset({"rank_deficient"}), **common,
        ),
    ]  # fmt: skip


def _geometry() -> list[Metric]:
    means: dict[str, Any] = {
        "needs": _MOMENTS, "at_collapse": 0.0, "direction": "decreases", "undefined_when": _NO_SPREAD,
        "nan_flag": "mean_at_center",
    }  # fmt: skip
    rows: dict[str, Any] = {
        "needs": _CLASSIFIER, "at_collapse": 0.0, "direction": "decreases", "nan_flag": "zero_classifier",
    }  # fmt: skip
    return [
        Metric(
            "pfc2", "distance of the class means' Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(s.centered_means), bounds=(0.0, math.sqrt(2.0)), reference=_PFC,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm", "variation of the norms of the centered class means",
            lambda s: geometry.equinorm(s.centered_means), bounds=(0.0, _INF), reference=_PAPYAN, **means,
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
            lambda s: geometry.equinorm(_classifier(s).weight), bounds=(0.0, _INF), reference=_PAPYAN, **rows,
        ),
        Metric(
            "nc2_equiangularity_weights", "spread of the cosines between classifier rows",
            lambda s: geometry.equiangularity(_classifier(s).weight), bounds=(0.0, 1.0), reference=_PAPYAN,
            flagged_when=frozenset({"two_classes"}), **rows,
        ),
        Metric(
            "nc2_max_angle_weights", "distance of those cosines from -1/(K-1)",
            lambda s: geometry.max_angle(_classifier(s).weight), bounds=(0.0, 2.0), reference=_PAPYAN, **rows,
        ),
        Metric(
            "nc2_etf_weights", "distance of the classifier's Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(_classifier(s).weight), bounds=(0.0, 2.0), reference=_ZHU,
            flagged_when=frozenset({"low_dimension"}), **rows,
        ),
    ]  # fmt: skip


def _duality() -> list[Metric]:
    both: dict[str, Any] = {"at_collapse": 0.0, "direction": "decreases"}
    strong: dict[str, Any] = {
        "needs": _CLASSIFIER, "bounds": (0.0, _INF), "reference": _MIXON, "nan_flag": "imbalanced", **both,
        "undefined_when": frozenset({"imbalanced"}),
    }  # fmt: skip
    no_scale = frozenset({"translation", "rotation"})
    return [
        Metric(
            "nc3", "squared distance of classifier and centered class means",
            lambda s: duality.self_duality(_classifier(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 4.0), reference=_PAPYAN, undefined_when=_NO_SPREAD, nan_flag="zero_classifier", **both,
        ),
        Metric(
            "nc3_etf", "distance of W M̄ from a simplex ETF",
            lambda s: duality.self_duality_etf(_classifier(s).weight, s.centered_means), _CLASSIFIER,
            bounds=(0.0, 2.0), reference=_ZHU, undefined_when=_NO_SPREAD, nan_flag="zero_classifier", **both,
        ),
        Metric(
            "nc3_cosine", "one minus the mean cosine of features with their classifier rows",
            lambda s: duality.self_duality_cosine(_decisions(s)), _JOINT, bounds=(0.0, 2.0),
            reference="arXiv 2505.15239", invariant=frozenset({"rotation", "scale"}), nan_flag="zero_vector", **both,
        ),
        Metric(
            "nc3_bias", "norm of the logits of the global mean",
            lambda s: duality.bias_collapse(s.moments, _classifier(s), convention_parts(s.convention).center),
            _CLASSIFIER, bounds=(0.0, _INF), reference=_ZHU, invariant=frozenset({"rotation"}), **both,
        ),
        Metric(
            "snc1", "strong collapse of the weights under the squared loss",
            lambda s: duality.strong_collapse_weights(s.moments, _classifier(s)), invariant=no_scale | {"scale"}, **strong,
        ),
        Metric(
            "snc2", "strong collapse of the features under the squared loss",
            lambda s: duality.strong_collapse_features(s.moments, _classifier(s)), invariant=frozenset({"rotation"}), **strong,
        ),
        Metric(
            "snc3", "strong collapse of the bias under the squared loss",
            lambda s: duality.strong_collapse_bias(s.moments, _classifier(s)), invariant=no_scale | {"scale"}, **strong,
        ),
    ]  # fmt: skip


def _decision() -> list[Metric]:
    flagged: dict[str, Any] = {"bounds": (0.0, 1.0), "flagged_when": frozenset({"own_means"})}
    joint: dict[str, Any] = {"needs": _JOINT, "invariant": frozenset({"rotation"}), **flagged}
    return [
        Metric(
            "pfc3", "nearest-class-centre accuracy", lambda s: decision.ncc_accuracy(_decisions(s)), _CENTERS,
            at_collapse=1.0, direction="increases", reference=_PFC, **flagged,
        ),
        Metric(
            "pfc3_error", "nearest-class-centre error", lambda s: decision.ncc_error(_decisions(s)), _CENTERS,
            at_collapse=0.0, direction="decreases", reference=_PFC, **flagged,
        ),
        Metric(
            "nc4", "agreement of classifier and nearest class centre", lambda s: decision.ncc_agreement(_decisions(s)),
            at_collapse=1.0, direction="increases", reference=_PAPYAN, **joint,
        ),
        Metric(
            "nc4_mismatch", "disagreement of classifier and nearest class centre",
            lambda s: decision.ncc_mismatch(_decisions(s)),
            at_collapse=0.0, direction="decreases", reference=_PAPYAN, **joint,
        ),
        Metric(
            "accuracy", "accuracy of the classifier", lambda s: decision.classifier_accuracy(_decisions(s)),
            at_collapse=1.0, direction="increases", reference=_PAPYAN, **joint,
        ),
    ]  # fmt: skip


def _of_spectrum(function: Callable[[Tensor], Tensor]) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: function(s.spectrum())


def _of_total_spectrum(function: Callable[[Tensor], Tensor]) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: function(s.total_spectrum())


def _spectrum() -> list[Metric]:
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
        Metric(f"{name}_between", f"{title} of Σ_B", _of_spectrum(function), _CENTERS, undefined_when=_NO_SPREAD, **common)
        for name, (function, title) in functions.items()
    ]
    total = [
        Metric(
            f"{name}_total", f"{title} of Σ_T (needs d×d scatter)", _of_total_spectrum(function),
            _SCATTER, nan_flag="no_variance", **common,
        )
        for name, (function, title) in functions.items()
    ]  # fmt: skip
    return between + total


METRICS: dict[str, Metric] = {
    metric.id: metric for metric in _variability() + _geometry() + _duality() + _decision() + _spectrum()
}


def select_metrics(ids: Sequence[str] | None) -> list[Metric]:
    """Entries by id, in the order of the registry.

    Args:
        ids: Metric ids; None takes all that need no d×d matrix.

    Returns:
        The entries.

    Raises:
        ValueError: If an id is unknown; the message names near ones.
    """
    if ids is None:
        return [metric for metric in METRICS.values() if "scatter" not in metric.needs]
    for name in ids:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=3) or list(METRICS)
            raise ValueError(f"No metric {name!r}. Near ones: {', '.join(near)}. All ids: ncollapse.METRICS.")
    return [metric for metric in METRICS.values() if metric.id in set(ids)]


def evaluate_metrics(statistics: LayerStatistics, metrics: Sequence[Metric]) -> list[MetricValue]:
    """Evaluate metrics on one layer; those whose classifier or scatter was not collected give no value.

    Args:
        statistics: Of the layer.
        metrics: Registry entries.

    Returns:
        One value per metric that applies, in order.
    """
    conditions = statistics.conditions()
    missing = {name for name in ("classifier", "scatter") if getattr(statistics, name) is None}
    return [metric.evaluate(statistics, conditions) for metric in metrics if not metric.needs & missing]
