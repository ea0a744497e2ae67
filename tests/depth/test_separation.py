"""The law of data separation: exact sequences, the fit written out, degenerate curves."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import layer_statistics
from ncollapse import metrics as m
from ncollapse.depth import separation_law


@given(st.floats(0.05, 0.95), st.floats(1e-3, 1e6), st.integers(2, 30))
def test_a_geometric_sequence_is_recovered(rho, start, num_layers):
    law = separation_law([start * rho**layer for layer in range(num_layers)])
    assert law.rho == pytest.approx(rho, rel=1e-9)
    assert law.correlation == pytest.approx(-1, rel=1e-9)
    assert law.intercept == pytest.approx(math.log(start), rel=1e-9, abs=1e-9)
    assert law.half_life == pytest.approx(math.log(0.5) / math.log(rho), rel=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=12))
def test_the_fit_equals_numpy(values):
    if len(set(values)) < 3:
        return
    slope, intercept = np.polyfit(np.arange(len(values)), np.log(values), 1)
    law = separation_law(values)
    assert law.rho == pytest.approx(math.exp(slope), rel=1e-7)
    assert law.intercept == pytest.approx(intercept, rel=1e-7, abs=1e-7)
    assert law.correlation == pytest.approx(np.corrcoef(np.arange(len(values)), np.log(values))[0, 1], rel=1e-6, abs=1e-7)


def test_the_last_layer_can_be_left_out():
    values = [8.0, 4.0, 2.0, 1.0, 1e-9]
    assert separation_law(values, last_layer=False) == separation_law(values[:-1])
    assert separation_law(values).rho < 0.1
    assert separation_law([4.0, 2.0, 0.0], last_layer=False).rho == pytest.approx(0.5, rel=1e-14)


def test_curves_without_decay():
    constant = separation_law([3.0, 3.0, 3.0])
    assert (constant.rho, constant.half_life) == (1.0, math.inf)
    assert math.isnan(constant.correlation)
    growing = separation_law([1.0, 2.0, 4.0])
    assert growing.rho == pytest.approx(2, rel=1e-14)
    assert growing.correlation == pytest.approx(1, rel=1e-14)
    assert math.isnan(growing.half_life)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -1.0])
def test_a_value_without_logarithm_leaves_nothing_defined(bad):
    assert all(math.isnan(value) for value in dataclasses.astuple(separation_law([2.0, bad, 1.0])))


def test_too_few_layers_are_named():
    with pytest.raises(ValueError, match=r"at least two layers to fit, got 1\. Measure more layers"):
        separation_law([2.0, 1.0], last_layer=False)


def test_separation_is_k_times_nc1_by_sample():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(torch.tensor([9, 4, 3, 7]))
    features = torch.randn(4, 6, generator=generator).double()[labels] + torch.randn(23, 6, generator=generator).double()
    statistics = layer_statistics(features, labels, 4)
    nc1 = m.between_inverse_trace(statistics.centers, statistics.within, "he_su")
    assert float(m.separation(statistics.centers, statistics.within)) == pytest.approx(4 * float(nc1), rel=1e-14)


def test_where_there_is_no_half_life():
    """It falls in none of these, and a constant one never halves."""
    for values in ([0.0, 0.0], [1.0, 0.0], [1.0, 2.0, 1.0], [1.0, 1.5, 2.0], [1.0, math.inf]):
        assert math.isnan(separation_law(values).half_life), values
    assert separation_law([2.0, 2.0, 2.0]).half_life == math.inf
    assert separation_law([4.0, 2.0]).half_life == pytest.approx(1)
    # Far below 1 as well.
    assert separation_law([1e-3, 1e-4]).rho == pytest.approx(0.1)
