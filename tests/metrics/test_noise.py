"""What noise alone gives, against simulated noise, and the flag of values that it explains."""

import math

import pytest
import torch

from cases import layer_statistics
from ncollapse.etf import simplex_etf
from ncollapse.metrics import METRICS, LayerStatistics, evaluate_metrics
from ncollapse.metrics.noise import direction_shares, etf_floor, mean_noise, noise_trace, spread_share
from ncollapse.metrics.variability import cdnv
from ncollapse.probe import measure_features
from ncollapse.statistics import ClassMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def values(features, labels, num_classes, metrics="all"):
    m = measure_features(features, labels, num_classes=num_classes, metrics=metrics)
    return {row.metric: row for row in m.rows}


@pytest.mark.parametrize("n", [2, 5, 20, 100, 500, 2000])
def test_pure_noise_is_flagged_at_every_n(n):
    labels = torch.arange(10 * n) % 10
    rows = values(torch.randn(10 * n, 512, generator=torch.Generator().manual_seed(n)), labels, 10)
    flagged = {id for id, row in rows.items() if "undersampled" in row.flags}
    assert {"pfc1", "nc1", "nc1_total", "cdnv", "separation", "pfc2", "nc2_equinorm", "nc2_equiangularity"} <= flagged
    assert {"nc2_max_angle", "gnc2", "log_equinorm", "pfc3", "pfc3_error", "weak_collapse", "rank_between"} <= flagged
    assert rows["pfc1"].value == pytest.approx(rows["pfc1.noise"].value, rel=0.1)
    assert rows["pfc2"].value == pytest.approx(rows["pfc2.noise"].value, rel=0.25)
    assert rows["pfc3"].value == pytest.approx(rows["pfc3.noise"].value, abs=0.02)


@pytest.mark.parametrize("n", [5, 20, 200])
def test_noise_with_many_directions_and_unequal_counts_is_flagged(n):
    counts = [n, 2 * n, 3 * n, n, 4 * n, n + 1]
    scales = torch.linspace(0.2, 3, 300, dtype=torch.float64)
    labels = labels_of(counts)
    for convention in ("class", "sample", "zhu"):
        features = normal(n, len(labels), 300) * scales * torch.linspace(1, 2, 6).double()[labels, None]
        m = measure_features(features, labels, num_classes=6, convention=convention)
        assert all("undersampled" in row.flags for row in m.rows if row.metric in ("pfc1", "pfc2", "cdnv", "nc1", "pfc3"))


@pytest.mark.parametrize("distance", [30.0, 300.0])
def test_separated_classes_are_not_flagged(distance):
    labels = torch.arange(500) % 10
    rows = values(distance * simplex_etf(10, 64)[labels] + normal(0, 500, 64), labels, 10)
    flagged = {id for id, row in rows.items() if "undersampled" in row.flags}
    # Of an exact frame noise feigns the whole distance, however small it is.
    assert flagged == {"pfc2", "nc2_equiangularity", "nc2_max_angle", "gnc2"}


def test_far_apart_means_that_are_no_frame_are_not_flagged():
    # Noise alone would give a PFC2 of a like size, but on means so far apart it adds almost nothing.
    labels = torch.arange(500) % 10
    rows = values(300 * normal(1, 10, 20)[labels] + normal(0, 500, 20), labels, 10)
    assert rows["pfc2"].value < 1.5 * rows["pfc2.noise"].value
    assert not any("undersampled" in row.flags for row in rows.values())


def test_the_flag_starts_where_noise_makes_half_of_the_spread():
    labels, flags = torch.arange(200) % 10, []
    noise = normal(0, 200, 64)
    means = normal(1, 10, 64)
    for scale in torch.linspace(0.01, 0.6, 20).tolist():
        moments = ClassMoments.from_batch(noise + scale * means[labels], labels, 10)
        row = values(noise + scale * means[labels], labels, 10)["pfc1"]
        flags.append(("undersampled" in row.flags) == (float(spread_share(moments)) > 0.5))
        half = row.value > values(noise, labels, 10)["pfc1.noise"].value / 2
        assert half == ("undersampled" in row.flags) or abs(float(spread_share(moments)) - 0.5) < 0.05
    assert all(flags)


def test_a_class_that_is_noise_away_from_another_is_flagged_by_pairs_alone():
    # Two of ten classes coincide but for noise: their pair is almost all of CDNV, and almost nothing of tr Σ_B.
    means = 50 * simplex_etf(10, 64)
    means[1] = means[0]
    labels = torch.arange(400) % 10
    rows = values(means[labels] + normal(0, 400, 64), labels, 10)
    assert rows["pfc1"].flags == ()
    assert rows["cdnv"].flags == ("undersampled",)
    assert "undersampled" in rows["nc1"].flags


def test_samples_decided_by_other_means_carry_no_flag_of_their_own():
    labels = torch.arange(100) % 10
    train = measure_features(normal(0, 100, 64), labels, num_classes=10)
    test = measure_features(normal(1, 100, 64), labels, num_classes=10, split="test", reference=train)
    flags = {row.metric: row.flags for row in test.rows}
    assert flags["pfc3"] == ()
    assert "undersampled" in flags["pfc1"]
    assert "undersampled" in flags["strong_collapse"]


@pytest.mark.parametrize("convention", ["class", "sample", "papyan", "zhu", "he_su"])
def test_noise_of_the_spread_is_its_mean_over_draws(convention):
    counts, scales = (3, 8, 5, 20), torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    labels, traces, estimates = labels_of(counts), [], []
    for seed in range(200):
        moments = ClassMoments.from_batch(normal(seed, len(labels), 6) * scales[labels, None], labels, 4)
        traces.append(float(moments.between_trace(convention)))
        estimates.append(float(noise_trace(moments, convention)))
    traces, estimates = torch.tensor(traces), torch.tensor(estimates)
    error = float((traces.var() + estimates.var()).sqrt()) / math.sqrt(200)
    assert float(traces.mean()) == pytest.approx(float(estimates.mean()), abs=3 * error)


@pytest.mark.parametrize(("counts", "with_means"), [((6,) * 5, True), ((6,) * 5, False), ((4, 9, 6, 30, 12), False)])
def test_the_floor_of_pfc2_is_that_of_simulated_noise(counts, with_means):
    labels, frame = labels_of(counts), (20.0 if with_means else 0.0) * simplex_etf(5, 400)
    squares, floors = [], []
    for seed in range(150):
        statistics = layer_statistics(frame[labels] + normal(seed, len(labels), 400), labels, 5, scatter=False)
        squares.append(float(statistics.etf_distance) ** 2)
        floors.append(float(etf_floor(statistics.moments, with_means=with_means)) ** 2)
    assert sum(floors) == pytest.approx(sum(squares), rel=0.06)


def test_a_class_of_one_sample_gets_the_noise_of_the_others():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    noise = mean_noise(ClassMoments.from_batch(normal(0, 7, 5), labels, 3))
    assert float(noise[2]) == pytest.approx(float(3 * (noise[0] + noise[1]) / 2), rel=1e-12)


def test_cdnv_with_its_share_is_cdnv():
    for seed, counts in enumerate(((5, 9, 2, 4), (3, 3), (2,) * 30)):
        labels = labels_of(counts)
        moments = ClassMoments.from_batch(normal(seed, len(labels), 6), labels, len(counts))
        assert float(LayerStatistics(moments).pairs.cdnv) == float(cdnv(moments))


def test_without_variance_within_classes_there_is_no_noise():
    labels = torch.arange(12) % 3
    statistics = layer_statistics(normal(0, 3, 4)[labels], labels, 3)
    for value in evaluate_metrics(statistics, list(METRICS.values())):
        assert "undersampled" not in value.flags
        if value.metric.endswith(".noise"):
            assert math.isnan(value.value) or value.metric == "pfc3.noise"


@pytest.mark.parametrize("step", [1.0, 0.1])
def test_the_flag_of_two_classes_is_not_decided_by_rounding(step):
    # PFC2 of two classes is 0 up to rounding, and here also exactly; noise explains their distance in both cases.
    features = step * torch.tensor([[11.0, 0.3], [-9.0, -0.3], [9.0, 0.7], [-11.0, -0.7]], dtype=torch.float64)
    row = values(features, torch.tensor([0, 0, 1, 1]), 2)["pfc2"]
    assert row.value <= 1e-15
    assert row.flags == ("two_classes", "undersampled")


@pytest.mark.parametrize(("dim", "directions"), [(3, 3), (12, 5)])
def test_noise_is_spread_evenly_over_the_directions_of_the_class_means(dim, directions):
    labels = torch.arange(60) % 6
    moments = ClassMoments.from_batch(normal(0, 60, dim), labels, 6)
    each = float(noise_trace(moments)) / directions
    shares = direction_shares(torch.tensor([4 * each, 2 * each, each / 3], dtype=torch.float64), moments, "class")
    assert shares.tolist() == pytest.approx([0.25, 0.5, 1])
