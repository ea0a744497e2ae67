"""Coding rates: determinants written out, frames, order, invariance, and the streamed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncollapse import metrics as m
from ncollapse.statistics import ClassScatter

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(H, y, eps, normalize):
    """Determinants of d×d matrices."""
    if normalize:
        H = H / np.linalg.norm(H, axis=1, keepdims=True)
    N, d = H.shape

    def rate(Z):
        return 0.5 * np.linalg.slogdet(np.eye(d) + d / (len(Z) * eps**2) * Z.T @ Z)[1]

    return rate(H), sum(np.sum(y == k) / N * rate(H[y == k]) for k in np.unique(y))


@given(st.integers(1, 25), st.integers(1, 12), st.sampled_from([0.1, 0.5, 2.0]), st.booleans(), SEEDS)
def test_equal_to_the_determinants_and_never_negative(num_samples, dim, eps, normalize, seed):
    features, labels = normal(seed, num_samples, dim) + 1, torch.arange(num_samples) % 3
    rate = m.coding_rate(features, labels, num_classes=4, distortion=eps, normalize=normalize)
    total, within = oracle(features.numpy(), labels.numpy(), eps, normalize)
    assert float(rate.total) == pytest.approx(total, rel=1e-10)
    assert float(rate.within) == pytest.approx(within, rel=1e-10)
    assert float(rate.reduction) == pytest.approx(total - within, abs=1e-10 * total)
    assert float(rate.reduction) >= -1e-12 * total
    if not normalize:
        streamed = m.coding_rate_of_scatter(ClassScatter.from_batch(features, labels, 4), distortion=eps)
        assert float(streamed.total) == pytest.approx(total, rel=1e-10)
        assert float(streamed.within) == pytest.approx(within, rel=1e-10)


@pytest.mark.parametrize(("num_classes", "dim", "eps"), [(4, 4, 0.5), (3, 7, 0.5), (5, 20, 0.1)])
def test_one_point_classes_on_an_orthonormal_frame(num_classes, dim, eps):
    K, labels = num_classes, torch.arange(num_classes).repeat(3)
    points = torch.linalg.qr(normal(1, dim, K))[0].T[labels]
    value = float(m.coding_rate(points, labels, num_classes=K, distortion=eps).reduction)
    expected = K / 2 * math.log(1 + dim / (K * eps**2)) - 0.5 * math.log(1 + dim / eps**2)
    assert value == pytest.approx(expected, rel=1e-12)


def test_collapse_does_not_maximize_the_reduction():
    # Four classes of eight dimensions: one direction each, or two orthogonal directions each.
    labels = torch.arange(4).repeat(2)
    collapsed = torch.eye(8)[labels]
    planes = torch.eye(8)[torch.cat([labels[:4], labels[4:] + 4])]
    values = [float(m.coding_rate(rows, labels, num_classes=4).reduction) for rows in (collapsed, planes)]
    assert values == pytest.approx([2 * math.log(9) - 0.5 * math.log(33), 4 * math.log(5) - math.log(17)], rel=1e-12)
    assert values[1] > values[0]


@given(st.integers(1, 6), SEEDS)
def test_a_rotation_changes_nothing(dim, seed):
    features, labels = normal(seed, 9, dim), torch.arange(9) % 2
    turn = torch.linalg.qr(normal(seed + 1, dim, dim))[0]
    rate, turned = (m.coding_rate(rows, labels, num_classes=2) for rows in (features, features @ turn))
    assert float(turned.reduction) == pytest.approx(float(rate.reduction), rel=1e-10, abs=1e-12)


def test_tiny_features_keep_their_digits():
    # log det(I + x) of eigenvalues of 1e-20 is their sum, where a determinant gives 0.
    features = 1e-10 * normal(0, 6, 3)
    rate = m.coding_rate(features, torch.zeros(6).long(), num_classes=1, distortion=1.0, normalize=False)
    assert float(rate.total) == pytest.approx(0.5 * 3 / 6 * float(features.square().sum()), rel=1e-12)


def test_degenerate_features():
    nothing = m.coding_rate(torch.zeros(0, 3), torch.zeros(0).long(), num_classes=2)
    zero = m.coding_rate(torch.zeros(2, 3), torch.zeros(2).long(), num_classes=2)
    streamed = m.coding_rate_of_scatter(ClassScatter.empty(2, 3))
    for rate in (nothing, zero, streamed):
        assert math.isnan(float(rate.total))
        assert math.isnan(float(rate.within))
    unscaled = m.coding_rate(torch.zeros(2, 3), torch.zeros(2).long(), num_classes=2, normalize=False)
    assert float(unscaled.total) == float(unscaled.within) == 0


@pytest.mark.parametrize("eps", [0.0, -1.0, math.inf])
def test_a_wrong_distortion_is_named(eps):
    with pytest.raises(ValueError, match=rf"distortion must be positive and finite, got {eps}\. Pass a length"):
        m.coding_rate(torch.eye(2), torch.arange(2), num_classes=2, distortion=eps)
    with pytest.raises(ValueError, match="distortion must be positive and finite"):
        m.coding_rate_of_scatter(ClassScatter.empty(2, 3), distortion=eps)
