"""Entries of the registry about features: variability, geometry, uniformity, ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ncollapse.metrics import geometry, spectrum, uniformity, variability
from ncollapse.metrics.entry import LayerStatistics, Metric
from ncollapse.metrics.entry_parts import (
    ANGLES,
    CENTERS,
    CLASSIFIER,
    INF,
    MOMENTS,
    NO_SPREAD,
    PAPYAN,
    PFC,
    SCATTER,
    WU,
    ZHU,
    centers_of,
    classifier_of,
)


def variability_entries() -> list[Metric]:
    """NC1 and its kin."""
    common: dict[str, Any] = {
        "at_collapse": 0.0,
        "bounds": (0.0, INF),
        "direction": "decreases",
        "undefined_when": NO_SPREAD,
    }
    return [
        Metric(
            "pfc1", "within-class over between-class variability, tr Σ_W / tr Σ_B",
            lambda s: variability.within_between_ratio(s.moments, s.convention), MOMENTS, reference=PFC,
            flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "nc1", "tr(Σ_W Σ_B⁺) / K",
            lambda s: variability.between_inverse_trace(*centers_of(s), s.convention), CENTERS, reference=PAPYAN,
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
        Metric(
            "nc1_total", "within-class share of the total variability",
            lambda s: variability.within_total_ratio(s.moments, s.convention), MOMENTS,
            at_collapse=0.0, bounds=(0.0, 1.0), direction="decreases", reference=PFC, nan_flag="no_variance",
            flagged_when=frozenset({"single_samples"}),
        ),
        Metric(
            "cdnv", "class-distance normalized variance, mean over pairs",
            lambda s: variability.cdnv(s.moments), MOMENTS, reference="Galanti, György & Hutter (2022), ICLR",
            nan_flag="coincident_means", flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "separation", "law of data separation, D = tr(SS_w SS_b⁺)",
            lambda s: variability.separation(*centers_of(s)), CENTERS, reference="He & Su (2023), PNAS",
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
    ]  # fmt: skip


def geometry_entries() -> list[Metric]:
    """NC2 of the class means and of the classifier."""
    means: dict[str, Any] = {
        "needs": MOMENTS, "at_collapse": 0.0, "direction": "decreases", "undefined_when": NO_SPREAD,
        "nan_flag": "mean_at_center",
    }  # fmt: skip
    rows: dict[str, Any] = {
        "needs": CLASSIFIER, "at_collapse": 0.0, "direction": "decreases", "nan_flag": "zero_classifier",
        "despite_empty": True,
    }  # fmt: skip
    return [
        Metric(
            "pfc2", "distance of the class means' Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(s.centered_means), bounds=(0.0, math.sqrt(2.0)), reference=PFC,
            flagged_when=ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm", "variation of the norms of the centered class means",
            lambda s: geometry.equinorm(s.centered_means), bounds=(0.0, INF), reference=PAPYAN,
            flagged_when=frozenset({"two_classes"}), **means,
        ),
        Metric(
            "nc2_equiangularity", "spread of the cosines between centered class means",
            lambda s: geometry.equiangularity(s.centered_means), bounds=(0.0, 1.0), reference=PAPYAN,
            flagged_when=ANGLES, **means,
        ),
        Metric(
            "nc2_max_angle", "distance of those cosines from -1/(K-1)",
            lambda s: geometry.max_angle(s.centered_means), bounds=(0.0, 2.0), reference=PAPYAN,
            flagged_when=ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm_weights", "variation of the norms of the classifier rows",
            lambda s: geometry.equinorm(classifier_of(s).weight), bounds=(0.0, INF), reference=PAPYAN, **rows,
        ),
        Metric(
            "nc2_equiangularity_weights", "spread of the cosines between classifier rows",
            lambda s: geometry.equiangularity(classifier_of(s).weight), bounds=(0.0, 1.0), reference=PAPYAN,
            flagged_when=ANGLES, **rows,
        ),
        Metric(
            "nc2_max_angle_weights", "distance of those cosines from -1/(K-1)",
            lambda s: geometry.max_angle(classifier_of(s).weight), bounds=(0.0, 2.0), reference=PAPYAN,
            flagged_when=frozenset({"low_dimension"}), **rows,
        ),
        Metric(
            "nc2_etf_weights", "distance of the classifier's Gram matrix from a simplex ETF",
            lambda s: geometry.etf_distance(classifier_of(s).weight), bounds=(0.0, 2.0), reference=ZHU,
            flagged_when=frozenset({"low_dimension"}), **rows,
        ),
    ]  # fmt: skip


def uniformity_entries() -> list[Metric]:
    """Uniformity of the class means on the sphere."""
    energy: dict[str, Any] = {
        "needs": MOMENTS, "reference": "Liu et al. (2023), ICLR", "undefined_when": NO_SPREAD,
        "nan_flag": "coincident_directions",
    }  # fmt: skip
    return [
        Metric(
            "gnc2", "spread over pairs of the log distance of the class means' directions", lambda s: s.pair_energy.std,
            at_collapse=0.0, bounds=(0.0, INF), direction="decreases", flagged_when=frozenset({"two_classes"}), **energy,
        ),
        Metric(
            "hyperspherical_energy", "mean over pairs of minus the log distance of those directions",
            lambda s: s.pair_energy.mean, at_collapse=None, bounds=(-math.log(2.0), INF), direction="none", **energy,
        ),
        Metric(
            "log_equinorm", "spread of the log norms of the centered class means",
            lambda s: uniformity.log_equinorm(s.centered_means), MOMENTS, at_collapse=0.0, bounds=(0.0, INF),
            direction="decreases", reference=WU, undefined_when=NO_SPREAD, nan_flag="mean_at_center",
        ),
    ]  # fmt: skip


def _of_spectrum(function: Callable[[Tensor], Tensor]) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: function(s.spectrum())


def _of_total_spectrum(function: Callable[[Tensor], Tensor]) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: function(s.total_spectrum())


def spectrum_entries() -> list[Metric]:
    """Ranks of Σ_B and Σ_T."""
    functions: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
        "rank": (spectrum.numerical_rank, "numerical rank"),
        "stable_rank": (spectrum.stable_rank, "stable rank"),
        "participation_ratio": (spectrum.participation_ratio, "participation ratio"),
        "entropy_rank": (spectrum.entropy_rank, "entropy rank"),
    }
    common: dict[str, Any] = {
        "at_collapse": None, "bounds": (0.0, INF), "direction": "none", "reference": "Roy & Vetterli (2007), EUSIPCO",
    }  # fmt: skip
    between = [
        Metric(f"{name}_between", f"{title} of Σ_B", _of_spectrum(function), CENTERS, undefined_when=NO_SPREAD, **common)
        for name, (function, title) in functions.items()
    ]
    total = [
        Metric(
            f"{name}_total", f"{title} of Σ_T (needs d×d scatter)", _of_total_spectrum(function),
            SCATTER, nan_flag="no_variance", **common,
        )
        for name, (function, title) in functions.items()
    ]  # fmt: skip
    return between + total
