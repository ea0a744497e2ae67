"""The analysis over depth against plain loops: null, prediction errors, violations with and without the tolerance."""

import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

import reference
from ncollapse.depth import (
    GRID,
    GeodesicCurve,
    MeanFlow,
    collapsed_optimality,
    effective_depth,
    excess_energy,
    flattening,
    log_linear,
    mean_path_cost,
    polar_alignment,
    prediction_error,
    progression,
    theorem1,
    theorem2,
    theorem3,
)
from ncollapse.measurement.depth_record import TOLERANCE, depth_record
from ncollapse.probe import measure_features
from ncollapse.records.depth import DepthRecord, PredictionError
from ncollapse.records.json_files import read_json, write_json
from ncollapse.records.theorems import WeightDecayBound
from ncollapse.statistics import PairedMoments

K = 3
LABELS = torch.arange(K).repeat_interleave(6)


def layers(num_layers=5, seed=0):
    """Features that collapse off the line: each layer nearer to its class mean, with noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(K, 4, generator=generator, dtype=torch.float64)
    found = {}
    for depth in range(num_layers):
        noise = torch.randn(len(LABELS), 4, generator=generator, dtype=torch.float64)
        found[f"layer{depth}"] = (1 + depth) * means[LABELS] + (1.0, 0.9, 0.905, 0.7, 0.2)[depth] * noise
    return found


def pfc1(features):
    within, between = (
        f(features.numpy(), LABELS.numpy(), K, "class") for f in (reference.within_covariance, reference.between_covariance)
    )
    return np.trace(within) / np.trace(between)


@pytest.fixture(scope="module")
def analyzed():
    return depth_record(measure_features(layers(), LABELS, num_classes=K, path=True), epoch=3)


def test_null_is_log_linear_between_the_ends(analyzed):
    first, *_, last = (pfc1(features) for features in layers().values())
    assert analyzed.epoch == 3
    assert analyzed.baseline.t == GRID
    assert list(analyzed.baseline.pfc1) == pytest.approx([first ** (1 - t) * last**t for t in GRID], rel=1e-9)
    assert all(len(values) == len(GRID) for values in vars(analyzed.baseline).values())


@pytest.mark.parametrize("position", ["index", "projection", "arclength"])
def test_prediction_errors_are_rms_decades_at_the_interior_layers(analyzed, position):
    features = list(layers().values())
    measured = [pfc1(layer) for layer in features]
    times = analyzed.positions[position]
    if position == "index":
        assert times == (0, 0.25, 0.5, 0.75, 1)
    line = [pfc1((1 - t) * features[0] + t * features[-1]) for t in times]
    null = [measured[0] ** (1 - t) * measured[-1] ** t for t in times]

    def rms(predicted):
        return math.sqrt(sum(math.log10(m / p) ** 2 for m, p in zip(measured[1:-1], predicted[1:-1], strict=True)) / 3)

    errors = analyzed.prediction_error[position]
    assert errors.line["pfc1"] == pytest.approx(rms(line), rel=1e-9)
    assert errors.baseline["pfc1"] == pytest.approx(rms(null), rel=1e-9)
    assert errors.line["pfc1"] != pytest.approx(errors.baseline["pfc1"], rel=0.01)


def test_the_flow_of_class_means_is_in_the_table(analyzed):
    """PFC2 at equal steps of the flow, and where the flow is as far along its chord; the cost over the least possible."""
    means = [torch.stack([layer[k == LABELS].mean(dim=0) for k in range(K)]) for layer in layers().values()]
    flow = MeanFlow.between(means[0], means[-1])
    centered = [(rows - rows.mean(dim=0)).numpy() for rows in means]
    measured = [reference.gram_distance(rows @ rows.T, reference.etf_gram(K)) for rows in centered]
    errors = analyzed.prediction_error
    assert errors["index"].flow["pfc2"] == pytest.approx(
        prediction_error(measured, flow.pfc2([0, 0.25, 0.5, 0.75, 1]).tolist())
    )
    times = flow.time_at(analyzed.positions["projection"])
    assert flow.position(times).tolist() == pytest.approx(analyzed.positions["projection"], abs=1e-12)
    assert errors["projection"].flow["pfc2"] == pytest.approx(prediction_error(measured, flow.pfc2(times).tolist()))
    assert errors["arclength"].flow == {}
    line = GeodesicCurve(PairedMoments.from_batch(*list(layers().values())[:: len(layers()) - 1], LABELS, K)).pfc2
    gap = prediction_error(line(analyzed.positions["projection"]).tolist(), flow.pfc2(times).tolist())
    assert analyzed.mean_path.gap == pytest.approx(gap)
    assert (analyzed.mean_path.exponent is None) == (gap < 0.02)
    assert analyzed.mean_path.cost == pytest.approx(mean_path_cost(means) / flow.cost_bound(4))
    assert analyzed.mean_path.nuclear_cost == pytest.approx(mean_path_cost(means, 1) / flow.cost_bound(4, 1))
    assert min(analyzed.mean_path.cost, analyzed.mean_path.nuclear_cost) > 1


def test_without_a_flow_there_is_no_entry(tmp_path):
    """Class means on a line have no flow; a record of an earlier version has no word of it."""
    flat = {name: layer[:, :1] for name, layer in layers().items()}
    found = depth_record(measure_features(flat, LABELS, num_classes=K, path=True), 0)
    assert found.mean_path is None
    assert found.prediction_error["projection"].flow == {}
    (tmp_path / "old.json").write_text('{"line": {"pfc1": 0.1}, "baseline": {"pfc1": 0.2}}')
    assert read_json(tmp_path / "old.json", PredictionError).flow == {}


def test_violations_with_and_without_the_tolerance():
    """PFC1 by layer as told: a rise of 1 %, a fall, a rise of 50 %."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(K, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(len(LABELS), 4, generator=generator, dtype=torch.float64)
    for k in range(K):
        noise[LABELS == k] -= noise[LABELS == k].mean(dim=0)
    features = {
        name: means[LABELS] + math.sqrt(ratio) * noise
        for name, ratio in {"a": 1.0, "b": 1.01, "c": 0.5, "d": 0.75, "e": 0.1}.items()
    }
    found = depth_record(measure_features(features, LABELS, num_classes=K, path=True), 0).progression["pfc1"]
    assert TOLERANCE == 0.02
    assert (found.violations, found.num_violations, found.monotone) == (("b", "d"), 2, False)
    assert (found.violations_tol, found.num_violations_tol, found.tolerance) == (("d",), 1, 0.02)
    assert found.largest == pytest.approx(0.25 * pfc1(features["a"]), rel=1e-9)


def test_a_record_is_read_back_as_it_was_written(analyzed, tmp_path):
    """To the last digit; nan, which JSON does not have, as None."""
    write_json(tmp_path / "record.json", analyzed)
    assert read_json(tmp_path / "record.json", DepthRecord) == analyzed
    same = {name: next(iter(layers().values())) for name in ("a", "b")}
    write_json(tmp_path / "undefined.json", depth_record(measure_features(same, LABELS, num_classes=K, path=True), 0))
    undefined = read_json(tmp_path / "undefined.json", DepthRecord)
    assert undefined.positions["projection"] == (None, None)
    assert undefined.energy.efficiency is None


def test_undefined_positions_have_no_error():
    """All layers alike: there is no chord to be projected on."""
    same = {name: next(iter(layers().values())) for name in ("a", "b", "c")}
    found = depth_record(measure_features(same, LABELS, num_classes=K, path=True), 0)
    assert all(math.isnan(t) for t in found.positions["projection"])
    assert all(math.isnan(value) for value in found.prediction_error["projection"].line.values())


def test_transport_of_a_permutation_is_the_layers_distance_without_it():
    generator = torch.Generator().manual_seed(2)
    first = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    measurement = measure_features(layers(), LABELS, num_classes=K, path=True)
    assert depth_record(measurement, 0).energy.wasserstein2 is None
    found = depth_record(measurement, 0, sample=(first, first.flip(0) + 5)).energy
    assert found.energy == measurement.path.energy
    assert found.wasserstein2 == pytest.approx(0, abs=1e-12)
    assert found.identity_cost_sample == pytest.approx(float((first.flip(0) - first).square().sum(dim=1).mean()))
    assert found.num_samples_wasserstein == 8
    pairs = torch.cdist(first - first.mean(dim=0), first - first.mean(dim=0)).square()
    assert found.random_cost_sample == pytest.approx(float(pairs.mean()))


def test_a_measurement_without_paths_is_refused():
    with pytest.raises(AttributeError, match=r"needs a measurement along the samples' paths\. Measure again with path=True"):
        depth_record(measure_features(layers(), LABELS, num_classes=K), 0)


def test_what_is_missing_is_told_in_the_name_of_what_was_asked_for():
    measured = measure_features(layers(), LABELS, num_classes=K)
    for name in ("depth_results", "geodesic"):
        with pytest.raises(AttributeError, match=rf"^{name} needs a measurement along the samples' paths"):
            getattr(measured, name)
    whole = measure_features(layers(), LABELS, num_classes=K, path=True)
    over_budget = replace(whole, paths=replace(whole.paths, line=None))
    with pytest.raises(AttributeError, match=r"^depth_results needs the features once the class means are final"):
        _ = over_budget.depth_results
    with pytest.raises(AttributeError, match=r"^line needs the features once the class means are final"):
        _ = over_budget.line


def test_every_field_is_what_its_name_says():
    """Each from the function of that name on the measurement's own statistics; no field is left at its default."""
    measurement, bound = measure_features(layers(), LABELS, num_classes=K, path=True), WeightDecayBound(())
    sample = list(layers().values())
    found = depth_record(measurement, 7, sample=sample, weight_decay=bound)
    line, path, names = measurement.geodesic, measurement.path, ("pfc1", "pfc2", "pfc3", "cdnv")
    measured = {name: measurement.curve(name) for name in names}
    curves = {name: getattr(measurement.line if name == "pfc3" else line, name)() for name in names}
    positions = {kind: tuple(path.position(kind)) for kind in ("index", "arclength", "ratio", "distance", "projection")}
    expected = {
        "epoch": 7,
        "layers": measurement.layers,
        "positions": positions,
        "theorem1": theorem1(line),
        "theorem2": theorem2(line),
        "theorem3": theorem3(measurement.line),
        "alignment": polar_alignment(line),
        "flattening": flattening(line),
        "excess": excess_energy(sample),
        "collapsed_optimality": collapsed_optimality(measurement.arcs),
        "effective_depth": tuple(
            effective_depth(measurement.curve("pfc3_error"), epsilon) for epsilon in (0, 0.001, 0.005, 0.01, 0.02, 0.05)
        ),
        "weight_decay": bound,
    }
    assert {name: getattr(found, name) for name in expected} == expected
    assert vars(found.curve) == {"t": GRID} | {name: tuple(values.tolist()) for name, values in curves.items()}
    ends = {name: tuple(log_linear(values[0], values[-1])) for name, values in measured.items()}
    assert vars(found.baseline) == {"t": GRID} | ends
    for kind, times in positions.items():
        for name in ("pfc1", "pfc2", "cdnv"):
            errors = prediction_error(measured[name], getattr(line, name)(times).tolist())
            assert found.prediction_error[kind].line[name] == errors
            errors = prediction_error(measured[name], log_linear(measured[name][0], measured[name][-1], times))
            assert found.prediction_error[kind].baseline[name] == errors
    for name in ("pfc1", "pfc2", "pfc3_error"):
        exact, tolerant = (progression(measurement.curve(name), **options) for options in ({}, {"tolerance": 0.02}))
        assert vars(found.progression[name]) == {
            "violations": tuple(measurement.layers[index] for index in exact.violations),
            "monotone": exact.monotone,
            "num_violations": len(exact.violations),
            "largest": exact.largest,
            "kendall_tau": exact.kendall_tau,
            "spearman": exact.spearman,
            "tolerance": 0.02,
            "violations_tol": tuple(measurement.layers[index] for index in tolerant.violations),
            "num_violations_tol": len(tolerant.violations),
        }
    assert vars(found.straightness) == {
        "mean": float(path.straightness.mean()),
        "median": float(path.straightness.median()),
        "line_shape_score_mean": float(path.line_shape.mean()),
        "line_shape_score_median": float(path.line_shape.median()),
        "turning_angle_mean_degrees": math.degrees(float(path.turning_angle.mean())),
        "chord_deviation": path.chord_deviation,
        "r_squared": path.r_squared,
        "speed_cov": path.speed_cov,
    }
    energy = {
        "efficiency": path.efficiency,
        "energy": path.energy,
        "energy_min": path.energy_min,
        "identity_cost": path.identity_cost,
    }
    assert {name: getattr(found.energy, name) for name in energy} == energy
    told = {"curve", "baseline", "prediction_error", "progression", "straightness", "energy", "mean_path"}
    assert {item.name for item in fields(DepthRecord)} == expected.keys() | told
    assert all(getattr(found, item.name) is not None for item in fields(DepthRecord))


def test_transport_of_a_sample_fills_the_energy():
    """The last layer is the first one, in another order: every field of the energy by its definition."""
    generator = torch.Generator().manual_seed(3)
    first, last = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    found = depth_record(measure_features(layers(), LABELS, num_classes=K, path=True), 0, sample=(first, last)).energy
    x, y = (part - part.mean(dim=0) for part in (first, last))
    costs = torch.cdist(x, y).square()
    best = min(float(costs[torch.arange(6), torch.tensor(order)].mean()) for order in itertools.permutations(range(6)))
    assert found.wasserstein2 == pytest.approx(best)
    assert found.identity_cost_sample == pytest.approx(float(costs.diagonal().mean()))
    assert found.random_cost_sample == pytest.approx(float(costs.mean()))
    assert found.gelbrich <= found.wasserstein2
    inner = torch.tensor([[float((x[i] - x[j]) @ (y[i] - y[j])) for j in range(6)] for i in range(6)])
    pairs = [(i, j) for i in range(6) for j in range(i)]
    assert found.num_pairs == len(pairs)
    assert found.pair_violation_rate == pytest.approx(np.mean([float(inner[pair]) < 0 for pair in pairs]))
    assert found.num_samples_wasserstein == 6
