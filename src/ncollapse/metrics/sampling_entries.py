"""Registry entries of estimates for a population, and of the values that noise alone gives."""

from __future__ import annotations

import math
from typing import Any, cast

from ncollapse.metrics import decision, distance_estimates, noise
from ncollapse.metrics import population_metrics as estimates
from ncollapse.metrics.entry import Metric, Need
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.decisions import ClassDecisions

_PARTS: frozenset[Need] = frozenset({"parts"})
_DERIVED = "derived: docs/sampling.md"
_ANGLES = frozenset({"two_classes", "low_dimension"})


def population_entries() -> list[Metric]:
    """Return the entries of the estimates, which need interleaved parts of the classes."""
    common: dict[str, Any] = {
        "reference": _DERIVED, "nan_flag": "noise_only",
        "undefined_when": frozenset({"no_between", "single_samples", "many_classes"}),
    }  # fmt: skip
    falling: dict[str, Any] = {"at_collapse": 0.0, "bounds": (0.0, math.inf), "direction": "decreases", **common}
    ranks: dict[str, Any] = {"at_collapse": None, "bounds": (0.0, math.inf), "direction": "none", **common}
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
            lambda s: estimates.between_inverse_trace(
                s.population, cast(ClassCenters, s.centers), cast(ClassDecisions, s.within)
            ),
            _PARTS | {"centers"}, **falling,
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
            "cdnv.high", "upper end of that interval, ∞ if two class means may coincide",
            lambda s: distance_estimates.cdnv_high(s.population), _PARTS, **falling,
        ),
        Metric(
            "nc2_equinorm.population", "variation of the norms of the population's centered class means",
            lambda s: estimates.equinorm(s.population), _PARTS,
            flagged_when=frozenset({"two_classes", "odd_on_line"}), **falling,
        ),
        Metric(
            "nc2_equiangularity.population", "spread of the cosines between them",
            lambda s: estimates.equiangularity(s.population), _PARTS, flagged_when=_ANGLES, **falling,
        ),
        Metric(
            "rank_between.population", "number of eigenvalues of Σ_B above its noise",
            lambda s: estimates.resolved_rank(s.population), _PARTS, flagged_when=frozenset({"two_classes"}), **ranks,
        ),
        Metric(
            "participation_ratio_between.population", "participation ratio of the population's Σ_B",
            lambda s: estimates.participation_ratio(s.population), _PARTS, flagged_when=frozenset({"two_classes"}), **ranks,
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
