"""From a measurement with paths to curves over depth: what the figures and the page's words are made of, as JSON values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, get_args

from torch import Tensor

from ncollapse.depth import (
    EPSILONS,
    GRID,
    GeodesicCurve,
    LineDecisions,
    PathStatistics,
    Position,
    WeightDecayBound,
    collapsed_optimality,
    effective_depth,
    gelbrich_squared,
    log_linear,
    pair_violations,
    polar_alignment,
    prediction_error,
    progression,
    theorem1,
    theorem2,
    theorem3,
    wasserstein2_squared,
)
from ncollapse.measurement.measurement import Measurement

TOLERANCE = 0.02


def depth_analysis(
    measurement: Measurement, transport: dict[str, Any] | None = None, weight_decay: WeightDecayBound | None = None
) -> dict[str, Any]:
    """Everything that a measurement with ``path=True`` says about depth."""
    geodesic, line, path, arcs = measurement.geodesic, measurement.line, measurement.path, measurement.arcs
    if geodesic is None or line is None or path is None or arcs is None:
        raise ValueError("depth_analysis needs a measurement with path=True, got one without. Measure again with path=True.")
    positions = {kind: path.position(kind) for kind in get_args(Position)}
    measured = {name: _curve(measurement, name) for name in ("pfc1", "pfc2", "pfc3", "cdnv")}
    errors = _curve(measurement, "pfc3_error")
    return {
        "layers": list(measurement.path_layers),
        "positions": positions,
        "curve": {
            "t": list(GRID),
            "pfc1": geodesic.pfc1().tolist(),
            "pfc2": geodesic.pfc2().tolist(),
            "pfc3": line.pfc3().tolist(),
            "cdnv": geodesic.cdnv().tolist(),
        },
        "null": {"t": list(GRID), **{name: log_linear(values[0], values[-1]) for name, values in measured.items()}},
        "prediction_error": {kind: _errors(measured, geodesic, times) for kind, times in positions.items()},
        "progression": {name: _progression(measurement, name) for name in ("pfc1", "pfc2", "pfc3_error")},
        "effective_depth": [asdict(effective_depth(errors, epsilon)) for epsilon in EPSILONS],
        **_theorems(geodesic, line),
        "alignment": asdict(polar_alignment(geodesic)),
        "collapsed_optimality": asdict(collapsed_optimality(arcs)),
        **_paths(path, transport or {}),
        "weight_decay": None if weight_decay is None else _bounds(weight_decay),
    }


def _curve(measurement: Measurement, metric: str) -> list[float]:
    """One metric over the layers of the path."""
    return [measurement.value(metric, layer) for layer in measurement.path_layers]


def _errors(measured: dict[str, list[float]], geodesic: GeodesicCurve, times: list[float]) -> dict[str, dict[str, float]]:
    """RMS errors in decades of the straight line and of its null, layers laid at the given positions."""
    names = ("pfc1", "pfc2", "cdnv")
    if any(math.isnan(t) for t in times):
        return {which: dict.fromkeys(names, math.nan) for which in ("line", "null")}
    predicted = {"pfc1": geodesic.pfc1(times), "pfc2": geodesic.pfc2(times), "cdnv": geodesic.cdnv(times)}
    null = {name: log_linear(measured[name][0], measured[name][-1], times) for name in names}
    return {
        "line": {name: prediction_error(measured[name], predicted[name].tolist()) for name in names},
        "null": {name: prediction_error(measured[name], null[name]) for name in names},
    }


def _progression(measurement: Measurement, metric: str) -> dict[str, Any]:
    values = _curve(measurement, metric)
    exact, tolerant = progression(values), progression(values, tolerance=TOLERANCE)
    return {
        "monotone": exact.monotone,
        "violations": [measurement.path_layers[index] for index in exact.violations],
        "num_violations": len(exact.violations),
        "largest": exact.largest,
        "kendall_tau": exact.kendall_tau,
        "spearman": exact.spearman,
        "tolerance": TOLERANCE,
        "violations_tol": [measurement.path_layers[index] for index in tolerant.violations],
        "num_violations_tol": len(tolerant.violations),
    }


def _theorems(geodesic: GeodesicCurve, line: LineDecisions) -> dict[str, Any]:
    return {"theorem1": asdict(theorem1(geodesic)), "theorem2": asdict(theorem2(geodesic)), "theorem3": asdict(theorem3(line))}


def _paths(path: PathStatistics, transport: dict[str, Any]) -> dict[str, Any]:
    return {
        "straightness": {
            "mean": float(path.straightness.mean()),
            "median": float(path.straightness.median()),
            "line_shape_score_mean": float(path.line_shape.mean()),
            "line_shape_score_median": float(path.line_shape.median()),
            "turning_angle_mean_degrees": math.degrees(float(path.turning_angle.mean())),
            "chord_deviation": path.chord_deviation,
            "r_squared": path.r_squared,
            "speed_cov": path.speed_cov,
        },
        "energy": {
            "energy": path.energy,
            "energy_min": path.energy_min,
            "identity_cost": path.identity_cost,
            "efficiency": path.efficiency,
            **transport,
        },
    }


def _bounds(found: WeightDecayBound) -> dict[str, Any]:
    blocks = [
        {
            "block": name,
            "energy": bound.energy,
            "by_moment": bound.by_moment,
            "by_weights": bound.by_weights,
            "squared_weights": bound.squared_weights,
        }
        for name, bound in zip(found.blocks, found.bounds, strict=True)
    ]
    return {"is_bound": found.is_bound, "blocks": blocks}


def transport_analysis(first: Tensor, last: Tensor) -> dict[str, Any]:
    """Exact transport between two layers on a sample of their features, each layer centered."""
    first, last = first.double() - first.double().mean(dim=0), last.double() - last.double().mean(dim=0)
    violations = pair_violations(first, last)
    return {
        "wasserstein2": wasserstein2_squared(first, last),
        "gelbrich": gelbrich_squared(first, last),
        "identity_cost_sample": float((last - first).square().sum(dim=1).mean()),
        "random_cost_sample": float((first.square().sum(dim=1) + last.square().sum(dim=1)).mean()),
        "num_samples_wasserstein": len(first),
        "pair_violation_rate": violations.rate,
        "num_pairs": violations.num_pairs,
    }
