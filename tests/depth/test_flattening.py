"""The flattening theorem, its radius, and the distances from hypotheses about PFC2, against grids, formulas and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ncollapse.depth import GeodesicCurve, flattening, polar_alignment, theorem2
from ncollapse.depth.flattening import _project
from ncollapse.statistics import PairedMoments


def curve(start, end):
    """The line between class means alone, one sample a class; means are rows."""
    start, end = torch.tensor(start), torch.tensor(end)
    return GeodesicCurve(PairedMoments.from_batch(start, end, torch.arange(len(start)), len(start)))


def frames(rng, num_classes, dim):
    """Orthonormal vectors of class means that sum to zero, and of features."""
    ones = np.ones((num_classes, 1))
    left = np.linalg.qr(np.hstack([ones, rng.normal(size=(num_classes, num_classes - 1))]))[0][:, 1:]
    return left, np.linalg.qr(rng.normal(size=(dim, num_classes - 1)))[0].T


def flat_values(rng, m):
    """s in descending order and c that meets the ratio condition: each ratio c_i/c_(i+1) between 1 and s_i/s_(i+1)."""
    ratios = np.exp(rng.uniform(0, rng.choice([0.3, 2.0, 9.0 / m]), size=m - 1))
    powers = rng.uniform(0, 1, size=m - 1)
    s, c = (np.append(np.cumprod(r[::-1])[::-1], 1.0) for r in (ratios, ratios**powers))
    return s * 10 ** rng.uniform(-2, 2), c * 10 ** rng.uniform(-2, 2)


def plain_pfc2(start, end, times):
    """The definition, from the Gram matrix of explicit points of the line."""
    values, K = [], len(start)
    target = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    for t in times:
        means = (1 - t) * start + t * end
        gram = means @ means.T
        values.append(np.linalg.norm(gram / np.linalg.norm(gram) - target))
    return np.array(values)


def rises(start, end, num=101):
    return bool((np.diff(plain_pfc2(start, end, np.linspace(0, 1, num))) > 1e-9).any())


def random_case(seed):
    rng = np.random.default_rng(seed)
    K = int(rng.integers(3, 11))
    left, right = frames(rng, K, K + int(rng.integers(-1, 4)))
    return rng, left, right, *flat_values(rng, K - 1)


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 4060), marks=pytest.mark.slow)])
def test_pfc2_never_rises_between_common_frames_that_flatten(seeds):
    for seed in seeds:
        _, left, right, s, c = random_case(seed)
        start, end = (left * s) @ right, (left * c) @ right
        assert not rises(start, end)
        found = flattening(curve(start, end))
        assert found.guaranteed
        assert found.defect == pytest.approx(0, abs=1e-9)
        assert theorem2(curve(start, end)).monotone


def test_each_half_of_the_ratio_condition_is_needed():
    rng = np.random.default_rng(0)
    left, right = frames(rng, 4, 5)
    for s, c in [([3.0, 2.0, 1.0], [9.0, 2.0, 1.0]), ([3.0, 2.0, 1.0], [1.0, 2.0, 9.0])]:
        start, end = (left * s) @ right, (left * c) @ right
        assert rises(start, end)
        found = flattening(curve(start, end))
        assert found.misalignment == pytest.approx(0, abs=1e-12)
        assert found.ratio_defect > 0.1
        assert not found.guaranteed


def test_common_singular_vectors_are_needed():
    """The same singular values towards an unrelated frame: PFC2 rises for some of them."""
    risen = 0
    for seed in range(40):
        rng, left, right, s, c = random_case(seed)
        other = frames(rng, len(left), right.shape[1])
        start, end = (left * s / np.linalg.norm(s)) @ right, (other[0] * c / np.linalg.norm(c)) @ other[1]
        found = flattening(curve(start, end))
        assert found.misalignment > 0.1
        assert not found.guaranteed
        risen += rises(start, end)
    assert risen > 5


def plain_radius(s, c):
    """The ε with ε a⁴ (10 w + 2 a) = m of docs/theory.md, 3.3, by sums over pairs and bisection."""
    low, m, high = np.minimum(s, c), 0.0, 1.0
    for j in range(len(s)):
        for i in range(j):
            fall = min(s[i] - s[j], c[i] - c[j])
            m += low[i] * low[j] * (low[i] + low[j]) * fall * (s[i] * c[j] - s[j] * c[i])
    least = 0.0
    for _ in range(200):
        change = (least + high) / 2
        a, w = max(np.linalg.norm(s), np.linalg.norm(c)) + change, np.linalg.norm(c - s) + change
        least, high = (least, change) if change * a**4 * (10 * w + 2 * a) > m else (change, high)
    return least


def slope(start, end, t):
    """g of docs/theory.md, 3.3, whose sign is that of the slope of PFC2."""
    here, step = (1 - t) * start + t * end, end - start
    cubic = ((here @ here.T @ here) * step).sum()
    return cubic * (here**2).sum() - np.linalg.norm(here.T @ here) ** 2 * (here * step).sum()


def test_the_radius_is_that_of_the_proof():
    """Its equation, and both inequalities that it joins, at ends of norm one."""
    for seed in range(40):
        rng, left, right, s, c = random_case(seed)
        s, c = s / np.linalg.norm(s), c / np.linalg.norm(c)
        start, end, t = (left * s) @ right, (left * c) @ right, rng.uniform()
        radius = plain_radius(s, c)
        assert flattening(curve(start, end)).radius == pytest.approx(radius, rel=1e-6, abs=1e-14)
        reach = radius if seed % 2 else 10 ** rng.uniform(-3, -1)
        change = rng.normal(size=end.shape)
        change *= reach / np.linalg.norm(change)
        a, w = 1 + reach, np.linalg.norm(s - c) + reach
        change_of_slope = abs(slope(start, end + change, t) - slope(start, end, t))
        assert change_of_slope <= reach * a**4 * (10 * w + 2 * a) * (1 + 1e-9) + 1e-15
        m = radius * (1 + radius) ** 4 * (10 * (np.linalg.norm(c - s) + radius) + 2 * (1 + radius))
        assert slope(start, end, t) <= -m + 1e-12


def check_radius(seeds):
    """No change within the radius lets PFC2 rise: random directions, and those in which it rises first, by descent."""
    num_proven = 0
    for seed in seeds:
        rng, left, right, s, c = random_case(seed)
        start, end = (left * s) @ right, (left * c) @ right
        radius = flattening(curve(start, end)).radius
        assert 0 <= radius < 0.1
        size = np.linalg.norm(end)
        for _ in range(5):
            change = rng.normal(size=end.shape)
            change = change - change.mean(axis=0)
            moved = end + change * (0.9 * radius * size / np.linalg.norm(change))
            assert theorem2(curve(start, moved)).monotone
            found = flattening(curve(start, moved))
            assert found.defect <= 0.9 * radius + 1e-9
            num_proven += found.guaranteed and radius > 1e-7
    return num_proven


def test_pfc2_stands_misalignment_within_the_radius():
    assert check_radius(range(20)) > 20


@pytest.mark.slow
def test_pfc2_stands_misalignment_within_the_radius_at_more_ends():
    assert check_radius(range(1000, 1400)) > 400


def test_beyond_the_radius_pfc2_may_rise_and_towards_an_etf_there_is_none():
    rng = np.random.default_rng(3)
    left, right = frames(rng, 4, 6)
    start, end = (left * [2.0, 1.5, 1.0]) @ right, (left * [1.3, 1.2, 1.0]) @ right
    radius = flattening(curve(start, end)).radius
    assert 1e-5 < radius < 1e-2
    sharper = end + 0.4 * (left[:, :1] * 1.0) @ right[:1]
    moved = sharper + 0.5 * left[:, 1:2] @ rng.normal(size=(1, 6))
    assert rises(start, moved)
    assert flattening(curve(start, (left * [1.0, 1.0, 1.0]) @ right)).radius == 0


def test_distances_against_scipy():
    """Each distance as the least over its set, by SciPy on explicit parameters, and by formulas of polar factors."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        K, dim = int(rng.integers(3, 6)), 6
        start, end = (x - x.mean(axis=0) for x in rng.normal(size=(2, K, dim)))
        end /= np.linalg.norm(end)
        found = flattening(curve(start, 7.0 * end))
        left, s, right = np.linalg.svd(start, full_matrices=False)
        left, s, right = left[:, : K - 1], s[: K - 1], right[: K - 1]

        def flattened(free, left=left, right=right, s=s):
            last, shares = math.exp(free[0]), 1 / (1 + np.exp(-free[1:]))
            logs = np.append(np.cumsum((shares * np.log(s[:-1] / s[1:]))[::-1])[::-1], 0.0)
            return (left * (last * np.exp(logs))) @ right

        def squared(free, flattened=flattened, end=end):
            return np.sum((flattened(free) - end) ** 2)

        runs = [minimize(squared, np.append(-2.0, rng.normal(size=K - 2)), tol=1e-14) for _ in range(3)]
        least = math.sqrt(min(run.fun for run in runs))
        assert found.defect <= least + 1e-9
        # The infimum may lie at an end of a ratio, or at c = 0, which the parameters only come near.
        assert found.defect == pytest.approx(least, abs=2e-3)
        sizes = np.linalg.svd(end, compute_uv=False)[: K - 1]
        assert found.etf_distance == pytest.approx(math.sqrt(1 - sizes.sum() ** 2 / (K - 1)), rel=1e-9)
        polar = left @ right
        inner = max(0.0, float((polar * end).sum()) / (K - 1))
        assert found.polar_distance == pytest.approx(np.linalg.norm(end - inner * polar), rel=1e-9)
        assert max(found.defect, found.etf_distance) <= found.polar_distance + 1e-12
        assert found.misalignment**2 + found.ratio_defect**2 == pytest.approx(found.defect**2, rel=1e-12)


def test_distances_vanish_where_hypotheses_hold():
    rng = np.random.default_rng(1)
    left, right = frames(rng, 5, 7)
    start = (left * [4.0, 3.0, 2.0, 1.0]) @ right
    found = flattening(curve(start, 0.3 * left @ right))
    assert (found.defect, found.etf_distance, found.polar_distance) == (pytest.approx(0, abs=1e-9),) * 3
    assert found.guaranteed
    assert polar_alignment(curve(start, 0.3 * left @ right)).guaranteed
    # An ETF in another direction: Theorem 2 alone is near, and its conditions hold for a small cost.
    near = frames(rng, 5, 7)
    etf = near[0] @ near[1]
    found = flattening(curve(etf + 1e-3 * (left * [4.0, 3.0, 2.0, 1.0]) @ right, etf))
    assert found.etf_distance == pytest.approx(0, abs=1e-9)
    assert found.etf_sufficient
    assert found.defect > 1e-5


def test_no_number_depends_on_units_and_undefined_ends_have_none():
    rng = np.random.default_rng(2)
    start, end = rng.normal(size=(2, 4, 5))
    found, scaled = flattening(curve(start, end)), flattening(curve(1e3 * start, 1e-4 * end))
    for name in ("misalignment", "ratio_defect", "etf_distance", "polar_distance", "radius"):
        assert getattr(scaled, name) == pytest.approx(getattr(found, name), rel=1e-6)
    same = flattening(curve(np.ones((4, 5)), end))
    assert same.guaranteed is None
    assert math.isnan(same.misalignment)
    few = flattening(curve(start[:, :2], end[:, :2]))
    assert math.isnan(few.etf_distance)
    assert math.isnan(few.polar_distance)
    assert few.etf_sufficient is None
    assert few.defect > 0


def test_the_nearest_end_that_flattens_is_a_projection():
    """On a cone: it is in the cone, at a right angle to what is left, and what is left leads out of the cone."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        m = int(rng.integers(1, 7))
        s, c = flat_values(rng, m)
        s /= np.linalg.norm(s)
        along = rng.normal(size=m) + rng.uniform(0, 2)
        nearest = _project(along, s)
        assert (np.diff(nearest) <= 1e-9).all()
        assert (np.diff(nearest / s) >= -1e-9 * (1 / s).max()).all()
        rest = along - nearest
        assert rest @ nearest == pytest.approx(0, abs=1e-9)
        for _ in range(5):
            inside = s ** rng.uniform(0, 1)
            assert rest @ inside <= 1e-9 * (1 + np.linalg.norm(inside))
        # What is in the cone stays.
        assert _project(c, s) == pytest.approx(c, rel=1e-9)


def test_first_means_without_a_direction_are_on_no_polar_frame():
    """Up to a billionth of the largest, however small the others are."""
    rng = np.random.default_rng(5)
    left, right = frames(rng, 4, 6)
    end = (left * [1.0, 1.0, 1.0]) @ right
    for sizes, known in (((1.0, 1e-5, 5e-10), False), ((1.0, 0.5, 5e-10), False), ((1.0, 1e-5, 5e-9), True)):
        assert math.isfinite(flattening(curve((left * sizes) @ right, end)).polar_distance) is known


def test_a_billionth_is_rounding():
    """In the singular values of the first means, and in the distance of an end that has no radius."""
    rng = np.random.default_rng(6)
    left, right = frames(rng, 4, 6)
    end = (left * [1.0, 1.0, 1.0]) @ right
    for share, known in ((0.8e-9, False), (1.5e-9, True)):
        found = flattening(curve((left * [1.0, 0.5, share]) @ right, end))
        assert math.isfinite(found.polar_distance) is known
    start = (left * [3.0, 2.0, 1.0]) @ right
    sideways = frames(np.random.default_rng(7), 4, 6)[0][:, :1] @ np.linalg.svd(right)[2][-1:]
    for share, known in ((0.8e-9, True), (1.5e-9, False)):
        found = flattening(curve(start, end / np.linalg.norm(end) + share * sideways))
        assert found.radius < 1e-10
        assert found.defect == pytest.approx(share, rel=1e-3)
        assert found.guaranteed is known


def test_a_frame_needs_one_dimension_less_than_classes():
    rng = np.random.default_rng(8)
    start, end = rng.normal(size=(2, 4, 3))
    assert math.isfinite(flattening(curve(start, end)).etf_distance)
    assert flattening(curve(start, end)).etf_sufficient in (True, False)


def test_conditions_of_theorem_2_are_those_of_the_nearest_frame():
    """On means of norm one each, since both are about the size of the step as well."""
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        start, end = (x - x.mean(axis=0) for x in rng.normal(size=(2, 4, 6)))
        end = start + rng.uniform(0, 2) * end if seed % 2 else end
        start, end = start / np.linalg.norm(start), end / np.linalg.norm(end)
        left, sizes, right = np.linalg.svd(end, full_matrices=False)
        frame = sizes[:3].mean() * left[:, :3] @ right[:3]
        start = frame + rng.uniform(0, 1) * (start - frame)
        start /= np.linalg.norm(start)
        expected = theorem2(curve(start, frame))
        found = flattening(curve(start, end))
        assert found.etf_sufficient == (expected.sufficient_a or expected.sufficient_b)
        seen.add(found.etf_sufficient)
    assert seen == {True, False}
