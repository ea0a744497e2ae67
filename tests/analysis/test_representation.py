"""RankMe, LiDAR, α-ReQ and CKA against singular values and generalized eigenvalues of the samples, and closed forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from ncollapse.analysis import alpha_req, lidar, moments_cka, rankme
from ncollapse.depth import linear_cka
from ncollapse.etf import simplex_etf
from ncollapse.statistics import CrossMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(seed, rows, columns):
    return torch.linalg.qr(normal(seed, rows, columns)).Q


LABELS = torch.arange(4).repeat_interleave(torch.tensor([9, 5, 7, 6]))
FEATURES = (2 * normal(0, 4, 6)[LABELS] + normal(1, 27, 6)) @ torch.diag(torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]).double()) + 1
MOMENTS = CrossMoments.from_labels(FEATURES, LABELS, 4)


def entropy_rank(values):
    p = values / values.sum()
    return np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())


def test_rankme_is_that_of_singular_values():
    assert float(rankme(MOMENTS)) == pytest.approx(entropy_rank(np.linalg.svd(FEATURES.numpy(), compute_uv=False)), rel=1e-10)
    # The paper's p_k + 1e-7 moves the value in the sixth digit.
    p = np.linalg.svd(FEATURES.numpy(), compute_uv=False)
    p = p / p.sum() + 1e-7
    assert float(rankme(MOMENTS)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_rankme_of_known_spectra():
    scaled = orthogonal(2, 30, 3) @ torch.diag(torch.tensor([2.0, 2, 4]).double()) @ orthogonal(3, 8, 3).T
    expected = math.exp(0.5 * math.log(4) + 0.5 * math.log(2))
    assert float(rankme(CrossMoments.from_batch(scaled, normal(4, 30, 1)))) == pytest.approx(expected, rel=1e-6)
    assert float(rankme(CrossMoments.from_batch(torch.ones(9, 4), torch.ones(9, 1)))) == pytest.approx(1, rel=1e-12)
    assert math.isnan(float(rankme(CrossMoments.from_batch(torch.zeros(9, 4), torch.ones(9, 1)))))


def test_lidar_is_that_of_generalized_eigenvalues():
    X, labels = FEATURES.numpy(), LABELS.numpy()
    mean = X.mean(axis=0)
    centers = np.stack([X[labels == k].mean(axis=0) for k in range(4)])[labels]
    between, within = (centers - mean).T @ (centers - mean) / 27, (X - centers).T @ (X - centers) / 27
    values = scipy.linalg.eigh(between, within + 1e-4 * np.eye(6), eigvals_only=True)
    assert float(lidar(MOMENTS)) == pytest.approx(entropy_rank(np.clip(values, 1e-12, None)), rel=1e-7)


def test_lidar_of_a_simplex_etf_counts_its_directions():
    noise = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    features = (5 * simplex_etf(4, 6).unsqueeze(1) + noise).flatten(0, 1)
    moments = CrossMoments.from_labels(features, torch.arange(4).repeat_interleave(12), 4)
    assert float(lidar(moments)) == pytest.approx(3, rel=1e-9)


def test_alpha_is_the_weighted_slope():
    centered = FEATURES.numpy() - FEATURES.numpy().mean(axis=0)
    values = np.linalg.svd(centered, compute_uv=False) ** 2
    ranks = np.arange(2, 6)
    # np.polyfit weighs residuals, so that squares get 1/j.
    slope = np.polyfit(np.log(ranks), np.log(values[1:5]), 1, w=ranks**-0.5)[0]
    assert float(alpha_req(MOMENTS, first=2, last=5)) == pytest.approx(-slope, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.8, 2.0])
def test_alpha_of_a_power_law(alpha):
    directions = orthogonal(5, 40, 8) - orthogonal(5, 40, 8).mean(dim=0)
    directions = torch.linalg.qr(directions).Q
    features = directions * torch.arange(1.0, 9.0).double() ** (-alpha / 2)
    moments = CrossMoments.from_batch(features + 3, normal(6, 40, 1))
    assert float(alpha_req(moments)) == pytest.approx(alpha, abs=1e-9)
    # Another feature that never varies changes nothing.
    wider = CrossMoments.from_batch(torch.cat([features, torch.ones(40, 1)], dim=1), normal(6, 40, 1))
    assert float(alpha_req(wider)) == pytest.approx(alpha, abs=1e-9)


def test_alpha_needs_two_eigenvalues():
    assert math.isnan(float(alpha_req(CrossMoments.from_batch(normal(7, 9, 1), normal(8, 9, 1)))))
    assert math.isnan(float(alpha_req(MOMENTS, first=6)))
    assert math.isnan(float(alpha_req(MOMENTS, first=0)))


def test_similarity_of_two_layers():
    x, y = FEATURES, normal(9, 27, 3) + FEATURES[:, :3]
    assert float(moments_cka(CrossMoments.from_batch(x, y))) == pytest.approx(float(linear_cka(x, y)), rel=1e-11)
    moved = 2 * x @ orthogonal(10, 6, 6) + 5
    assert float(moments_cka(CrossMoments.from_batch(x, moved))) == pytest.approx(1, rel=1e-12)
    assert math.isnan(float(moments_cka(CrossMoments.from_batch(x, torch.ones(27, 1)))))
