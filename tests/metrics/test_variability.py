"""Fisher ratios against NumPy, their invariances and degenerate cases, and eigenvalues of large between-class covariances."""

import math

import numpy as np
import pytest
import torch

from ncollapse.metrics import fisher_ratios, variability
from ncollapse.statistics import ClassScatter


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.arange(3).repeat(20)
FEATURES = normal(0, 60, 5) + 2 * normal(1, 3, 5)[LABELS]


def ratios(features):
    return fisher_ratios(ClassScatter.from_batch(features, LABELS, 3))


def test_against_numpy():
    means = np.stack([FEATURES[LABELS == k].numpy().mean(axis=0) for k in range(3)])
    within = np.mean([np.cov(FEATURES[LABELS == k].numpy().T, ddof=0) for k in range(3)], axis=0)
    between = np.cov(means.T, ddof=0)
    found = ratios(FEATURES)
    assert found.within_over_between == pytest.approx(np.trace(within) / np.trace(between), rel=1e-12)
    assert found.discriminant == pytest.approx(np.trace(np.linalg.pinv(within) @ between), rel=1e-10)


def test_the_discriminant_is_invariant_to_invertible_maps():
    assert ratios(FEATURES @ normal(2, 5, 5) + 3).discriminant == pytest.approx(ratios(FEATURES).discriminant, rel=1e-9)


def test_degenerate_cases():
    # A direction without spread has no inverse and does not count.
    flat = torch.cat([FEATURES, LABELS.unsqueeze(1).double()], dim=1)
    assert ratios(flat).discriminant == pytest.approx(ratios(FEATURES).discriminant, rel=1e-9)
    collapsed = normal(1, 3, 5)[LABELS]
    assert ratios(collapsed).within_over_between == pytest.approx(0, abs=1e-25)
    # Neither where it is turned and others have little; nor in other units.
    little = flat * torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-3, 1.0], dtype=torch.float64) @ torch.linalg.qr(normal(3, 6, 6))[0]
    assert ratios(1e-9 * little).discriminant == pytest.approx(ratios(FEATURES).discriminant, rel=1e-6)
    # Nor what is rounding beside a single direction with spread.
    line = normal(4, 60, 1) * torch.tensor([[2.0, -1.0, 3.0, 0.5, 7.0]], dtype=torch.float64)
    along, means = line[0] / line[0].norm(), 5 * normal(1, 3, 5)[LABELS]
    expected = fisher_ratios(ClassScatter.from_batch(((line + means) @ along).unsqueeze(1), LABELS, 3)).discriminant
    assert ratios(line + means).discriminant == pytest.approx(expected, rel=1e-9)
    exact = ratios(torch.eye(3)[LABELS])
    assert (exact.within_over_between, exact.discriminant) == (0, 0)
    assert math.isnan(ratios(torch.zeros(60, 2)).within_over_between)
    # Classes that differ in nothing but their samples' order, of whatever size.
    same = torch.tensor([[1e-3, 0.0], [-1e-3, 0.0]])[torch.arange(60) // 3 % 2]
    assert ratios(same).within_over_between == math.inf


@pytest.mark.parametrize(("share", "counts"), [(9.5, False), (10.5, True)])
def test_where_rounding_ends(share, counts):
    # Variances 1 and a share of 2 eps, in a direction in which the class means differ.
    thin = math.sqrt(2 * share * torch.finfo(torch.float64).eps)
    corners = torch.tensor([[1.0, thin], [1.0, -thin], [-1.0, thin], [-1.0, -thin]], dtype=torch.float64)
    means = torch.tensor([[0.0, 0.0], [0.0, 1e-3], [0.0, 2e-3]], dtype=torch.float64)
    found = ratios((means[:, None] + corners).repeat(1, 5, 1).transpose(0, 1).reshape(60, 2))
    assert (found.discriminant > 1) is counts


def hadamard(size):
    ones = torch.ones(1, 1, dtype=torch.float64)
    while len(ones) < size:
        ones = torch.cat([torch.cat([ones, ones]), torch.cat([ones, -ones])], dim=1)
    return ones


@pytest.mark.parametrize("scale", [1.0, 2.0**-400, 2.0**400])
@pytest.mark.parametrize("octaves", [0, 5, 8, 24])
def test_squared_singular_values_keep_their_digits_in_all_directions(octaves, scale):
    # Products of orthogonal columns of ±1 and powers of two, all of them exact.
    sizes = scale * 2.0 ** -torch.arange(64, dtype=torch.float64).remainder(octaves + 1)
    rows = hadamard(128)[:, :64] * sizes @ hadamard(64) / 8
    values, vectors = variability._squared_singular_values(rows)
    expected = 128 * sizes.square().sort(descending=True).values
    assert torch.allclose(values, expected, rtol=1e-8 if octaves == 24 else 1e-11, atol=0)
    assert torch.allclose(vectors.T @ vectors, torch.eye(64, dtype=torch.float64), atol=1e-13)
    along = (rows @ vectors).square().sum(dim=0)
    assert torch.allclose(along, expected, rtol=1e-8 if octaves == 24 else 1e-11, atol=0)
