"""The analysis over depth against plain loops: null, prediction errors, violations with and without the tolerance."""

import math

import numpy as np
import pytest
import torch

import reference
from ncollapse.depth import GRID
from ncollapse.measurement.depth_record import TOLERANCE, depth_record
from ncollapse.probe import measure_features
from ncollapse.records.depth import DepthRecord
from ncollapse.records.json_files import read_json, write_json

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
