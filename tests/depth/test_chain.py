"""The chain of costs on random trajectories, link by link against plain NumPy, and the cases of equality."""

import math
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment

from ncollapse.depth import transport_chain


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectories(seed, num_layers, num_samples, dim):
    """Random walks with a drift."""
    return list((0.4 * normal(seed, num_layers, num_samples, dim) + normal(seed + 1, num_layers, 1, dim)).cumsum(dim=0))


def plain(layers):
    H = [layer.double().numpy() for layer in layers]
    L, N = len(H) - 1, len(H[0])
    energies = [sum(np.sum((H[j + 1][i] - H[j][i]) ** 2) for i in range(N)) / N for j in range(L)]
    cost = np.array([[np.sum((x - y) ** 2) for y in H[L]] for x in H[0]])
    rows, columns = linear_sum_assignment(cost)
    m0, m1 = H[0].mean(axis=0), H[L].mean(axis=0)
    S0, S1 = (np.atleast_2d(np.cov(h, rowvar=False, bias=True)) for h in (H[0], H[L]))
    root = scipy.linalg.sqrtm(S0)
    gelbrich = np.sum((m0 - m1) ** 2) + np.trace(S0 + S1 - 2 * scipy.linalg.sqrtm(root @ S1 @ root)).real
    return (
        L * sum(energies), sum(math.sqrt(e) for e in energies) ** 2, np.trace(cost) / N, cost[rows, columns].mean(), gelbrich,
        np.sum((m0 - m1) ** 2),
    )  # fmt: skip


def test_every_link_and_its_order_on_random_trajectories():
    for seed in range(30):
        layers = trajectories(seed, num_layers=2 + seed % 5, num_samples=15, dim=1 + seed % 4)
        chain = transport_chain(layers)
        assert astuple(chain) == pytest.approx(plain(layers), rel=1e-7), seed
        assert all(upper >= lower - 1e-12 * chain.energy for upper, lower in pairwise(astuple(chain))), chain
        assert chain.score == pytest.approx(chain.wasserstein2 / chain.identity_cost, rel=1e-14)
        assert chain.efficiency == pytest.approx(chain.identity_cost / chain.energy, rel=1e-14)
        assert chain.score < 1 or seed % 4 == 0


def test_all_links_are_equal_for_an_even_translation():
    first, shift = normal(1, 9, 3), torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    chain = transport_chain([first + t * shift for t in (0.0, 0.25, 0.5, 0.75, 1.0)])
    assert astuple(chain) == pytest.approx((9.0,) * 6, rel=1e-9)
    assert (chain.score, chain.efficiency) == (pytest.approx(1.0), pytest.approx(1.0))


def test_one_link_opens_at_a_time():
    first, factor = normal(2, 12, 3), normal(3, 3, 3)
    last = first @ (factor @ factor.T) + 1
    line = [(1 - t) * first + t * last for t in (0.0, 0.1, 1.0)]
    energy, energy_min, cost, wasserstein2, gelbrich, mean = astuple(transport_chain(line))
    # Straight but uneven: the first opens. Then a positive linear map: all are equal, but for the spread that it changes.
    assert energy > 1.3 * energy_min
    assert (energy_min, cost, wasserstein2) == (pytest.approx(gelbrich), pytest.approx(gelbrich), pytest.approx(gelbrich))
    assert gelbrich > mean + 0.1
    # The same with the samples of the last layer in another order: the third opens alone.
    chain = transport_chain([first, last.roll(1, dims=0)])
    assert chain.energy == pytest.approx(chain.identity_cost, rel=1e-12)
    assert chain.identity_cost > 1.1 * chain.wasserstein2
    assert chain.wasserstein2 == pytest.approx(wasserstein2, rel=1e-12)


def test_nothing_moves():
    first = normal(4, 5, 2)
    chain = transport_chain([first, first])
    assert astuple(chain) == pytest.approx((0.0,) * 6, abs=1e-14)
    assert math.isnan(chain.score)
    assert math.isnan(chain.efficiency)


def test_wrong_samples_are_refused():
    with pytest.raises(ValueError, match=r"needs 1 to 2000 samples for the exact distance, got 2001\. Take a subsample"):
        transport_chain([torch.zeros(2001, 1)] * 2)
    with pytest.raises(ValueError, match=r"needs 1 to 2000 samples .* got 0"):
        transport_chain([torch.zeros(0, 1)] * 2)
    for layers in ([], [torch.zeros(3, 2)], [torch.zeros(3, 2), torch.zeros(3, 4)]):
        with pytest.raises(ValueError, match="at least two layers of one shape"):
            transport_chain(layers)
