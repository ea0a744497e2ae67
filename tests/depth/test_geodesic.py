"""The straight line between two layers: golden numbers, and its curves against features recomputed at every t."""

import math

import numpy as np
import pytest
import torch

import reference
from ncollapse.depth import GRID, GeodesicCurve, LineDecisions, log_linear, prediction_error
from ncollapse.depth.geodesic import _num_right, _polynomials
from ncollapse.etf import simplex_etf
from ncollapse.statistics import ClassMoments, PairedMoments

TIMES = (0.0, 0.2, 0.5, 0.77, 1.0)

# counts, dimension, offset of the first layer, offset of the last
SHAPES = {
    "balanced": ((6, 6, 6, 6), 7, 0.0, 0.0),
    "imbalanced": ((9, 3, 5, 2), 7, 0.0, 0.0),
    "two_classes": ((6, 3), 4, 0.0, 0.0),
    "few_dimensions": ((4, 5, 3, 6, 4), 2, 0.0, 0.0),
    "far_from_the_origin": ((9, 3, 5, 2), 7, 3e3, -2e3),
    "single_samples": ((1, 4, 1), 5, 0.0, 0.0),
}


def two_layers(name, seed=3):
    counts, dim, offset0, offset1 = SHAPES[name]
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    x = 0.8 * normal(len(counts), dim)[labels] + normal(len(labels), dim)
    y = 2 * normal(len(counts), dim)[labels] + 0.3 * normal(len(labels), dim) + 0.2 * x.flip(1)
    return x + offset0, y + offset1, labels, len(counts)


def curve_of(x, y, labels, num_classes, weights="class"):
    return GeodesicCurve(PairedMoments.from_batch(x, y, labels, num_classes), weights)


def direct(x, y, labels, num_classes, t, weights="class"):
    """The PFC metrics of (1-t)x + ty by the oracle, on the features themselves."""
    H, y = ((1 - t) * x + t * y).numpy(), labels.numpy()
    M = reference.means(H, y, num_classes) - reference.global_mean(H, y, num_classes)
    within = np.trace(reference.within_covariance(H, y, num_classes, weights))
    return {
        "pfc1": within / np.trace(reference.between_covariance(H, y, num_classes, weights)),
        "pfc2": reference.gram_distance(M @ M.T, reference.etf_gram(num_classes)),
        "cdnv": reference.cdnv(H, y, num_classes),
        "pfc3": np.mean(reference.nearest(H, reference.means(H, y, num_classes)) == y),
    }


GOLDEN = {
    "balanced": {
        "w1": 0.0994960436,
        "b1": 1.4377210672,
        "pfc1": (1.2313154674, 0.4435369917, 0.1354806772),
        "pfc2": (0.3370486962, 0.2298928524, 0.1373969007),
        "pfc3": (1, 1, 1),
    },
    "imbalanced": {
        "w1": 0.1152822764,
        "b1": 1.4386236622,
        "pfc1": (1.0661510201, 0.4225031220, 0.1375235507),
        "pfc2": (0.4260481738, 0.3021443247, 0.1992025188),
        "pfc3": (10 / 12, 1, 1),
    },
}


def test_golden_numbers(golden):
    name, h0, h1, labels = golden
    expected, curve = GOLDEN[name], curve_of(h0, h1, labels, 3)
    quarters = (0.25, 0.5, 0.75)
    line = LineDecisions.from_batch(h0, h1, labels, curve.paired, quarters)
    assert float(curve.within_coefficients()[1]) == pytest.approx(expected["w1"], abs=1e-10)
    assert float(curve.between_coefficients()[1]) == pytest.approx(expected["b1"], abs=1e-10)
    assert curve.pfc1(quarters).tolist() == pytest.approx(expected["pfc1"], abs=1e-10)
    assert curve.pfc2(quarters).tolist() == pytest.approx(expected["pfc2"], abs=1e-10)
    assert line.pfc3().tolist() == pytest.approx(expected["pfc3"], abs=1e-14)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("name", SHAPES)
def test_curves_equal_direct_recomputation(name, weights):
    x, y, labels, K = two_layers(name)
    curve = curve_of(x, y, labels, K, weights)
    tolerance = {"rel": 1e-9, "abs": 1e-12}
    for index, t in enumerate(TIMES):
        expected = direct(x, y, labels, K, t, weights)
        assert float(curve.pfc1(TIMES)[index]) == pytest.approx(expected["pfc1"], **tolerance)
        assert float(curve.pfc2(TIMES)[index]) == pytest.approx(expected["pfc2"], **tolerance)
        assert float(curve.cdnv(TIMES)[index]) == pytest.approx(expected["cdnv"], **tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_decisions_on_the_line_equal_explicit_distances(name):
    x, y, labels, K = two_layers(name)
    paired = PairedMoments.from_batch(x, y, labels, K)
    line = LineDecisions.from_batch(x, y, labels, paired, GRID)
    assert line.pfc3().tolist() == [direct(x, y, labels, K, t)["pfc3"] for t in GRID]
    assert int(line.num_samples) == len(labels)
    assert int(line.num_pairs) == len(labels) * (K - 1)
    if name not in ("single_samples", "two_classes"):
        assert len(set(line.pfc3().tolist())) > 1, "a constant accuracy tests nothing"


def test_the_grid_and_the_ends():
    assert (GRID[0], GRID[1], GRID[50], GRID[-1], len(GRID)) == (0.0, 0.01, 0.5, 1.0, 101)
    x, y, labels, K = two_layers("imbalanced")
    curve = curve_of(x, y, labels, K)
    for values in (curve.pfc1(), curve.pfc2(), curve.cdnv()):
        assert values.shape == (101,)
        assert bool(values.isfinite().all())
    alone = [direct(side, side, labels, K, 0.0) for side in (x, y)]
    assert float(curve.pfc1()[0]) == pytest.approx(alone[0]["pfc1"], rel=1e-12)
    assert float(curve.pfc2()[-1]) == pytest.approx(alone[1]["pfc2"], rel=1e-12)


def test_positions_outside_the_unit_interval_extend_the_line():
    x, y, labels, K = two_layers("imbalanced")
    curve = curve_of(x, y, labels, K)
    for t in (-0.3, 1.4):
        expected = direct(x, y, labels, K, t)
        assert float(curve.pfc1([t])[0]) == pytest.approx(expected["pfc1"], rel=1e-9)
        assert float(curve.pfc2([t])[0]) == pytest.approx(expected["pfc2"], rel=1e-9)


def test_pfc2_keeps_its_digits_at_an_exact_frame():
    frame, labels = simplex_etf(5, 6), torch.arange(5)
    shift = torch.zeros(5, 6, dtype=torch.float64)
    shift[0, 0] = 1e-9
    values = curve_of(frame + shift, frame, labels, 5).pfc2([0.0, 1.0]).tolist()
    assert values[0] == pytest.approx(direct(frame + shift, frame, labels, 5, 0.0)["pfc2"], rel=1e-5)
    assert 1e-11 < values[0] < 1e-8
    assert values[1] < 1e-15


def test_two_classes_have_no_frame_to_miss():
    x, y, labels, K = two_layers("two_classes")
    assert curve_of(x, y, labels, K).pfc2().abs().max() < 1e-15


@pytest.mark.parametrize("metric", ["pfc1", "pfc2", "cdnv"])
def test_class_means_that_meet_on_the_line_are_undefined_there(metric):
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    x = torch.tensor([[1.0, 0.5], [1, -0.5], [-1, 0.5], [-1, -0.5], [0, 2.5], [0, 1.5]], dtype=torch.float64)
    x = x - x.mean(dim=0)
    values = getattr(curve_of(x, -x, labels, 3), metric)([0.0, 0.5, 1.0])
    assert values.isnan().tolist() == [False, True, False]


def test_an_empty_class_leaves_the_curves_undefined():
    x, y, labels, _ = two_layers("balanced")
    curve = curve_of(x, y, labels, 5)
    for values in (curve.pfc1(TIMES), curve.pfc2(TIMES), curve.cdnv(TIMES)):
        assert bool(values.isnan().all())


def test_an_empty_class_leaves_the_decisions_on_the_line_undefined():
    x, y, labels, _ = two_layers("balanced")
    line = LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, 5), TIMES)
    assert bool(line.pfc3().isnan().all())


def test_one_class_has_no_geometry():
    x, y, labels, _ = two_layers("balanced")
    curve = curve_of(x, y, torch.zeros_like(labels), 1)
    assert bool(torch.stack([curve.pfc1(TIMES), curve.pfc2(TIMES), curve.cdnv(TIMES)]).isnan().all())


def test_gram_coefficients_are_those_of_the_centered_means():
    x, y, labels, K = two_layers("imbalanced")
    M0, M1 = (reference.means(h.numpy(), labels.numpy(), K) for h in (x, y))
    M0, M1 = M0 - M0.mean(axis=0), M1 - M1.mean(axis=0)
    start, cross, end = curve_of(x, y, labels, K, "sample").gram_coefficients()
    assert np.allclose(start, M0 @ M0.T, rtol=1e-12, atol=1e-14)
    assert np.allclose(cross, (M0 @ M1.T + M1 @ M0.T) / 2, rtol=1e-12, atol=1e-14)
    assert np.allclose(end, M1 @ M1.T, rtol=1e-12, atol=1e-14)


def test_merged_moments_give_the_same_curve():
    x, y, labels, K = two_layers("far_from_the_origin")
    whole = PairedMoments.from_batch(x, y, labels, K)
    merged = PairedMoments.empty(K, x.shape[1])
    for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(1)).split([5, 1, 7, 0, 6]):
        merged = merged.merge(PairedMoments.from_batch(x[rows], y[rows], labels[rows], K))
    assert torch.allclose(merged.cross_traces, whole.cross_traces, rtol=1e-10, atol=1e-9)
    assert GeodesicCurve(merged).pfc1(TIMES).tolist() == pytest.approx(GeodesicCurve(whole).pfc1(TIMES).tolist(), rel=1e-9)
    assert GeodesicCurve(merged).pfc2(TIMES).tolist() == pytest.approx(GeodesicCurve(whole).pfc2(TIMES).tolist(), rel=1e-9)


def violating_pairs(x, y, labels, num_classes):
    """The margins by loops, for an end point replaced by its class means."""
    x, y, labels = x.numpy(), y.numpy(), labels.numpy()
    mu, nu = reference.means(x, labels, num_classes), reference.means(y, labels, num_classes)
    violating = 0
    for i, k in enumerate(labels):
        for j in range(num_classes):
            if j == k:
                continue
            rise = np.sum((x[i] - mu[j]) ** 2) - np.sum((x[i] - mu[k]) ** 2)
            cross, radius = (x[i] - mu[j]) @ (nu[k] - nu[j]), np.sum((nu[k] - nu[j]) ** 2)
            violating += rise > 0 and cross < 0 and cross**2 > rise * radius
    return violating


@pytest.mark.parametrize("name", ["balanced", "imbalanced", "few_dimensions", "far_from_the_origin"])
def test_violating_pairs_are_counted_by_the_definition(name):
    found = 0
    for seed in range(5):
        x, y, labels, K = two_layers(name, seed)
        line = LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, K))
        assert int(line.violating_pairs) == violating_pairs(x, y, labels, K)
        # Squares of margins below one, and the same signs.
        small, ends = x / 64, y / 64
        line = LineDecisions.from_batch(small, ends, labels, PairedMoments.from_batch(small, ends, labels, K))
        assert int(line.violating_pairs) == violating_pairs(x, y, labels, K)
        found += int(line.violating_pairs)
    assert found > 0


def test_a_pair_of_classes_that_begin_at_one_point_violates_nothing():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    x = torch.tensor([[1.0, 0], [3, 0], [1, 0], [3, 0], [8, 4], [8, 6]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0], [1, 2], [6, 1], [8, 3], [2, 5], [4, 9]], dtype=torch.float64)
    line = LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, 3))
    assert int(line.violating_pairs) == violating_pairs(x, y, labels, 3)


def test_margins_that_agree_at_the_ends_are_decided_as_the_line_computes_them():
    """A margin that equals what is needed at both ends and between rounds to either side of it, sample by sample and t by t."""
    margins = torch.rand(400, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.1
    times = torch.tensor(GRID, dtype=torch.float64)
    flat = margins.flatten()
    right = [(part @ flat.expand(3, -1) >= flat).view(len(part), -1, 3).all(dim=2) for part in _polynomials(times).split(4)]
    by_hand = torch.cat(right).sum(dim=1)
    assert 0 < int(by_hand.min()) < 400, "no sample is decided by rounding"
    assert torch.equal(_num_right(margins.expand(3, -1, -1), margins, times), by_hand.double())


def test_decisions_on_the_line_merge_over_batches():
    x, y, labels, K = two_layers("imbalanced")
    paired = PairedMoments.from_batch(x, y, labels, K)
    whole = LineDecisions.from_batch(x, y, labels, paired, TIMES)
    parts = [
        LineDecisions.from_batch(x[i : i + 4], y[i : i + 4], labels[i : i + 4], paired, TIMES) for i in range(0, len(x), 4)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert all(torch.equal(a, b) for a, b in zip(vars(whole).values(), vars(merged).values(), strict=True))


def test_many_wide_rows_cross_the_joints_between_blocks():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(200)
    x = torch.randn(600, 512, generator=generator) + torch.randn(3, 512, generator=generator)[labels] * 0.05
    paired = PairedMoments.from_batch(x, x.flip(1), labels, 3)
    line = LineDecisions.from_batch(x, x.flip(1), labels, paired, [0.0, 0.4])
    expected = [direct(x.double(), x.double().flip(1), labels, 3, t)["pfc3"] for t in (0.0, 0.4)]
    assert line.pfc3().tolist() == pytest.approx(expected, abs=1e-14)
    assert int(line.num_samples) == 600


def test_many_classes_take_samples_and_pairs_in_parts(monkeypatch):
    x, y, labels, K = two_layers("imbalanced")
    paired = PairedMoments.from_batch(x, y, labels, K)
    whole = LineDecisions.from_batch(x, y, labels, paired)
    assert len(set(whole.correct.tolist())) > 1
    cdnv = GeodesicCurve(paired).cdnv()
    monkeypatch.setattr("ncollapse.depth.geodesic._BLOCK_ELEMENTS", 4 * len(GRID))
    assert torch.equal(LineDecisions.from_batch(x, y, labels, paired).correct, whole.correct)
    assert torch.allclose(GeodesicCurve(paired).cdnv(), cdnv, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("tied", "correct"), [(0, 4), (1, 3)])
def test_equal_distances_go_to_the_smallest_index(tied, correct):
    # The class means are -1 and 1, and one sample lies halfway.
    points = {0: [-2.0, 0.0, 0.5, 1.5], 1: [-0.5, -1.5, 0.0, 2.0]}[tied]
    x, labels = torch.tensor(points, dtype=torch.float64)[:, None], torch.tensor([0, 0, 1, 1])
    line = LineDecisions.from_batch(x, x, labels, PairedMoments.from_batch(x, x, labels, 2), [0.0, 0.5, 1.0])
    assert line.correct.tolist() == [correct] * 3


@pytest.mark.parametrize("step", [0.5, 1e-16, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_samples_that_are_decided_at_once_are_decided_as_at_each_time(seed, step):
    # Small integers, so that many distances are equal, and steps of the last layer that hardly change them.
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(200) % 5
    x = torch.randint(-2, 3, (200, 3), generator=generator).double()
    y = x + step * torch.randint(-2, 3, (200, 3), generator=generator)
    paired = PairedMoments.from_batch(x, y, labels, 5)
    times = [0.0, 0.25, 0.5, 0.75]
    found = LineDecisions.from_batch(x, y, labels, paired, times).correct
    # A time beyond the ends lets all samples be decided at every time.
    assert torch.equal(found, LineDecisions.from_batch(x, y, labels, paired, [*times, 2.0]).correct[:4])


@pytest.mark.parametrize("metric", ["pfc1", "pfc2", "cdnv"])
def test_class_means_that_differ_by_rounding_only_are_undefined(metric):
    labels = torch.arange(3).repeat_interleave(6)
    # The same samples in every class, in another order.
    same = 1 / 3 + torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = torch.cat([same, same.flip(0), same[[3, 1, 5, 0, 4, 2]]])
    curve = curve_of(x, 2 * x, labels, 3)
    assert float(curve.between_coefficients()[0]) > 0, "rounding leaves something"
    assert bool(getattr(curve, metric)([0.0, 0.5, 1.0]).isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicated_classes_are_decided_by_the_smaller_index_on_the_line(dtype):
    generator = torch.Generator().manual_seed(0)
    half = [(1 / 3 + torch.randn(40, 5, generator=generator)).to(dtype) for _ in range(2)]
    labels, order = torch.arange(40) % 4, torch.randperm(80, generator=generator)
    x, y = (torch.cat([h, h])[order] for h in half)
    twice = torch.cat([labels, labels + 4])[order]
    line = LineDecisions.from_batch(x, y, twice, PairedMoments.from_batch(x, y, twice, 8))
    alone = LineDecisions.from_batch(*half, labels, PairedMoments.from_batch(*half, labels, 4))
    assert line.correct.tolist() == alone.correct.tolist()


@pytest.mark.parametrize("exponent", [-140, -80, 80, 140])
def test_curves_keep_their_digits_at_any_scale(exponent):
    x, y, labels, _ = two_layers("imbalanced")
    expected, curve = curve_of(x, y, labels, 4), curve_of(x * 10.0**exponent, y * 10.0**exponent, labels, 4)
    for metric in ("pfc1", "pfc2", "cdnv"):
        assert torch.allclose(getattr(curve, metric)(), getattr(expected, metric)(), rtol=1e-11, atol=0), metric


def test_log_linear_interpolates_the_logarithm():
    assert log_linear(4.0, 0.25, [0.0, 0.25, 0.5, 1.0]) == pytest.approx([4.0, 2.0, 1.0, 0.25], rel=1e-14)
    assert len(log_linear(1.0, 0.5)) == len(GRID)
    assert log_linear(1e-300, 1e300, [0.5]) == pytest.approx([1.0], rel=1e-12)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_log_linear_needs_positive_ends(ends):
    values = log_linear(*ends, [0.0, 0.5, 1.0])
    assert len(values) == 3
    assert all(math.isnan(v) for v in values)


def test_prediction_error_is_in_decades_over_the_interior():
    assert prediction_error([9.0, 10.0, 1.0, 7.0], [1.0, 1.0, 1.0, 1.0]) == pytest.approx(math.sqrt(0.5), rel=1e-14)
    assert prediction_error([9.0, 1.0, 5.0], [1.0, 1000.0, 1.0]) == pytest.approx(3.0, rel=1e-14)
    assert prediction_error([1.0, 0.3, 0.2], [2.0, 0.3, 7.0]) == 0.0


@pytest.mark.parametrize("values", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [1.0, math.nan, 1.0]])
def test_prediction_error_is_undefined_without_positive_interior_values(values):
    ones = [1.0] * len(values)
    assert math.isnan(prediction_error(values, ones))
    assert math.isnan(prediction_error(ones, values))


def test_prediction_error_needs_as_many_predictions():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        prediction_error([1.0, 1.0, 1.0], [1.0, 1.0])


def test_the_curve_leaves_its_moments_alone():
    x, y, labels, K = two_layers("balanced")
    paired = PairedMoments.from_batch(x, y, labels, K)
    before = [ClassMoments(*(t.clone() for t in vars(side).values())) for side in (paired.first, paired.last)]
    curve = GeodesicCurve(paired)
    _ = curve.pfc1(), curve.pfc2(), curve.cdnv(), LineDecisions.from_batch(x, y, labels, paired)
    for side, kept in zip((paired.first, paired.last), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(vars(side).values(), vars(kept).values(), strict=True))


def test_reprs_name_both_ends():
    x, y, labels, num_classes = two_layers("balanced")
    curve = curve_of(x, y, labels, num_classes, "sample")
    first, last = (direct(x, y, labels, num_classes, t, "sample")["pfc1"] for t in (0.0, 1.0))
    assert repr(curve) == (
        f"GeodesicCurve(24 samples of 4 classes, 7 dimensions, convention 'sample': PFC1 {first:.4g} at t=0, {last:.4g} at t=1)"
    )
    line = LineDecisions.from_batch(x, y, labels, curve.paired, (0.0, 0.5, 0.9))
    first, last = (direct(x, y, labels, num_classes, t)["pfc3"] for t in (0.0, 0.9))
    assert repr(line) == f"LineDecisions(24 samples at 3 positions: PFC3 {first:.4g} at the first, {last:.4g} at the last)"
    assert (first, last) != (last, first)


@pytest.mark.parametrize("is_start", [True, False], ids=["start", "end"])
def test_classes_whose_means_coincide_at_one_end_are_told_apart_on_the_way(is_start):
    labels = torch.arange(3).repeat_interleave(4)
    times = (0.1, 0.4, 0.7, 0.95)
    found, expected = [], []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        # Whole numbers and their negatives, so that the first two means are exactly 0.
        half = torch.randint(-3, 4, (6, 2), generator=generator).double()
        point = torch.stack([half, -half], dim=1).flatten(0, 1) + torch.tensor([[0.0, 0], [0, 0], [5, 0]]).double()[labels]
        apart = torch.randn(12, 2, generator=generator, dtype=torch.float64) + torch.eye(3, 2).double()[labels]
        x, y = (point, apart) if is_start else (apart, point)
        line = LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, 3), times)
        found += line.pfc3().tolist()
        expected += [direct(x, y, labels, 3, t)["pfc3"] for t in times]
    assert found == pytest.approx(expected, abs=1e-12)
    assert min(expected) < 0.7 < max(expected)
