"""Linear CKA: oracle with centering matrices, invariances, frames, both ways of multiplying."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncollapse.depth import cka_matrix, linear_cka
from ncollapse.etf import simplex_etf

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(X, Y):
    """Inner product of doubly centered Gram matrices over their norms."""
    C = np.eye(len(X)) - np.ones((len(X), len(X))) / len(X)
    K, L = C @ X @ X.T @ C, C @ Y @ Y.T @ C
    return np.sum(K * L) / (np.linalg.norm(K) * np.linalg.norm(L))


@given(st.integers(2, 12), st.integers(1, 20), st.integers(1, 20), SEEDS)
def test_equal_to_the_oracle_on_either_side_of_the_switch(num_samples, d1, d2, seed):
    x, y = normal(seed, num_samples, d1) + 2, normal(seed + 1, num_samples, d2) - 1
    value = float(linear_cka(x, y))
    assert value == pytest.approx(oracle(x.numpy(), y.numpy()), rel=1e-10, abs=1e-14)
    assert -1e-14 <= value <= 1 + 1e-14


@given(st.integers(1, 9), st.floats(-5, 5).filter(lambda a: abs(a) > 1e-3), SEEDS)
def test_a_turned_scaled_and_moved_layer_is_the_same(dim, factor, seed):
    x, y = normal(seed, 7, dim), normal(seed + 2, 7, 4)
    turn = torch.linalg.qr(normal(seed + 1, dim, dim))[0]
    moved = factor * x @ turn + normal(seed + 3, dim)
    assert float(linear_cka(x, moved)) == pytest.approx(1, rel=1e-12)
    assert float(linear_cka(moved, y)) == pytest.approx(float(linear_cka(x, y)), rel=1e-9)


def test_layers_collapsed_to_frames_are_alike_whatever_their_dimensions():
    labels = torch.arange(5).repeat(4)
    narrow, wide = (simplex_etf(5, d, generator=torch.Generator().manual_seed(d))[labels] for d in (4, 60))
    assert float(linear_cka(narrow, 7 * wide + 1)) == pytest.approx(1, rel=1e-13)


def test_orthogonal_columns_have_nothing_in_common():
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert float(linear_cka(x, y)) == 0


def test_all_pairs_of_layers():
    layers = {"a": normal(0, 9, 3).float(), "b": normal(1, 9, 2, 2, 5), "c": normal(2, 9, 4), "still": torch.full((9, 3), 0.1)}
    matrix = cka_matrix(layers)
    assert torch.equal(matrix.nan_to_num(), matrix.T.nan_to_num())
    flat = [layer.flatten(1).double().numpy() for layer in layers.values()]
    for i in range(4):
        for j in range(4):
            if 3 in (i, j):
                assert math.isnan(matrix[i, j])
            else:
                assert float(matrix[i, j]) == pytest.approx(oracle(flat[i], flat[j]), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_squares_stay_in_range(scale):
    x, y = normal(0, 6, 3), normal(1, 6, 2)
    assert float(linear_cka(scale * x, y)) == pytest.approx(float(linear_cka(x, y)), rel=1e-12)


def test_layers_of_other_samples_are_refused():
    with pytest.raises(ValueError, match=r"layers of the same samples, got 2 layers of \[3, 4\] samples"):
        linear_cka(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"got 0 layers of \[\] samples"):
        cka_matrix({})
