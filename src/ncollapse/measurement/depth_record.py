"""The depth record of a measurement with ``path=True``: the numbers behind figures and sentences about depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from torch import Tensor

from ncollapse.depth.chain import excess_energy
from ncollapse.depth.class_arcs import collapsed_optimality
from ncollapse.depth.flattening import flattening
from ncollapse.depth.geodesic import GRID, GeodesicCurve, log_linear, prediction_error
from ncollapse.depth.mean_flow import MeanFlow, mean_path_cost
from ncollapse.depth.path import PathStatistics, Position
from ncollapse.depth.progression import EPSILONS, effective_depth, progression
from ncollapse.depth.theorems import polar_alignment, theorem1, theorem2, theorem3
from ncollapse.depth.transport import gelbrich_squared
from ncollapse.depth.transport_bounds import pair_violations
from ncollapse.measurement.measured_layers import MeasuredLayers
from ncollapse.records.depth import (
    APART,
    Curve,
    DepthRecord,
    Energy,
    ExcessEnergy,
    LayerProgression,
    MeanPath,
    PredictionError,
    Straightness,
)
from ncollapse.records.theorems import WeightDecayBound

TOLERANCE = 0.02
# The times of the flow for layers at a position: equal steps, or where the flow is as far along its chord.
_CLOCKS: dict[str, Callable[[MeanFlow, Sequence[float]], Sequence[float]]] = {
    "index": lambda flow, times: times,
    "projection": MeanFlow.time_at,
}


def depth_record(
    measurement: MeasuredLayers,
    epoch: int,
    *,
    sample: Sequence[Tensor] | None = None,
    weight_decay: WeightDecayBound | None = None,
) -> DepthRecord:
    """Build the depth record of a measurement with ``path=True``; transport is that of a sample's features at all layers."""
    geodesic, line, path, arcs = measurement.geodesic, measurement.line, measurement.path, measurement.arcs
    positions = {kind: tuple(path.position(kind)) for kind in get_args(Position)}
    measured = {name: _over_path(measurement, name) for name in ("pfc1", "pfc2", "pfc3", "cdnv")}
    curves = {"pfc1": geodesic.pfc1(), "pfc2": geodesic.pfc2(), "pfc3": line.pfc3(), "cdnv": geodesic.cdnv()}
    errors = _over_path(measurement, "pfc3_error")
    means = [measurement.statistics[layer].moments.centered_means() for layer in measurement.path_layers]
    flow = MeanFlow.between(means[0], means[-1])
    energy, excess = Energy(path.efficiency, path.energy, path.energy_min, path.identity_cost), None
    if sample is not None:
        excess = excess_energy(sample)
        energy = _with_transport(energy, excess, sample[0], sample[-1])
    return DepthRecord(
        epoch=epoch,
        layers=measurement.path_layers,
        positions={**positions},
        curve=Curve(GRID, **{name: tuple(values.tolist()) for name, values in curves.items()}),
        baseline=Curve(GRID, **{name: tuple(log_linear(values[0], values[-1])) for name, values in measured.items()}),
        prediction_error={kind: _prediction_error(measured, geodesic, flow, kind, times) for kind, times in positions.items()},
        progression={name: _progression(measurement, name) for name in ("pfc1", "pfc2", "pfc3_error")},
        effective_depth=tuple(effective_depth(errors, epsilon) for epsilon in EPSILONS),
        theorem1=theorem1(geodesic),
        theorem2=theorem2(geodesic),
        theorem3=theorem3(line),
        alignment=polar_alignment(geodesic),
        flattening=flattening(geodesic),
        collapsed_optimality=collapsed_optimality(arcs),
        straightness=_straightness(path),
        energy=energy,
        excess=excess,
        weight_decay=weight_decay,
        mean_path=None if flow is None else _mean_path(flow, means, measured["pfc2"], geodesic, positions["projection"]),
    )


def _over_path(measurement: MeasuredLayers, metric: str) -> list[float]:
    """Return one metric over the layers of the path."""
    return [measurement.value(metric, layer) for layer in measurement.path_layers]


def _prediction_error(
    measured: dict[str, list[float]], geodesic: GeodesicCurve, flow: MeanFlow | None, kind: str, times: tuple[float, ...]
) -> PredictionError:
    """Compute RMS errors in decades of the straight line, its baseline and the flow, with layers at the given positions."""
    names = ("pfc1", "pfc2", "cdnv")
    if any(math.isnan(t) for t in times):
        return PredictionError(dict.fromkeys(names, math.nan), dict.fromkeys(names, math.nan))
    predicted = {"pfc1": geodesic.pfc1(times), "pfc2": geodesic.pfc2(times), "cdnv": geodesic.cdnv(times)}
    baseline = {name: log_linear(measured[name][0], measured[name][-1], times) for name in names}
    return PredictionError(
        line={name: prediction_error(measured[name], predicted[name].tolist()) for name in names},
        baseline={name: prediction_error(measured[name], baseline[name]) for name in names},
        flow={}
        if flow is None or kind not in _CLOCKS
        else {"pfc2": prediction_error(measured["pfc2"], flow.pfc2(_CLOCKS[kind](flow, times)).tolist())},
    )


def _mean_path(
    flow: MeanFlow, means: list[Tensor], pfc2: list[float], geodesic: GeodesicCurve, positions: tuple[float, ...]
) -> MeanPath:
    """Tell line and flow apart, and compare the path of class means with the cheapest."""
    flowed = flow.pfc2(flow.time_at(positions)).tolist()
    gap = prediction_error(geodesic.pfc2(positions).tolist(), flowed)
    traces = [float(layer.square().sum()) for layer in means]
    bounds = {power: flow.cost_bound(len(means) - 1, power) for power in (1.0, 2.0)}
    costs = {power: mean_path_cost(means, power) / bound if bound > 0 else math.nan for power, bound in bounds.items()}
    exponent = flow.exponent(traces, pfc2) if gap >= APART else math.nan
    return MeanPath(gap, None if math.isnan(exponent) else exponent, cost=costs[2.0], nuclear_cost=costs[1.0])


def _progression(measurement: MeasuredLayers, metric: str) -> LayerProgression:
    values, layers = _over_path(measurement, metric), measurement.path_layers
    exact, tolerant = progression(values), progression(values, tolerance=TOLERANCE)
    return LayerProgression(
        violations=tuple(layers[index] for index in exact.violations),
        monotone=exact.monotone,
        num_violations=len(exact.violations),
        largest=exact.largest,
        kendall_tau=exact.kendall_tau,
        spearman=exact.spearman,
        tolerance=TOLERANCE,
        violations_tol=tuple(layers[index] for index in tolerant.violations),
        num_violations_tol=len(tolerant.violations),
    )


def _straightness(path: PathStatistics) -> Straightness:
    return Straightness(
        mean=float(path.straightness.mean()),
        median=float(path.straightness.median()),
        line_shape_score_mean=float(path.line_shape.mean()),
        line_shape_score_median=float(path.line_shape.median()),
        turning_angle_mean_degrees=math.degrees(float(path.turning_angle.mean())),
        chord_deviation=path.chord_deviation,
        r_squared=path.r_squared,
        speed_cov=path.speed_cov,
    )


def _with_transport(energy: Energy, excess: ExcessEnergy, first: Tensor, last: Tensor) -> Energy:
    """Add exact transport between two layers on a sample of their features, each layer centered."""
    first, last = first.double() - first.double().mean(dim=0), last.double() - last.double().mean(dim=0)
    violations = pair_violations(first, last)
    return replace(
        energy,
        wasserstein2=excess.wasserstein2,
        gelbrich=gelbrich_squared(first, last),
        identity_cost_sample=float((last - first).square().sum(dim=1).mean()),
        random_cost_sample=float((first.square().sum(dim=1) + last.square().sum(dim=1)).mean()),
        num_samples_wasserstein=len(first),
        pair_violation_rate=violations.rate,
        num_pairs=violations.num_pairs,
    )
