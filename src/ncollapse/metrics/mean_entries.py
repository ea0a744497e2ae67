"""Registry entries of the class means and of the spread around them: NC1, NC2, uniformity, ranks, and estimates of these."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from ncollapse.metrics import decision, distance_estimates, geometry, noise, spectrum, uniformity, variability
from ncollapse.metrics import population_metrics as estimates
from ncollapse.metrics.entry import Metric
from ncollapse.metrics.layer_statistics import LayerStatistics, Need
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.decisions import ClassDecisions

_LIU = "Liu et al. (2023), ICLR"
_PAPYAN = "Papyan, Han & Donoho (2020), PNAS"
_PFC = "Progressive feedforward collapse, arXiv 2405.00985"
_WU = "Wu & Papyan (2024), NeurIPS"
_NO_SPREAD = frozenset({"no_between"})
_ANGLES = frozenset({"two_classes", "low_dimension"})
_NORMS = frozenset({"two_classes", "odd_on_line"})
_NO_POPULATION = frozenset({"no_between", "single_samples", "many_classes"})
_MOMENTS: frozenset[Need] = frozenset()
_CENTERS: frozenset[Need] = frozenset({"centers"})
_SCATTER: frozenset[Need] = frozenset({"scatter"})
_PARTS: frozenset[Need] = frozenset({"parts"})
_DERIVED = "derived: docs/sampling.md"
_INF = math.inf


# The casts tell the type checker what an entry's needs guarantee.
def _centers_of(s: LayerStatistics) -> tuple[ClassCenters, ClassDecisions]:
    return cast(ClassCenters, s.centers), cast(ClassDecisions, s.within)


def _spread(s: LayerStatistics) -> Tensor:
    return s.spread_share


def _inverse_share(s: LayerStatistics, convention: Convention) -> Tensor:
    """Compute the share of NC1 that comes from directions that noise explains."""
    centers, decisions = _centers_of(s)
    terms = variability.inverse_terms(centers, decisions, convention)
    shares = noise.direction_shares(variability.between_spectrum(centers, convention)[0], s.moments, convention)
    return (terms * shares).sum(dim=-1) / terms.sum(dim=-1)


def _rank_share(s: LayerStatistics) -> Tensor:
    """Compute the share of directions that are mostly noise."""
    eigenvalues = s.spectrum()
    noisy = (noise.direction_shares(eigenvalues, s.moments, s.convention) > noise.LARGEST_SHARE) & (eigenvalues > 0)
    return noisy.sum(dim=-1) / (eigenvalues > 0).sum(dim=-1)


def variability_entries() -> list[Metric]:
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
            lambda s: variability.within_between_ratio(s.moments, s.convention), _MOMENTS, reference=_PFC, noise=_spread,
            flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "nc1", "variability within classes in the directions of the class means, tr(Σ_W Σ_B⁺) / K",
            lambda s: variability.between_inverse_trace(*_centers_of(s), s.convention, divide_by_classes=s.parts.nc1_per_class),
            _CENTERS, reference=_PAPYAN,
            noise=lambda s: _inverse_share(s, s.convention),
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
        Metric(
            "nc1_total", "within-class share of the total variability",
            lambda s: variability.within_total_ratio(s.moments, s.convention), _MOMENTS,
            at_collapse=0.0, bounds=(0.0, 1.0), direction="decreases", reference=_PFC, nan_flag="no_variance", noise=_spread,
            flagged_when=frozenset({"single_samples"}),
        ),
        Metric(
            "cdnv", "class-distance normalized variance, mean over pairs",
            lambda s: s.pairs.cdnv, _MOMENTS, noise=lambda s: s.pairs.cdnv_noise,
            reference="Galanti, György & Hutter (2022), ICLR",
            nan_flag="coincident_means", flagged_when=frozenset({"single_samples"}), **common,
        ),
        Metric(
            "separation", "law of data separation, D = tr(SS_w SS_b⁺)",
            lambda s: variability.separation(*_centers_of(s)), _CENTERS, reference="He & Su (2023), PNAS",
            noise=lambda s: _inverse_share(s, "he_su"),
            flagged_when=frozenset({"rank_deficient", "single_samples"}), **common,
        ),
    ]  # fmt: skip


def geometry_entries() -> list[Metric]:
    """Return the entries of NC2 of the class means."""
    means: dict[str, Any] = {
        "needs": _MOMENTS, "at_collapse": 0.0, "direction": "decreases", "undefined_when": _NO_SPREAD,
        "nan_flag": "mean_at_center", "noise": lambda s: s.frame_share,
    }  # fmt: skip
    return [
        Metric(
            "pfc2", "distance of the class means' Gram matrix from a simplex ETF",
            lambda s: s.etf_distance, bounds=(0.0, math.sqrt(2.0)), reference=_PFC,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_equinorm", "variation of the norms of the centered class means",
            lambda s: geometry.equinorm(s.centered_means, ddof=s.parts.ddof), bounds=(0.0, _INF), reference=_PAPYAN,
            flagged_when=_NORMS, **means | {"noise": _spread},
        ),
        Metric(
            "nc2_equiangularity", "spread of the cosines between centered class means",
            lambda s: s.equiangularity, bounds=(0.0, 1.0), reference=_PAPYAN,
            flagged_when=_ANGLES, **means,
        ),
        Metric(
            "nc2_max_angle", "mean distance of the cosines between centered class means from -1/(K-1)",
            lambda s: s.pairs.max_angle, bounds=(0.0, 2.0), reference=_PAPYAN,
            flagged_when=_ANGLES, **means,
        ),
    ]  # fmt: skip


def uniformity_entries() -> list[Metric]:
    """Return the entries for uniformity of the class means on the sphere."""
    energy: dict[str, Any] = {
        "needs": _MOMENTS, "reference": _LIU, "undefined_when": _NO_SPREAD,
        "nan_flag": "coincident_directions", "flagged_when": _ANGLES,
    }  # fmt: skip
    return [
        Metric(
            "gnc2", "spread over pairs of the log distance of the class means' directions", lambda s: s.pairs.energy.std,
            at_collapse=0.0, bounds=(0.0, _INF), direction="decreases", noise=lambda s: s.frame_share, **energy,
        ),
        Metric(
            "hyperspherical_energy", "mean over pairs of minus the log distance of the class means' directions",
            lambda s: s.pairs.energy.mean, at_collapse=None, bounds=(-math.log(2.0), _INF), direction="none", noise=_spread,
            **energy,
        ),
        Metric(
            "log_equinorm", "spread of the log norms of the centered class means",
            lambda s: uniformity.log_equinorm(s.centered_means), _MOMENTS, at_collapse=0.0, bounds=(0.0, _INF),
            direction="decreases", reference=_WU, undefined_when=_NO_SPREAD, nan_flag="mean_at_center",
            flagged_when=_NORMS, noise=_spread,
        ),
    ]  # fmt: skip


def _rank_of(
    rank: Callable[[Tensor], Tensor], spectrum: Callable[[LayerStatistics], Tensor]
) -> Callable[[LayerStatistics], Tensor]:
    return lambda s: rank(spectrum(s))


def spectrum_entries() -> list[Metric]:
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
            undefined_when=_NO_SPREAD, flagged_when=frozenset({"two_classes"}),
            noise=_rank_share if name == "rank" else _spread, **common,
        )
        for name, (rank, title) in functions.items()
    ]  # fmt: skip
    total = [
        Metric(
            f"{name}_total", f"{title} of Σ_T (needs d×d scatter)", _rank_of(rank, LayerStatistics.total_spectrum), _SCATTER,
            undefined_when=frozenset({"no_variance"}), nan_flag="no_variance", **common,
        )
        for name, (rank, title) in functions.items()
    ]  # fmt: skip
    return between + total


def _population_of_means() -> list[Metric]:
    """Return the entries of class means and of the spread around them, in the population."""
    falling: dict[str, Any] = {
        "at_collapse": 0.0, "bounds": (0.0, _INF), "direction": "decreases", "reference": _DERIVED, "nan_flag": "noise_only",
        "undefined_when": _NO_POPULATION,
    }  # fmt: skip
    return [
        Metric(
            "pfc1.population", "PFC1 of the population, from unbiased traces",
            lambda s: estimates.within_between(s.population), _PARTS, **falling,
        ),
        Metric(
            "pfc2.population", "PFC2 of the population, its norm from independent parts of the samples",
            lambda s: estimates.etf_distance(s.population), _PARTS, flagged_when=_ANGLES,
            **falling | {"bounds": (0.0, math.sqrt(2.0))},
        ),
        Metric(
            "nc1.population", "NC1 of the population, over the directions of Σ_B above its noise",
            lambda s: estimates.between_inverse_trace(s.population, *_centers_of(s)), _PARTS | {"centers"}, **falling,
        ),
        Metric(
            "cdnv.population", "CDNV of the population, by empirical Bayes",
            lambda s: distance_estimates.cdnv(s.population), _PARTS, **falling,
        ),
        Metric(
            "cdnv.low", "lower end of a 95 % interval for CDNV of the population",
            lambda s: distance_estimates.cdnv_low(s.population), _PARTS, **falling,
        ),
        Metric(
            "cdnv.high", "upper end of a 95 % interval for CDNV of the population, ∞ if two class means may coincide",
            lambda s: distance_estimates.cdnv_high(s.population), _PARTS, **falling,
        ),
        Metric(
            "nc2_equinorm.population", "variation of the norms of the population's centered class means",
            lambda s: estimates.equinorm(s.population), _PARTS, flagged_when=_NORMS, **falling,
        ),
        Metric(
            "nc2_equiangularity.population", "spread of the cosines between the population's centered class means",
            lambda s: estimates.equiangularity(s.population), _PARTS, flagged_when=_ANGLES, **falling,
        ),
    ]  # fmt: skip


def population_entries() -> list[Metric]:
    """Return the entries of the estimates, which need interleaved parts of the classes."""
    ranks: dict[str, Any] = {
        "at_collapse": None, "bounds": (0.0, _INF), "direction": "none", "reference": _DERIVED, "nan_flag": "noise_only",
        "undefined_when": _NO_POPULATION, "flagged_when": frozenset({"two_classes"}),
    }  # fmt: skip
    return [
        *_population_of_means(),
        Metric(
            "rank_between.population", "number of eigenvalues of Σ_B above its noise",
            lambda s: estimates.resolved_rank(s.population), _PARTS, **ranks,
        ),
        Metric(
            "participation_ratio_between.population", "participation ratio of the population's Σ_B",
            lambda s: estimates.participation_ratio(s.population), _PARTS, **ranks,
        ),
        Metric(
            "pfc3.leave_one_out", "nearest-class-center accuracy, each sample left out of its own class mean",
            lambda s: decision.left_out_accuracy(cast(ClassDecisions, s.within)), frozenset({"centers", "left_out"}),
            at_collapse=1.0, bounds=(0.0, 1.0), direction="increases", reference=_DERIVED,
            flagged_when=frozenset({"single_left_out", "no_between"}),
        ),
    ]  # fmt: skip


def floor_entries() -> list[Metric]:
    """Return the entries of the values that data without classes gives, with these sizes and variances."""
    common: dict[str, Any] = {
        "needs": frozenset(), "at_collapse": None, "direction": "none", "reference": _DERIVED, "nan_flag": "no_noise",
    }  # fmt: skip
    return [
        Metric(
            "pfc1.noise", "PFC1 of noise: what it is if all class means coincide",
            lambda s: noise.ratio_floor(s.moments, s.convention), bounds=(0.0, math.inf), **common,
        ),
        Metric(
            "pfc2.noise", "PFC2 of noise that is alike in all dimensions",
            lambda s: noise.etf_floor(s.moments, with_means=False), bounds=(0.0, math.sqrt(2.0)), **common,
        ),
        Metric(
            "pfc3.noise", "nearest-center accuracy of noise that is alike in all dimensions, by its own class means",
            lambda s: noise.accuracy_floor(s.moments), bounds=(0.0, 1.0), **common,
        ),
    ]  # fmt: skip
