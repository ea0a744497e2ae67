"""Ranks of a spectrum: order, flat spectra, hand-written values, and degenerate spectra."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncollapse import metrics as m


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=12), st.integers(0, 3))
def test_ranks_are_ordered(eigenvalues, zeros):
    spectrum = torch.tensor(eigenvalues + [0.0] * zeros, dtype=torch.float64)
    values = [f(spectrum) for f in (m.stable_rank, m.participation_ratio, m.entropy_rank, m.numerical_rank)]
    assert float(values[-1]) == len(eigenvalues)
    ordered = [1.0, *map(float, values)]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(ordered))


@given(st.integers(1, 12), st.integers(0, 5), st.floats(1e-100, 1e100))
def test_every_rank_of_a_flat_spectrum_is_its_length(rank, zeros, value):
    spectrum = torch.tensor([value] * rank + [0.0] * zeros, dtype=torch.float64)
    for function in (m.numerical_rank, m.stable_rank, m.participation_ratio, m.entropy_rank):
        assert float(function(spectrum)) == pytest.approx(rank, rel=1e-12)


def test_ranks_written_out():
    spectrum = torch.tensor([4.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    assert float(m.stable_rank(spectrum)) == pytest.approx(2, rel=1e-15)
    assert float(m.participation_ratio(spectrum)) == pytest.approx(64 / 22, rel=1e-15)
    entropy = 0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8)
    assert float(m.entropy_rank(spectrum)) == pytest.approx(math.exp(entropy), rel=1e-15)
    assert float(m.numerical_rank(spectrum, relative_tolerance=0.3)) == 2
    assert float(m.numerical_rank(spectrum, relative_tolerance=0.25)) == 2
    # The tolerance that is documented, 10 · d · eps.
    near = torch.tensor([[1.0, 2.1e-15 * 2], [1.0, 2.3e-15 * 2]], dtype=torch.float64)
    assert m.numerical_rank(near).tolist() == [1, 2]


def test_rounding_below_zero_is_no_variance():
    spectrum = torch.tensor([1.0, 1.0, -1e-17, 3e-17], dtype=torch.float64)
    for function in (m.numerical_rank, m.stable_rank, m.participation_ratio, m.entropy_rank):
        assert float(function(spectrum)) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("size", [0, 3])
def test_ranks_of_a_zero_spectrum(size):
    spectrum = torch.zeros(size, dtype=torch.float64)
    assert float(m.numerical_rank(spectrum)) == 0
    for function in (m.stable_rank, m.participation_ratio, m.entropy_rank):
        assert math.isnan(float(function(spectrum)))


@pytest.mark.parametrize(("tolerance", "rank"), [(0.5, 1), (0.1, 2), (1e-3, 3), (1e-5, 4)])
def test_a_tolerance_of_singular_values_is_its_square_for_eigenvalues(tolerance, rank):
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    features = torch.diag(torch.tensor([1.0, 0.3, 1e-2, 1e-4, 0.0], dtype=torch.float64)) @ turn
    assert float(m.numerical_rank(torch.linalg.eigvalsh(features.T @ features), relative_tolerance=tolerance**2)) == rank
    assert int(torch.linalg.matrix_rank(features, rtol=tolerance)) == rank
