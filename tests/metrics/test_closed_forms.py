"""NC1, NC2, CDNV and PFC2 in closed form: exact frames, isotropic noise, bounds and floors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, layer_statistics, statistics_of
from ncollapse import metrics as m
from ncollapse.etf import simplex_etf
from ncollapse.metrics import METRICS, evaluate_metrics, gram_distance
from ncollapse.statistics import ClassCenters, ClassMoments

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centered(rows):
    return rows - rows.mean(dim=0)


def isotropic(means, sigma):
    """Samples whose class means are exactly `means` and whose class covariances are exactly sigma² I."""
    num_classes, dim = means.shape
    steps = sigma * math.sqrt(dim) * torch.cat([torch.eye(dim), -torch.eye(dim)]).double()
    features = (means[:, None, :] + steps).reshape(-1, dim)
    return features, torch.arange(num_classes).repeat_interleave(2 * dim)


def values_of(features, labels, num_classes):
    statistics = layer_statistics(features, labels, num_classes)
    return {v.metric: v for v in evaluate_metrics(statistics, list(METRICS.values()))}


# --- NC1, CDNV and separation under isotropic noise (2.1, 2.7, 2.12) ---


@pytest.mark.parametrize(("num_classes", "dim", "sigma", "radius"), [
    (4, 6, 0.3, 2.0), (3, 2, 1.0, 1.0), (10, 9, 0.01, 5.0), (2, 3, 0.7, 0.5), (10, 20, 2.0, 1.0),
])  # fmt: skip
def test_isotropic_noise_around_a_frame(num_classes, dim, sigma, radius):
    frame = simplex_etf(num_classes, dim, generator=torch.Generator().manual_seed(1))
    values = values_of(*isotropic(radius * frame + 3.0, sigma), num_classes)
    K, ratio = num_classes, dim * sigma**2 / radius**2
    expected = {
        "nc1": (K - 1) ** 2 * sigma**2 / (K * radius**2),
        "separation": (K - 1) ** 2 * sigma**2 / radius**2,
        "pfc1": ratio,
        "nc1_total": ratio / (1 + ratio),
        "cdnv": ratio * (K - 1) / (2 * K),
        "rank_between": K - 1,
        "stable_rank_between": K - 1,
        "participation_ratio_between": K - 1,
        "entropy_rank_between": K - 1,
        "rank_total": dim,
    }
    # Σ_T has K-1 eigenvalues σ² + a²/(K-1), the others are σ².
    large, small = sigma**2 + radius**2 / (K - 1), sigma**2
    spectrum = [large] * (K - 1) + [small] * (dim - K + 1)
    total = sum(spectrum)
    expected |= {
        "stable_rank_total": total / large,
        "participation_ratio_total": total**2 / sum(x * x for x in spectrum),
        "entropy_rank_total": math.exp(-sum(x / total * math.log(x / total) for x in spectrum)),
    }
    assert {id: values[id].value for id in expected} == pytest.approx(expected, rel=1e-11)


def test_the_numbers_of_theory_2_1():
    values = values_of(*isotropic(2.0 * simplex_etf(4, 6), 0.3), 4)
    assert values["nc1"].value == pytest.approx(0.050625, rel=1e-12)
    assert values["pfc1"].value == pytest.approx(0.135, rel=1e-12)


def test_nc1_without_the_division_by_the_number_of_classes():
    statistics = statistics_of(CASES["imbalanced"])
    divided = m.between_inverse_trace(statistics.centers, statistics.within)
    whole = m.between_inverse_trace(statistics.centers, statistics.within, divide_by_classes=False)
    assert float(whole) == pytest.approx(4 * float(divided), rel=1e-15)


def test_directions_that_the_means_lack_are_left_out_of_nc1():
    # Means on one axis, variance 9 along it and 100 across: only the axis counts.
    means = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    steps = torch.tensor([[3.0, 10.0], [3.0, -10.0], [-3.0, 10.0], [-3.0, -10.0]], dtype=torch.float64)
    features, labels = (means[:, None] + steps).reshape(-1, 2), torch.arange(3).repeat_interleave(4)
    value = values_of(features, labels, 3)["nc1"]
    assert value.value == pytest.approx(9 / (8 / 3) / 3, rel=1e-13)
    assert value.flags == ("rank_deficient", "undersampled")


@pytest.mark.parametrize(("gap", "rank"), [(1e-5, 2), (1e-9, 1)])
def test_an_eigenvalue_below_the_relative_cutoff_counts_as_zero(gap, rank):
    # The eigenvalues of Σ_B are 8/3 and gap²/2; the cutoff is 10 · 3 · eps of the largest.
    means = torch.tensor([[-2.0, gap / 2], [0.0, -gap], [2.0, gap / 2]], dtype=torch.float64)
    features, labels = isotropic(means, 0.5)
    value = values_of(features, labels, 3)["nc1"]
    assert value.flags == (("undersampled",) if rank == 2 else ("rank_deficient",))
    expected = 0.25 / (8 / 3) + (0.25 / (gap**2 / 2) if rank == 2 else 0)
    assert value.value == pytest.approx(expected / 3, rel=1e-6)


def test_cdnv_of_two_classes_and_its_exponent():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 4.0], [5.0, 0.0]], dtype=torch.float64)
    moments = ClassMoments.from_batch(features, torch.tensor([0, 0, 1, 1]), 2)
    # Means (1, 0) and (5, 2), variances 1 and 4.
    assert float(m.cdnv(moments)) == pytest.approx(5 / (2 * 20), rel=1e-14)
    assert float(m.cdnv(moments, dist_exp=2)) == pytest.approx(5 / (2 * 400), rel=1e-14)
    matrix = m.cdnv_matrix(moments, dist_exp=2)
    assert torch.isnan(matrix).tolist() == [[True, False], [False, True]]
    assert matrix[0, 1] == matrix[1, 0]
    assert float(matrix[0, 1]) == pytest.approx(5 / 800, rel=1e-14)


def test_cdnv_is_the_mean_over_pairs_of_its_matrix():
    moments = statistics_of(CASES["imbalanced"]).moments
    matrix = m.cdnv_matrix(moments)
    assert torch.equal(matrix.isnan(), torch.eye(4, dtype=torch.bool))
    assert torch.allclose(matrix, matrix.T, equal_nan=True)
    above = torch.triu(torch.ones(4, 4), 1).bool()
    assert float(m.cdnv(moments)) == pytest.approx(float(matrix[above].mean()), rel=1e-14)
    assert torch.equal(matrix.isnan(), m.cdnv_matrix(moments).isnan())


@given(st.integers(2, 5), st.integers(1, 5), st.floats(0.05, 3.0), SEEDS)
def test_nearest_center_error_is_at_most_four_k_minus_one_times_cdnv(num_classes, dim, noise, seed):
    labels = torch.arange(num_classes).repeat_interleave(torch.arange(2, 2 + num_classes))
    means = normal(seed, num_classes, dim)
    features = means[labels] + noise * normal(seed + 1, len(labels), dim)
    statistics = layer_statistics(features, labels, num_classes)
    error = m.ncc_error(statistics.within, balanced=True)
    assert float(error) <= 4 * (num_classes - 1) * float(m.cdnv(statistics.moments)) + 1e-12


# --- NC2 and PFC2 (2.2-2.4, 3.2) ---


@given(st.integers(3, 8), st.integers(1, 10), SEEDS)
def test_pfc2_is_a_function_of_the_participation_ratio(num_classes, dim, seed):
    means = centered(normal(seed, num_classes, dim))
    gram = means @ means.T
    ratio = float(gram.trace() ** 2 / gram.square().sum())
    value = float(m.etf_distance(means))
    assert value == pytest.approx(math.sqrt(2 * (1 - math.sqrt(ratio / (num_classes - 1)))), abs=1e-7, rel=1e-9)
    assert value <= math.sqrt(2 * (1 - 1 / math.sqrt(num_classes - 1))) + 1e-12
    floor = math.sqrt(2 * (1 - math.sqrt(min(dim, num_classes - 1) / (num_classes - 1))))
    assert value >= floor - 1e-12
    statistics = layer_statistics(means, torch.arange(num_classes), num_classes)
    (spectrum,) = evaluate_metrics(statistics, [METRICS["participation_ratio_between"]])
    assert spectrum.value == pytest.approx(ratio, rel=1e-10)


@given(st.integers(2, 7), st.integers(1, 7), SEEDS)
def test_gram_distance_identity_holds_without_centering(num_classes, dim, seed):
    gram = normal(seed, num_classes, dim)
    gram = gram @ gram.T
    inner = gram.trace() - gram.sum() / num_classes
    expected = 2 - 2 * inner / (math.sqrt(num_classes - 1) * torch.linalg.norm(gram))
    value = gram_distance(gram, torch.eye(num_classes, dtype=torch.float64))
    assert float(value) ** 2 == pytest.approx(float(expected), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("num_classes", "bound"), [(3, 0.765367), (4, 0.919402), (10, 1.154701)])
def test_means_on_a_line_reach_the_upper_bound_of_pfc2(num_classes, bound):
    line = centered(torch.arange(num_classes).double()[:, None].square() @ torch.tensor([[3.0, -4.0]]).double())
    value = float(m.etf_distance(line))
    assert value == pytest.approx(math.sqrt(2 * (1 - 1 / math.sqrt(num_classes - 1))), rel=1e-13)
    assert value == pytest.approx(bound, abs=5e-7)


@pytest.mark.parametrize("num_classes", [4, 6, 11])
def test_a_regular_polygon_reaches_the_floor_of_two_dimensions(num_classes):
    angles = 2 * math.pi * torch.arange(num_classes).double() / num_classes
    polygon = torch.stack([angles.cos(), angles.sin()], dim=1)
    floor = math.sqrt(2 * (1 - math.sqrt(2 / (num_classes - 1))))
    value = values_of(polygon.repeat(2, 1), torch.arange(num_classes).repeat(2), num_classes)["pfc2"]
    assert value.value == pytest.approx(floor, rel=1e-12)
    assert value.flags == ("low_dimension",)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 40])
def test_orthonormal_weights(num_classes):
    rows = torch.linalg.qr(normal(0, num_classes + 3, num_classes))[0].T
    expected = math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes))
    assert float(m.etf_distance(rows)) == pytest.approx(expected, rel=1e-12)
    assert float(m.etf_distance(rows, target="orthogonal_frame")) == pytest.approx(0, abs=1e-14)
    assert float(m.etf_distance(centered(rows))) == pytest.approx(0, abs=1e-13)
    assert float(m.equinorm(rows)) == pytest.approx(0, abs=1e-14)
    assert float(m.equiangularity(rows)) == pytest.approx(0, abs=1e-14)
    assert float(m.max_angle(rows)) == pytest.approx(1 / (num_classes - 1), rel=1e-12)


def test_orthonormal_weights_of_ten_classes_in_digits():
    assert float(m.etf_distance(torch.eye(10, dtype=torch.float64))) == pytest.approx(0.320364, abs=5e-7)


@pytest.mark.parametrize("num_classes", [3, 4, 10])
def test_a_frame_is_not_an_orthogonal_frame(num_classes):
    value = m.etf_distance(simplex_etf(num_classes, 12), target="orthogonal_frame")
    # <E_K, I/sqrt(K)> = (K-1)/sqrt(K (K-1)).
    assert float(value) == pytest.approx(math.sqrt(2 - 2 * math.sqrt((num_classes - 1) / num_classes)), rel=1e-12)


def test_norms_and_angles_written_out():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    norms = [1.0, 2.0, math.sqrt(18)]
    mean = sum(norms) / 3
    squares = sum((x - mean) ** 2 for x in norms)
    assert float(m.equinorm(rows)) == pytest.approx(math.sqrt(squares / 3) / mean, rel=1e-14)
    assert float(m.equinorm(rows, ddof=1)) == pytest.approx(math.sqrt(squares / 2) / mean, rel=1e-14)
    root = math.sqrt(0.5)
    assert float(m.equiangularity(rows)) == pytest.approx(math.sqrt((2 * root**2 / 3) - (2 * root / 3) ** 2), rel=1e-13)
    assert float(m.max_angle(rows)) == pytest.approx((0.5 + 2 * (root + 0.5)) / 3, rel=1e-14)


@given(st.integers(2, 7), st.integers(1, 7), SEEDS)
def test_equinorm_is_at_most_the_root_of_k_minus_one(num_classes, dim, seed):
    rows = normal(seed, num_classes, dim)
    assert 0 <= float(m.equinorm(rows)) <= math.sqrt(num_classes - 1)
    one_long = torch.eye(num_classes, dtype=torch.float64)
    one_long[1:] = 0
    assert float(m.equinorm(one_long)) == pytest.approx(math.sqrt(num_classes - 1), rel=1e-14)


def test_rows_of_more_than_one_block():
    # 2100 rows are four tiles of 512 and a rest: the joints must neither drop nor double a pair.
    rows = normal(3, 2100, 4)
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
    pairs = cosines[~torch.eye(2100, dtype=torch.bool)]
    assert float(m.equiangularity(rows)) == pytest.approx(float(pairs.std(correction=0)), rel=1e-12)
    assert float(m.max_angle(rows)) == pytest.approx(float((pairs + 1 / 2099).abs().mean()), rel=1e-12)
    gram = rows @ rows.T
    target = (torch.eye(2100, dtype=torch.float64) - 1 / 2100) / math.sqrt(2099)
    assert float(m.etf_distance(rows)) == pytest.approx(float((gram / gram.norm() - target).norm()), rel=1e-12)
    moments = ClassMoments.from_batch(torch.cat([rows, rows + 0.1]), torch.arange(2100).repeat(2), 2100)
    matrix = m.cdnv_matrix(moments)
    assert torch.equal(matrix.isnan(), torch.eye(2100, dtype=torch.bool))
    assert float(m.cdnv(moments)) == pytest.approx(float(matrix.nansum()) / (2100 * 2099), rel=1e-12)
    direct = (0.01 + 0.01) / (2 * (rows[5] - rows[2050]).square().sum())
    assert float(matrix[5, 2050]) == pytest.approx(float(direct), rel=1e-10)


def test_two_classes_are_flagged_where_the_value_says_nothing():
    values = values_of(CASES["two_classes"].features, CASES["two_classes"].labels, 2)
    for id in ("pfc2", "nc2_equiangularity", "nc2_max_angle", "nc2_equinorm"):
        assert values[id].value == pytest.approx(0, abs=1e-14)
    for id in ("pfc2", "nc2_equiangularity", "nc2_max_angle"):
        assert values[id].flags == ("two_classes",)
    assert values["pfc1"].flags == ()


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match=r"target must be 'etf', 'orthogonal_frame' or a Gram matrix, got 'simplex'"):
        m.etf_distance(torch.eye(3, dtype=torch.float64), target="simplex")


def test_one_class_has_no_frame_to_compare_with():
    one = torch.ones(1, 3, dtype=torch.float64)
    for value in (m.etf_distance(one), m.max_angle(one), m.equiangularity(one)):
        assert math.isnan(float(value))
    assert math.isnan(float(m.cdnv(ClassMoments.from_batch(one, torch.tensor([0]), 1))))


def test_coinciding_means_leave_no_eigenvalue():
    features = torch.tensor([[1.0, 2.0], [1.0, 4.0]] * 2, dtype=torch.float64)
    moments = ClassMoments.from_batch(features, torch.tensor([0, 0, 1, 1]), 2)
    statistics = layer_statistics(features, torch.tensor([0, 0, 1, 1]), 2)
    assert math.isnan(float(m.within_between_ratio(moments)))
    assert math.isnan(float(m.between_inverse_trace(ClassCenters.from_moments(moments), statistics.within)))
    assert float(m.within_total_ratio(moments)) == 1


def test_means_that_differ_by_rounding_leave_no_eigenvalue():
    # The same samples in another order: their means differ in the last digits only.
    same = 1 / 3 + torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features, labels = torch.cat([same, same.flip(0), same.roll(3, 0)]), torch.arange(3).repeat_interleave(7)
    statistics = layer_statistics(features, labels, 3)
    assert float(statistics.moments.between_trace()) > 0
    assert math.isnan(float(m.between_inverse_trace(statistics.centers, statistics.within)))
