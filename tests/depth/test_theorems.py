"""The theorems as predicates: exact tests against dense grids, sufficient conditions, and the counterexample."""

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import reference
from ncollapse.depth import GRID, GeodesicCurve, LineDecisions, polar_alignment, theorem1, theorem2, theorem3
from ncollapse.depth.theorems import _negative_intervals, _pfc2_slope, _roots, _slope, has_distinct_means
from ncollapse.etf import helmert_basis, simplex_etf
from ncollapse.statistics import PairedMoments

DENSE = np.linspace(0.0, 1.0, 1001)


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def curve_of(x, y, labels, num_classes, weights="class"):
    return GeodesicCurve(PairedMoments.from_batch(x, y, labels, num_classes), weights)


def line_of_means(start, end):
    """The line between class means alone, one sample a class."""
    return curve_of(start, end, torch.arange(len(start)), len(start))


def collapsed(seed, num_classes=4, per_class=4, dim=6):
    """Samples that end at their class mean exactly: quarters, whose means are exact in binary."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    ends = torch.randint(-8, 9, (num_classes, dim), generator=generator).double() / 4
    starts = normal(generator, num_classes, dim) + 0.4 * normal(generator, 1) * ends
    return starts[labels] + 0.7 * normal(generator, len(labels), dim), ends[labels], labels


def pfc1_on(x, y, labels, times, weights="class"):
    """By the oracle's covariances of the two ends and their sum: tr Σ(t) is a quadratic fixed by t = 0, 1 and the sum."""
    K, y_ = int(labels.max()) + 1, labels.numpy()

    def traces(H):
        within, between = (f(H.numpy(), y_, K, weights) for f in (reference.within_covariance, reference.between_covariance))
        return np.array([np.trace(within), np.trace(between)])

    start, end = traces(x), traces(y)
    cross = (traces(x + y) - start - end) / 2
    w, b = start[:, None] * (1 - times) ** 2 + 2 * cross[:, None] * times * (1 - times) + end[:, None] * times**2
    return w / b


def test_for_a_collapsed_end_pfc1_falls_exactly_if_the_correlation_is_not_negative():
    positive = 0
    for seed in range(120):
        x, y, labels = collapsed(seed)
        curve = curve_of(x, y, labels, 4)
        result = theorem1(curve)
        means = [reference.means(h.numpy(), labels.numpy(), 4) for h in (x, y)]
        M0, M1 = (m - m.mean(axis=0) for m in means)
        correlation = np.sum(M0 * M1) / 4
        assert result.correlation == pytest.approx(correlation, rel=1e-10)
        assert result.normalized == pytest.approx(np.sum(M0 * M1) / np.linalg.norm(M0) / np.linalg.norm(M1), rel=1e-10)
        assert result.holds == result.monotone == (correlation >= 0)
        values = pfc1_on(x, y, labels, DENSE)
        assert result.monotone == bool((np.diff(values) <= 1e-14).all())
        b2 = np.sum(M1 * M1) / 4
        peak = 0.0 if correlation >= 0 else -correlation / (-correlation + b2)
        assert result.argmax_t == pytest.approx(peak, abs=1e-9)
        assert DENSE[values.argmax()] == pytest.approx(peak, abs=1e-3)
        positive += correlation >= 0
    assert 20 < positive < 100, "both signs must occur"


def test_pfc1_falls_as_told_where_the_end_is_not_collapsed():
    told = []
    for seed in range(150):
        x, y, labels = collapsed(seed)
        generator = torch.Generator().manual_seed(seed)
        y = y + float(normal(generator, 1).abs()) * (x - x.mean(dim=0)) + 0.3 * normal(generator, *y.shape)
        values = pfc1_on(x, y, labels, DENSE)
        told.append(theorem1(curve_of(x, y, labels, 4)).monotone)
        assert told[-1] == bool((np.diff(values) <= 1e-9 * values.max()).all()), seed
    assert 20 < sum(told) < 130


def test_class_means_that_all_begin_at_one_point_have_no_correlation():
    y = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, -1.0], [6.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    result = theorem1(curve_of(x, y, torch.tensor([0, 0, 1, 1]), 2))
    assert (result.holds, result.monotone, result.correlation) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("start", "end", "pole"), [((-1, 1), (2, -2), 1 / 3), ((-1, 1), (0.1, -0.1), 10 / 11), ((3, -1), (-5, 7), 1 / 4)]
)
@pytest.mark.parametrize("end_noise", [0.0, 0.1, 1.0, -0.4])
def test_pfc1_is_largest_where_the_class_means_cross(start, end, pole, end_noise):
    labels = torch.arange(2).repeat(20)
    noise = normal(torch.Generator().manual_seed(0), 40, 1)
    noise = noise - torch.stack([noise[labels == k].mean(0) for k in range(2)])[labels]
    x = torch.tensor(start, dtype=torch.float64)[labels, None] + 0.1 * noise
    y = torch.tensor(end, dtype=torch.float64)[labels, None] + end_noise * noise
    for rotation in (torch.eye(1).double(), torch.tensor([[0.6, 0.8, 0.0]]).double()):
        result = theorem1(curve_of(x @ rotation, y @ rotation, labels, 2))
        assert result.argmax_t == pytest.approx(pole, abs=1e-9)
        assert (result.holds, result.monotone) == (False, False)


@pytest.mark.parametrize("factor", [-2.0, -0.3])
def test_features_that_are_turned_over_as_a_whole_have_no_pole(factor):
    # PFC1 is the same all along the line, but for the point at which nothing is left.
    x = normal(torch.Generator().manual_seed(0), 40, 1)
    assert theorem1(curve_of(x, factor * x, torch.arange(40) % 2, 2)).argmax_t in (0.0, 1.0)


@pytest.mark.parametrize("exponent", [-140, -80, 80, 140])
@pytest.mark.parametrize("spread", [0.1, 0.0, "start"])
def test_the_theorems_do_not_depend_on_the_scale(exponent, spread):
    """Collapsed at the end, at the start, or nowhere."""
    for seed in range(8):
        x, y, labels = collapsed(seed)
        x, y = (y, x) if spread == "start" else (x, y + spread * x)
        curves = [curve_of(s * x, s * y, labels, 4) for s in (1.0, 10.0**exponent)]
        first, other = (theorem1(curve) for curve in curves)
        assert (first.holds, first.monotone) == (other.holds, other.monotone)
        assert (other.normalized, other.argmax_t) == pytest.approx((first.normalized, first.argmax_t), rel=1e-9)
        first, other = (theorem2(curve) for curve in curves)
        for name in ("monotone", "sufficient_a", "sufficient_b"):
            assert getattr(first, name) == getattr(other, name)
        assert other.end_distance == pytest.approx(first.end_distance, rel=1e-9)


def test_an_end_collapsed_up_to_rounding_is_a_collapsed_end():
    wrong = 0
    for seed in range(40):
        x, y, labels = collapsed(seed, per_class=7)
        y = torch.where(y == 0, y, y / 3)
        result = theorem1(curve_of(x, y, labels, 4))
        wrong += result.monotone != result.holds
    assert wrong == 0


def test_for_general_ends_the_exact_test_agrees_with_a_dense_grid():
    rising = 0
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 3, 4]))
        x = normal(generator, 3, 4)[labels] + normal(generator, 12, 4)
        y = normal(generator, 3, 4)[labels] + (0.3 * seed / 150) * normal(generator, 12, 4) + 0.3 * x
        weights = ("class", "sample")[seed % 2]
        result = theorem1(curve_of(x, y, labels, 3, weights))
        values = pfc1_on(x, y, labels, DENSE, weights)
        largest = np.diff(values).max()
        if not -1e-9 < largest < 1e-9:
            assert result.monotone == (largest <= 0)
            rising += largest > 0
        assert pfc1_on(x, y, labels, np.array([result.argmax_t]), weights)[0] >= values.max() - 1e-12 * abs(values.max())
        assert abs(result.normalized) <= 1
    assert 10 < rising < 140


def test_the_coefficients_are_those_of_the_derivative():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat(5)
    x = normal(generator, 15, 4) + normal(generator, 3, 4)[labels]
    y = normal(generator, 15, 4) + 2 * normal(generator, 3, 4)[labels]
    curve = curve_of(x, y, labels, 3)
    a, beta, c = theorem1(curve).coefficients
    b0, b1, b2 = (float(b) for b in curve.between_coefficients())
    for t in (0.0, 0.3, 0.6, 1.0):
        before, after = pfc1_on(x, y, labels, np.array([t - 1e-5, t + 1e-5]))
        between = b0 * (1 - t) ** 2 + 2 * b1 * t * (1 - t) + b2 * t**2
        slope = 2 * (a * (1 - t) ** 2 + beta * t * (1 - t) + c * t**2) / between**2
        assert (after - before) / 2e-5 == pytest.approx(slope, rel=1e-6)


def test_two_falling_ends_with_a_rise_between_need_a_positive_middle_coefficient():
    """β > 0, a <= 0 and c <= 0 leave no room for β² <= 4ac, for all traces that features can have."""
    rng = np.random.default_rng(0)
    w0, w2, b0, b2 = 10 ** rng.uniform(-3, 3, size=(4, 200_000))
    # Near the Cauchy-Schwarz bound, where 4ac comes closest to β².
    w1, b1 = ((1 - 2 * rng.beta(0.3, 0.3, size=w0.shape)) * np.sqrt(x * y) for x, y in ((w0, w2), (b0, b2)))
    a, beta, c = w1 * b0 - w0 * b1, w2 * b0 - w0 * b2, w2 * b1 - w1 * b2
    between = (a <= 0) & (c <= 0) & (beta > 0)
    assert between.sum() > 1000
    ratio = 4 * a[between] * c[between] / beta[between] ** 2
    assert 0.9 < ratio.max() < 1


def test_falling_at_the_start_is_not_enough():
    # w = (1, 0, 1), b = (4, 4, 4): PFC1 falls to its minimum halfway and rises to where it was.
    labels = torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[3.0, 0], [1, 0], [-1, 0], [-3, 0]], dtype=torch.float64)
    y = torch.tensor([[2.0, 1], [2, -1], [-2, 1], [-2, -1]], dtype=torch.float64)
    result = theorem1(curve_of(x, y, labels, 2))
    assert result.coefficients == (-4.0, 0.0, 4.0)
    assert result.holds
    assert not result.monotone


def test_falling_at_both_ends_is_not_enough():
    # w = (1, -.9, 2), b = (1, -.8, 1): PFC1 falls at t = 0 and t = 1, but from 1 to 2 in all.
    labels = torch.tensor([0, 0, 1, 1])
    side, residual = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    x = torch.stack([side, 0 * side, residual, 0 * side], dim=1).double()
    y = torch.stack([-0.8 * side, 0.6 * side, -0.9 * residual, math.sqrt(1.19) * residual], dim=1).double()
    result = theorem1(curve_of(x, y, labels, 2))
    assert result.coefficients == pytest.approx((-0.1, 1.0, -0.7), abs=1e-6)
    assert not result.monotone
    assert 0 < result.argmax_t < 1


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_theorem_1_does_not_depend_on_units(scale):
    for seed in range(20):
        x, y, labels = collapsed(seed)
        one, other = (theorem1(curve_of(s * x, s * y, labels, 4)) for s in (1.0, scale))
        assert (one.holds, one.monotone) == (other.holds, other.monotone)
        assert one.argmax_t == pytest.approx(other.argmax_t, abs=1e-9)


@pytest.mark.parametrize("is_start", [True, False], ids=["start", "end"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e8])
def test_class_means_that_coincide_leave_the_theorems_undefined(scale, is_start):
    # As of a class token before the first block: the same for all samples, here up to rounding.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10).repeat(41)
    spread = normal(generator, 10, 16)[labels] + 1e-3 * normal(generator, 410, 16)
    rounding = torch.finfo(torch.float64).eps * torch.randint(2, (410, 16), generator=generator).double()
    point = scale * normal(generator, 16) * (1 + rounding)
    ends = (point, spread) if is_start else (spread, point)
    batches = zip(*(tensor.split(37) for tensor in (*ends, labels)), strict=True)
    curve = GeodesicCurve(functools.reduce(PairedMoments.merge, [PairedMoments.from_batch(*batch, 10) for batch in batches]))
    one, two = theorem1(curve), theorem2(curve)
    assert (one.holds, one.monotone, two.monotone, two.sufficient_a) == (None, None, None, None)
    assert math.isnan(one.normalized)
    assert math.isnan(one.argmax_t)
    assert math.isnan(polar_alignment(curve).alignment)


def test_theorem_1_of_an_empty_class_is_undefined():
    x, y, labels = collapsed(0)
    result = theorem1(curve_of(x, y, labels, 5))
    assert math.isnan(result.correlation)
    assert (result.holds, result.monotone) == (None, None)
    assert math.isnan(result.argmax_t)


def test_theorem_2_of_an_empty_class_is_undefined():
    x, y, labels = collapsed(0)
    result = theorem2(curve_of(x, y, labels, 5))
    assert (result.monotone, result.intervals, result.sufficient_a, result.sufficient_b) == (None, (), None, None)
    assert math.isnan(result.relative_cost)
    assert math.isnan(result.end_distance)


def pfc2_on(start, end, times):
    """By explicit Gram matrices of the centered means."""
    start, end = (m.numpy() - m.numpy().mean(axis=0) for m in (start, end))
    M = (1 - times)[:, None, None] * start + times[:, None, None] * end
    G = M @ M.transpose(0, 2, 1)
    return np.linalg.norm(G / np.linalg.norm(G, axis=(1, 2), keepdims=True) - reference.etf_gram(len(start)), axis=(1, 2))


def assert_intervals_agree(result, values):
    middle, steps = (DENSE[:-1] + DENSE[1:]) / 2, np.diff(values)
    width = DENSE[1]
    for t, step in zip(middle, steps, strict=True):
        if step > 1e-9:
            assert any(t0 - width < t < t1 + width for t0, t1 in result.intervals)
        if step < -1e-9:
            assert not any(t0 + width < t < t1 - width for t0, t1 in result.intervals)
    assert result.monotone == (result.intervals == ())
    # A bump of PFC2 near a smooth 0 is flat: only a rise seen on the grid, or none at all, is certain.
    if steps.max() > 1e-9:
        assert not result.monotone


@pytest.mark.parametrize("etf_end", [True, False])
def test_the_exact_test_of_pfc2_agrees_with_a_dense_grid(etf_end):
    monotone = 0
    for seed in range(120):
        generator = torch.Generator().manual_seed(seed)
        num_classes = 3 + seed % 3
        end = 1.5 * simplex_etf(num_classes, 7) if etf_end else normal(generator, num_classes, 7) + simplex_etf(num_classes, 7)
        start = end + (0.2 + seed / 40) * normal(generator, num_classes, 7)
        result = theorem2(line_of_means(start, end))
        values = pfc2_on(start, end, DENSE)
        assert_intervals_agree(result, values)
        if result.monotone:
            assert (np.diff(values) <= 1e-12).all()
        centered = start - start.mean(dim=0), end - end.mean(dim=0)
        cost = float((centered[0] - centered[1]).norm() / centered[1].norm())
        assert result.relative_cost == pytest.approx(cost, rel=1e-12)
        assert result.end_distance == pytest.approx(values[-1], abs=1e-12)
        monotone += result.monotone
    assert 5 < monotone < 115


def sufficient_conditions(start, end):
    """(A) and (B) of the theory page, as printed; classes in columns."""
    M0, M1 = start.numpy().T, end.numpy().T
    D = M0 - M1
    D = D - D.mean(axis=1, keepdims=True)
    K = D.shape[1]
    m, P = K - 1, np.eye(K) - 1 / K
    c2 = np.trace(M1.T @ M1) / m
    S, DD = M1.T @ D + D.T @ M1, D.T @ D
    s, d = np.trace(S) / m, np.trace(DD) / m
    S0, D0 = S - s * P, DD - d * P
    nS, nD = np.linalg.norm(S0), np.linalg.norm(D0)
    a = np.sum(S0 * D0) >= 0 and np.linalg.norm(D) <= np.linalg.norm(M1)
    return a, d < c2 and nS > nD and (c2 - d) * (nS - nD) >= (c2 + max(s, 0) + d) * nD


def test_either_sufficient_condition_implies_that_pfc2_falls():
    found = {"a": 0, "b": 0, "neither": 0, "rises": 0}
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        num_classes = 3 + seed % 4
        end = 2 * simplex_etf(num_classes, 7)
        start = end + 10 ** (1.6 * float(torch.rand(1, generator=generator)) - 1.3) * normal(generator, num_classes, 7)
        result = theorem2(line_of_means(start, end))
        assert (result.sufficient_a, result.sufficient_b) == sufficient_conditions(start, end)
        assert result.monotone or not (result.sufficient_a or result.sufficient_b)
        found["a"] += result.sufficient_a
        found["b"] += result.sufficient_b
        found["neither"] += not (result.sufficient_a or result.sufficient_b)
        found["rises"] += not result.monotone
    assert min(found.values()) > 5, found


def counterexample(relative_cost, a=0.5, num_classes=5):
    """Means at distance `relative_cost` from an ETF whose PFC2 is 0 at t = 1-a and rises behind it.

    With the Gram matrix c²Π + εS + ε²D at ε = 1-t, S₀ = -aD₀ makes its traceless part ε(ε-a)D₀. All matrices share the
    Helmert basis: shares x inside the span of the end, and √o outside of it, with o = -2x/a - x² + const.
    """
    m = num_classes - 1
    basis = helmert_basis(num_classes).T  # (K, m), orthonormal columns; the end is the basis itself, c = 1
    low, high = 0.0, 10.0
    for _ in range(200):
        size = (low + high) / 2
        x = -size * torch.linspace(0.2, 1.0, m, dtype=torch.float64)
        outside = -2 * x / a - x**2
        outside = outside - outside.min()
        cost = math.sqrt(float((outside + x**2).sum()) / m)
        low, high = (size, high) if cost < relative_cost else (low, size)
    end = torch.cat([basis, torch.zeros_like(basis)], dim=1)
    return end + torch.cat([basis * x, basis * outside.clamp(min=0).sqrt()], dim=1), end


@pytest.mark.parametrize("cost", [1.0, 0.3, 0.1, 0.03])
def test_the_counterexample_rises_at_any_cost(cost):
    start, end = counterexample(cost)
    result = theorem2(line_of_means(start, end))
    assert result.relative_cost == pytest.approx(cost, rel=1e-6)
    assert not result.monotone
    assert not result.sufficient_a
    assert not result.sufficient_b
    values = pfc2_on(start, end, np.array([0.5 - 1e-3, 0.5, 0.5 + 1e-3]))
    assert values[1] < 1e-12 < min(values[0], values[2])
    (interval,) = result.intervals
    assert interval[0] == pytest.approx(0.5, abs=1e-6)
    assert interval[0] < interval[1] < 1
    assert_intervals_agree(result, pfc2_on(start, end, DENSE))


def test_a_rise_up_to_the_end_is_an_interval_that_ends_at_one():
    start = simplex_etf(4, 3)
    end = start * torch.tensor([3.0, 1.0, 0.5])
    result = theorem2(line_of_means(start, end))
    assert result.intervals == ((0.0, 1.0),)
    assert not result.monotone
    assert_intervals_agree(result, pfc2_on(start, end, DENSE))


def test_a_shift_along_the_frame_meets_no_sufficient_condition_b():
    # S₀ = D₀ = 0: (B) asks for ‖S₀‖ > ‖D₀‖, though PFC2 is constant.
    end = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    result = theorem2(line_of_means(1.5 * end, end))
    assert (result.monotone, result.sufficient_a, result.sufficient_b) == (True, True, False)


def test_touching_intervals_are_one():
    merged = 0
    for root in range(1, 40):
        intervals = _negative_intervals(np.array([-float(root**2), 2.0 * root, -1.0]))
        assert (intervals[0][0], intervals[-1][1]) == (0.0, math.inf)
        # Where rounding parts the double root, a gap of its size may stay.
        assert all(0 < after[0] - before[1] < 1e-6 * root for before, after in pairwise(intervals))
        merged += len(intervals) == 1
    assert merged > 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_theorem_2_does_not_depend_on_units(scale):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        start, end = normal(generator, 5, 7), normal(generator, 5, 7)
        one, other = (theorem2(line_of_means(s * start, s * end)) for s in (1.0, scale))
        assert np.array(one.intervals) == pytest.approx(np.array(other.intervals), abs=1e-9)


@pytest.mark.parametrize("seeds", [50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 1e3, 1e4])
def test_the_scale_of_one_end_only_changes_the_clock(scale, seeds):
    # (1-t)M₀ + t·cM_L runs through the same directions as (1-t)M₀ + tM_L, so PFC2 takes the same values.
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        start, end = normal(generator, 5, 7), normal(generator, 5, 7)
        one, other = theorem2(line_of_means(start, end)), theorem2(line_of_means(start, scale * end))
        assert one.monotone == other.monotone
        assert len(one.intervals) == len(other.intervals)
        for interval, scaled in zip(one.intervals, other.intervals, strict=True):
            # Back on the clock of the unscaled line: s = t/(1-t) counts `scale` times as much.
            assert [t * scale / (t * scale + 1 - t) for t in scaled] == pytest.approx(interval, abs=1e-6)


@pytest.mark.parametrize("case", ["two_classes", "both_ends_frames"])
def test_a_constant_pfc2_does_not_rise(case):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        start, end = normal(generator, 2, 4), normal(generator, 2, 4)
        if case == "both_ends_frames":
            end = simplex_etf(5, 7)
            start = (0.2 + seed) * end
        assert theorem2(line_of_means(start, end)).monotone


def test_without_violating_pairs_the_accuracy_never_falls():
    guaranteed = falls = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(4).repeat_interleave(4)
        ends = torch.randint(-8, 9, (4, 3), generator=generator).double() / 4
        starts = 1.2 * normal(generator, 4, 3) + (seed % 4 - 0.5) * ends
        x, y = starts[labels] + (0.2 + 0.1 * (seed % 10)) * normal(generator, 16, 3), ends[labels]
        paired = PairedMoments.from_batch(x, y, labels, 4)
        line = LineDecisions.from_batch(x, y, labels, paired, GRID[::2])
        result = theorem3(line)
        assert (result.violating_pairs, result.num_pairs) == (int(line.violating_pairs), 48)
        assert result.guaranteed == (result.violating_pairs == 0)
        decreasing = bool((line.correct.diff() < 0).any())
        assert not (result.guaranteed and decreasing)
        assert (result.num_falls > 0, result.num_steps) == (decreasing, 50)
        guaranteed += result.guaranteed
        falls += decreasing
    assert guaranteed > 30
    assert falls > 30


def test_a_guarantee_for_a_collapsed_end_does_not_bind_the_measured_one():
    """One sample of the second class is passed by a rival mean near the end, though the first layer violates nothing."""
    labels = torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[-2.0], [-1], [1], [2]], dtype=torch.float64)
    y = torch.tensor([[-2.0], [-2], [-1], [5]], dtype=torch.float64)
    line = LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, 2))
    result = theorem3(line)
    assert result.guaranteed
    assert (line.correct[0], line.correct[-1]) == (4, 3)
    assert (result.num_falls, result.num_steps) == (1, 100)


def test_an_empty_class_guarantees_nothing():
    x, y, labels = collapsed(0)
    result = theorem3(LineDecisions.from_batch(x, y, labels, PairedMoments.from_batch(x, y, labels, 5)))
    assert (result.guaranteed, result.violating_pairs, result.num_pairs, result.num_falls) == (None, None, 64, None)


@pytest.mark.parametrize("largest", range(4))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_coefficients_are_rounding_relative_to_the_largest_of_their_products(largest, sign):
    """Which of the four it is depends on the units of the two layers."""
    w, b = [(3.0, 1e-3, 1e-3), (1e-3, 3.0, 1e-3), (3.0, 1e-3, 1e-3), (1e-3, 1e-3, 3.0)][largest], (1e-3, 2.0, 1e-3)
    b = b if largest == 0 else (1e-3, 1e-3, 2.0) if largest == 2 else (2.0, 1e-3, 1e-3)
    assert _slope([sign * x for x in w], b)[1] == pytest.approx(6e-12, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_slope_of_pfc2_does_not_depend_on_the_unit(unit):
    """Nor does what of it is rounding: of two frames all is."""
    generator = torch.Generator().manual_seed(3)
    start, end = normal(generator, 5, 7), normal(generator, 5, 7)
    frame = simplex_etf(5, 7)
    for ends, is_rounding in (((start, end), False), ((frame, 3.1 * frame), True)):
        grams = [gram.numpy() for gram in line_of_means(*ends).gram_coefficients()]
        expected, found = _pfc2_slope(*grams), _pfc2_slope(*(unit * gram for gram in grams))
        assert (expected == 0).all() == (found == 0).all() == is_rounding
        assert is_rounding or found / unit**3 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [0.95, 1.0, 1.05])
@pytest.mark.parametrize(("start", "end", "pole"), [((-1, 1), (2, -2), 1 / 3), ((-1, 1), (0.1, -0.1), 10 / 11)])
def test_a_pole_that_the_samples_nearly_share(share, start, end, pole):
    """Where every sample crosses its own mean too, PFC1 is the same on both sides; a little off, it is infinite there."""
    labels = torch.arange(2).repeat(20)
    noise = normal(torch.Generator().manual_seed(0), 40, 1)
    noise = 0.1 * (noise - torch.stack([noise[labels == k].mean(0) for k in range(2)])[labels])
    x = torch.tensor(start, dtype=torch.float64)[labels, None] + noise
    y = torch.tensor(end, dtype=torch.float64)[labels, None] - share * (1 - pole) / pole * noise
    found = theorem1(curve_of(x, y, labels, 2)).argmax_t
    assert found == pytest.approx(pole, abs=1e-9) if share != 1 else found in (0.0, 1.0)


def test_a_cost_of_one_meets_the_first_condition():
    frame = simplex_etf(4, 3)
    for factor, holds in ((2.0, True), (2.001, False)):
        result = theorem2(line_of_means(factor * frame, frame))
        assert (result.relative_cost, result.sufficient_a) == (pytest.approx(factor - 1), holds)


def test_pfc_is_undefined_exactly_where_the_class_means_of_an_end_do_not_differ():
    """One rounding floor for both: no number where a theorem finds nothing to say, and none missing where it does."""
    generator = torch.Generator().manual_seed(9)
    labels, spread = torch.arange(3).repeat(4), normal(generator, 3, 5)
    offset, end = 1e4 * normal(generator, 5), normal(generator, 3, 5)[labels]
    floor = curve_of(offset.expand(12, 5), end, labels, 3).paired.first.rounding_floor
    size, seen = float((3 * floor / (spread - spread.mean(dim=0)).square().sum()).sqrt()), set()
    for exponent in np.linspace(-0.5, 0.5, 161):
        start = offset + size * 10**exponent * spread[labels]
        curve = curve_of(start, end, labels, 3)
        distinct = has_distinct_means(curve)
        assert bool(curve.pfc2([0.0]).isnan()) is not distinct
        assert (theorem1(curve).holds is not None) is distinct
        seen.add(distinct)
    assert seen == {True, False}


def counted(x, y, labels, num_classes):
    """Pairs as the theory page has them, in whole numbers: ties are no violations."""
    means = [np.array([h[labels == k].mean(axis=0) for k in range(num_classes)]) for h in (x, y)]
    count, ties = 0, 0
    for h, own in zip(x, labels, strict=True):
        for j in set(range(num_classes)) - {own}:
            delta_a = np.sum((h - means[0][j]) ** 2) - np.sum((h - means[0][own]) ** 2)
            b = np.dot(h - means[0][j], means[1][own] - means[1][j])
            c = np.sum((means[1][own] - means[1][j]) ** 2)
            count += delta_a > 0 and b < 0 and b * b > delta_a * c
            ties += delta_a == 0 or b == 0 or b * b == delta_a * c
    return count, ties


def test_violating_pairs_are_counted_with_their_ties():
    count = ties = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.arange(2).repeat(2)
        x, y = rng.integers(-2, 3, size=(2, 4, 2)).astype(float)
        y = np.array([y[labels == k].mean(axis=0) for k in labels])
        paired = PairedMoments.from_batch(*map(torch.tensor, (x, y, labels)), 2)
        line = LineDecisions.from_batch(*map(torch.tensor, (x, y, labels)), paired)
        if bool((paired.separations[0][0, 1] == 0) | (paired.separations[2][0, 1] == 0)):
            continue
        found = counted(x, y, labels, 2)
        assert int(line.violating_pairs) == found[0], seed
        count, ties = count + found[0], ties + found[1]
    assert min(count, ties) > 20


def slope_and_terms(start, cross, end):
    """2T'N and TN' of the theory page, 3.3, entry by entry: the largest of their differences, and of themselves."""
    trace = np.polynomial.Polynomial([np.trace(start), 2 * np.trace(cross), np.trace(end)])
    entries = [np.polynomial.Polynomial(part) for part in zip(start.ravel(), 2 * cross.ravel(), end.ravel(), strict=True)]
    norm = sum(entry * entry for entry in entries)
    rising, falling = 2 * trace.deriv() * norm, trace * norm.deriv()
    terms = max(np.abs(rising.coef).max(), np.abs(falling.coef).max())
    return np.abs((rising - falling).coef).max(), terms


@pytest.mark.parametrize(("share", "is_rounding"), [(0.7e-10, True), (1.5e-10, False)])
def test_a_slope_of_a_ten_billionth_of_its_terms_is_rounding(share, is_rounding):
    """The end is a frame but for a part beside it, whose square decides."""
    frame, drawn = np.eye(4) - 1 / 4, np.random.default_rng(0).normal(size=(4, 4))
    beside = frame @ (drawn + drawn.T) @ frame
    beside -= np.trace(beside) / 3 * frame
    slope, terms = slope_and_terms(frame, 0.3 * frame, frame + 1e-2 * beside)
    size = 1e-2 * math.sqrt(share * terms / slope)
    grams = frame, 0.3 * frame, frame + size * beside
    slope, terms = slope_and_terms(*grams)
    assert slope / terms == pytest.approx(share, rel=1e-2)
    assert (_pfc2_slope(*grams) == 0).all() == is_rounding


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_intervals_lie_between_the_roots(sign):
    """Of single roots the sign changes at each, from the first to infinity."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        roots = np.cumsum(rng.uniform(0.1, 1, size=rng.integers(1, 5))) + rng.integers(0, 5)
        # Roots that are negative or not real change nothing.
        others = np.polynomial.Polynomial([2.0, 1.0, 1.0]) * np.polynomial.Polynomial.fromroots([-0.5, -3.0])
        found = _negative_intervals(sign * (np.polynomial.Polynomial.fromroots(roots) * others).coef)
        edges = [0.0, *roots, math.inf]
        begin = len(roots) % 2 if sign > 0 else 1 - len(roots) % 2
        expected = list(pairwise(edges))[1 - begin :: 2]
        assert np.array(found) == pytest.approx(np.array(expected), rel=1e-6)


def test_turns_are_told_between_the_ends_alone():
    # t(1-t) - t² is zero at 1/2, and at 0.
    assert _roots(0.0, 1.0, -1.0) == [0.5]
    assert _roots(-1.0, 1.0, 0.0) == [0.5]
