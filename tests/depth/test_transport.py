"""Wasserstein-2 and Gelbrich's bound against brute force, explicit square roots, and the chain of costs."""

from itertools import permutations

import numpy as np
import pytest
import scipy.linalg
import torch

from ncollapse.depth import GeodesicCurve, gelbrich_squared, wasserstein2_squared
from ncollapse.statistics import PairedMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GOLDEN = {"balanced": (2.7877704897, 0.7985443216), "imbalanced": (2.7213575415, 0.7780941370)}


def test_golden_numbers(golden):
    name, h0, h1, _ = golden
    cost = float((h1 - h0).square().sum(dim=1).mean())
    assert wasserstein2_squared(h0, h1) == pytest.approx(GOLDEN[name][0], abs=1e-10)
    assert wasserstein2_squared(h0, h1) / cost == pytest.approx(GOLDEN[name][1], abs=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_the_assignment_is_the_best_of_all_permutations(seed):
    x, y = normal(seed, 5, 3), normal(seed + 100, 5, 3)
    best = min(np.mean([np.sum((x[i] - y[s]).numpy() ** 2) for i, s in enumerate(order)]) for order in permutations(range(5)))
    assert wasserstein2_squared(x, y) == pytest.approx(best, rel=1e-12)
    assert wasserstein2_squared(y, x) == pytest.approx(best, rel=1e-12)


def test_on_a_line_the_sorted_samples_are_paired():
    x, y = normal(1, 200, 1), 3 * normal(2, 200, 1) + 1
    expected = float((x.sort(dim=0).values - y.sort(dim=0).values).square().mean())
    assert wasserstein2_squared(x, y) == pytest.approx(expected, rel=1e-12)


def test_digits_survive_far_from_the_origin_and_in_float32():
    x = normal(3, 20, 4)
    y = x[torch.randperm(20, generator=torch.Generator().manual_seed(0))] + 1e-3
    # Adding 1e6 rounds to 1e-10, seen against distances of 1e-3.
    assert wasserstein2_squared(x + 1e6, y + 1e6) == pytest.approx(4e-6, rel=1e-5)
    assert wasserstein2_squared(x.float(), x.float().flip(0)) == 0.0


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3,), (3,))])
def test_samples_of_unequal_shapes_are_refused(shapes):
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"Both samples must have one shape \(N, d\) with N of 1 or more, got \("):
        wasserstein2_squared(x, y)


def gelbrich_by_square_roots(x, y):
    x, y = x.numpy(), y.numpy()
    Sx, Sy = (np.cov(h, rowvar=False, bias=True).reshape(h.shape[1], h.shape[1]) for h in (x, y))
    values, vectors = np.linalg.eigh(Sx)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ Sy @ root).clip(0)).sum()
    return np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.trace(Sx) + np.trace(Sy) - 2 * middle


@pytest.mark.parametrize(
    ("num_x", "num_y", "dim"), [(50, 50, 4), (50, 30, 4), (5, 5, 9), (5, 7, 9), (5, 30, 9), (4, 4, 4), (9, 6, 1)]
)
def test_gelbrich_equals_the_formula_with_square_roots(num_x, num_y, dim):
    x = normal(1, num_x, dim) @ normal(2, dim, dim)
    y = normal(3, num_y, dim) @ normal(4, dim, dim) + 2
    # Rounding of zero eigenvalues enters the oracle by a square root when a covariance is singular.
    rel = 1e-10 if min(num_x, num_y) > dim else 1e-6
    assert gelbrich_squared(x, y) == pytest.approx(gelbrich_by_square_roots(x, y), rel=rel)
    assert gelbrich_squared(x.float(), y.float()) == pytest.approx(
        gelbrich_by_square_roots(x.float().double(), y.float().double()), rel=rel
    )


def test_gelbrich_of_a_singular_covariance_by_another_square_root():
    x, y = normal(5, 4, 6), normal(6, 4, 6)
    Sx, Sy = (np.cov(h.numpy(), rowvar=False, bias=True) + 1e-14 * np.eye(6) for h in (x, y))
    root = scipy.linalg.sqrtm(Sx)
    expected = np.trace(Sx + Sy - 2 * scipy.linalg.sqrtm(root @ Sy @ root)).real + float((x.mean(0) - y.mean(0)).square().sum())
    assert gelbrich_squared(x, y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [2, 30])
def test_gelbrich_lies_between_the_means_and_wasserstein(dim):
    for seed in range(20):
        x = normal(seed, 12, dim)
        y = normal(seed + 50, 12, dim) * 0.5 + x.square() + 0.3
        means = float((x.mean(dim=0) - y.mean(dim=0)).square().sum())
        assert wasserstein2_squared(x, y) >= gelbrich_squared(x, y) - 1e-12
        assert gelbrich_squared(x, y) > means


def test_equality_for_a_translation_and_for_a_positive_linear_map():
    x = normal(7, 15, 4)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    assert gelbrich_squared(x, x + shift) == pytest.approx(5.25, rel=1e-10)
    assert wasserstein2_squared(x, x + shift) == pytest.approx(5.25, rel=1e-10)
    factor = normal(8, 4, 4)
    y = x @ (factor @ factor.T)
    # A positive definite map is a gradient of a convex function: the given pairing is optimal, and Gaussians attain it.
    assert wasserstein2_squared(x, y) == pytest.approx(float((x - y).square().sum(dim=1).mean()), rel=1e-12)
    centered = x - x.mean(dim=0)
    mapped = centered @ (factor @ factor.T)
    assert gelbrich_squared(centered, mapped) == pytest.approx(wasserstein2_squared(centered, mapped), rel=1e-9)


def test_an_optimal_pairing_has_a_positive_cross_trace():
    # C + w_1 >= 0 with sample weights for cyclically monotone pairs; the identity alone can be negative.
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 3, 4]))
    negative = 0
    for seed in range(30):
        x, y = normal(seed, 12, 3), normal(seed + 200, 12, 3)
        cost = torch.cdist(x, y).square().numpy()
        _, order = scipy.optimize.linear_sum_assignment(cost)
        for target, optimal in ((y[torch.as_tensor(order)], True), (y, False)):
            curve = GeodesicCurve(PairedMoments.from_batch(x, target, labels, 3), "sample")
            total = float(curve.between_coefficients()[1] + curve.within_coefficients()[1])
            assert total >= 0 or not optimal
            negative += total < 0
    assert negative > 5
