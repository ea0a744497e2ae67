"""Alignment of weights with class means, and stable ranks of class activations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from ncollapse import metrics as m
from ncollapse.etf import simplex_etf
from ncollapse.statistics import ClassMoments

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(means):
    return ClassMoments.from_batch(means, torch.arange(len(means)), len(means))


def leading(A, rank):
    return np.linalg.svd(A, full_matrices=False)[0][:, :rank]


@given(st.integers(2, 4), st.integers(4, 8), st.integers(4, 9), SEEDS)
def test_equal_to_the_principal_angles_of_scipy(num_classes, dim, out, seed):
    weight, means = normal(seed, out, dim), normal(seed + 1, num_classes, dim) + 1
    for centered, rank in ((False, num_classes), (True, num_classes - 1)):
        M = means.numpy() - centered * means.numpy().mean(axis=0)
        angles = subspace_angles(leading(weight.numpy().T, rank), leading(M.T, rank))
        value = float(m.weight_alignment(weight, moments_of(means), centered=centered))
        assert value == pytest.approx(np.cos(angles).mean(), rel=1e-9)
        assert 0 <= value <= 1 + 1e-14
        assert value == float(m.weight_alignment(weight, moments_of(means), centered=centered, rank=rank))


def test_equal_and_orthogonal_subspaces():
    means = normal(0, 3, 10)
    mixed = normal(1, 7, 3) @ means
    assert float(m.weight_alignment(mixed, moments_of(means))) == pytest.approx(1, rel=1e-12)
    complement = torch.linalg.qr(torch.cat([means, normal(2, 7, 10)]).T)[0][:, 3:].T
    assert float(m.weight_alignment(complement, moments_of(means))) == pytest.approx(0, abs=1e-14)
    # Self-duality: rows along the centered means.
    frame = simplex_etf(3, 10)
    assert float(m.weight_alignment(5 * frame, moments_of(frame + 2), centered=True)) == pytest.approx(1, rel=1e-13)
    half = torch.stack([means[0] / means[0].norm(), complement[0]])
    assert float(m.subspace_alignment(half.T, half[:1].T @ torch.ones(1, 2).double(), 1)) <= 1


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_convolutions_compare_input_channels(rank):
    weight, means = normal(3, 6, 4, 3, 3), normal(4, 3, 4, 2, 5)
    W, M = np.zeros((4, 54)), np.zeros((4, 30))
    for channel in range(4):
        W[channel] = [weight[o, channel, i, j] for o in range(6) for i in range(3) for j in range(3)]
        M[channel] = [means[k, channel, i, j] for k in range(3) for i in range(2) for j in range(5)]
    expected = np.cos(subspace_angles(leading(W, rank), leading(M, rank))).mean()
    assert float(m.weight_alignment(weight, moments_of(means), rank=rank)) == pytest.approx(expected, rel=1e-10)
    few = torch.zeros(6, 4, 1, 1).double()
    few[:3, :3, 0, 0], other = torch.eye(3), torch.zeros(3, 4, 2, 2).double()
    other[:, :3] = normal(5, 3, 3, 2, 2)
    assert float(m.weight_alignment(few, moments_of(other))) == pytest.approx(1, rel=1e-12)


def test_subspaces_that_are_not_there_give_nan():
    means = moments_of(normal(6, 3, 5))
    assert math.isnan(float(m.weight_alignment(torch.ones(4, 5).double(), means)))
    assert math.isnan(float(m.weight_alignment(normal(7, 4, 5), moments_of(torch.ones(3, 5)))))
    assert math.isnan(float(m.weight_alignment(normal(7, 4, 5), ClassMoments.empty(3, 5))))
    assert float(m.weight_alignment(torch.ones(4, 5).double(), means, rank=1)) <= 1


@pytest.mark.parametrize(("share", "is_there"), [(9.5, False), (10.5, True)])
def test_where_rounding_ends(share, is_there):
    thin = torch.diag(torch.tensor([1.0, 2 * share * torch.finfo(torch.float64).eps], dtype=torch.float64))
    assert math.isnan(float(m.subspace_alignment(thin, torch.eye(2, dtype=torch.float64), 2))) is not is_there


def test_wrong_shapes_are_named():
    means = moments_of(normal(6, 3, 6))
    with pytest.raises(ValueError, match=r"a weight for 6 input features, got shape \(4, 5\)\. Pass the weight of the layer"):
        m.weight_alignment(normal(0, 4, 5), means)
    with pytest.raises(ValueError, match=r"6 input features, got shape \(4, 4, 3, 3\)"):
        m.weight_alignment(normal(0, 4, 4, 3, 3), means)
    with pytest.raises(ValueError, match=r"6 input features, got shape \(4,\)"):
        m.weight_alignment(normal(0, 4), means)
    with pytest.raises(ValueError, match=r"a rank from 1 to 3, got shapes \(6, 4\) and \(6, 3\) and rank 4"):
        m.weight_alignment(normal(0, 4, 6), means, rank=4)
    with pytest.raises(ValueError, match=r"matrices of one height .* got shapes \(5, 3\) and \(6, 3\) and rank 1"):
        m.subspace_alignment(normal(0, 5, 3), normal(0, 6, 3), 1)


def test_stable_ranks_by_class():
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 1, 1, 4, 4])
    features = normal(8, 10, 3) + 5
    features[labels == 4] = 0.1
    ranks = m.class_stable_ranks(features, labels, num_classes=5)
    for k in (0, 1):
        A = features[labels == k].numpy()
        A = A - A.mean(axis=0)
        expected = np.linalg.norm(A) ** 2 / np.linalg.norm(A, 2) ** 2
        assert float(ranks[k]) == pytest.approx(expected, rel=1e-12)
        assert 1 <= float(ranks[k]) <= min(len(A) - 1, 3) + 1e-12
    assert torch.isnan(ranks).tolist() == [False, False, True, True, True]
    cross = torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(m.class_stable_ranks(cross, torch.zeros(8).long(), num_classes=1)) == pytest.approx(4, rel=1e-14)
