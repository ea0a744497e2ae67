"""The chain of costs on random trajectories, link by link against plain NumPy, and the cases of equality."""

import math
from dataclasses import astuple
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment

from ncollapse.depth import excess_energy, transport_chain


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
    with pytest.raises(ValueError, match=r"exact distance needs 1 to 2000 samples, got 2001\. Take a subsample"):
        transport_chain([torch.zeros(2001, 1)] * 2)
    with pytest.raises(ValueError, match=r"needs 1 to 2000 samples, got 0"):
        transport_chain([torch.zeros(0, 1)] * 2)
    for layers in ([], [torch.zeros(3, 2)], [torch.zeros(3, 2), torch.zeros(3, 4)]):
        with pytest.raises(ValueError, match="at least two layers of one shape"):
            transport_chain(layers)


def test_the_parts_of_the_excess_add_up_on_random_trajectories():
    """Against the chain of centered features by plain NumPy; parts of blocks by their definitions, step by step."""
    for seed in range(20):
        layers = trajectories(seed, num_layers=2 + seed % 5, num_samples=12, dim=1 + seed % 4)
        found = excess_energy(layers)
        centered = [layer - layer.mean(dim=0) for layer in layers]
        energy, energy_min, own, best, *_ = plain(centered)
        assert (found.energy, found.identity_cost) == (pytest.approx(energy, rel=1e-9), pytest.approx(own, rel=1e-9))
        assert found.wasserstein2 == pytest.approx(best, rel=1e-9)
        assert sum(found.speed) == pytest.approx(energy - energy_min, abs=1e-9 * energy)
        assert sum(found.bend) == pytest.approx(energy_min - own, abs=1e-9 * energy)
        shares = (found.speed_share, found.bend_share, found.pairing_share)
        assert found.excess == pytest.approx(energy - best, abs=1e-9 * energy)
        assert min(*found.speed, *found.bend, *shares) >= -1e-12
        assert sum(shares) == pytest.approx(1, rel=1e-9)
        chord = (centered[-1] - centered[0]).numpy()
        steps = [(after - before).numpy() for before, after in pairwise(centered)]
        sizes = [math.sqrt((step**2).sum(axis=1).mean()) for step in steps]
        for step, size, speed, bend in zip(steps, sizes, found.speed, found.bend, strict=True):
            assert speed == pytest.approx(len(steps) * (size - np.mean(sizes)) ** 2, abs=1e-9 * energy)
            assert bend == pytest.approx(size * sum(sizes) - (step * chord).sum(axis=1).mean(), abs=1e-9 * energy)
        consecutive = [plain([before, after])[3] for before, after in pairwise(centered)]
        assert list(found.step_wasserstein2) == pytest.approx(consecutive, rel=1e-9, abs=1e-12)
        assert found.detour == pytest.approx(sum(map(math.sqrt, consecutive)) / math.sqrt(best), rel=1e-9)
        assert found.detour >= 1 - 1e-12


def test_each_cause_alone_has_the_whole_excess():
    """From points on a geodesic: uneven steps, a bend, a shuffled pairing; a geodesic that one layer leaves has a detour."""
    first = normal(3, 14, 3)
    first = first - first.mean(dim=0)
    last = 2.0 * first
    even = [first + t * (last - first) for t in (0.0, 0.5, 1.0)]
    found = excess_energy(even)
    assert (found.speed_share, found.bend_share, found.pairing_share) == (None, None, None)
    assert found.detour == pytest.approx(1, rel=1e-9)
    found = excess_energy([first, first + 0.2 * (last - first), last])
    assert (found.speed_share, found.detour) == (pytest.approx(1), pytest.approx(1))
    side = torch.linalg.cross(first, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand_as(first))
    side = side - side.mean(dim=0)
    found = excess_energy([first, even[1] + side, last])
    assert found.bend_share == pytest.approx(1, abs=0.01)
    assert found.detour > 1.05
    # Neighbors change places: layers as sets of points are a geodesic's, so there is no detour, but the pairing is not optimal.
    shuffled = last.roll(1, dims=0)
    found = excess_energy([first, (first + shuffled) / 2, shuffled])
    assert found.pairing_share == pytest.approx(1)
    found = excess_energy([first, even[1].roll(1, dims=0), last.roll(1, dims=0)])
    assert found.detour == pytest.approx(1, rel=1e-9)
    assert found.excess > 0


def test_a_path_that_does_not_move_has_no_shares():
    first = normal(4, 5, 2)
    found = excess_energy([first, first, first])
    assert (found.excess, found.speed_share, found.detour) == (0, None, None)


def test_a_single_sample_and_no_more_than_two_thousand():
    first, last = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert astuple(transport_chain([first, last])) == pytest.approx((25.0,) * 6)
    # One sample moves as its mean does: nothing is left once the layers are centered.
    assert excess_energy([first, last]).energy == 0
    for count in (0, 2001):
        with pytest.raises(ValueError, match=rf"needs 1 to 2000 samples, got {count}\. Take a subsample"):
            transport_chain([torch.zeros(count, 2)] * 2)
        with pytest.raises(ValueError, match=rf"needs 1 to 2000 samples, got {count}\."):
            excess_energy([torch.zeros(count, 2)] * 2)
    with pytest.raises(ValueError, match="at least two layers of one shape"):
        transport_chain([])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scores_do_not_depend_on_the_scale(scale):
    layers = trajectories(3, 4, 12, 3)
    one, other = transport_chain(layers), transport_chain([scale * layer for layer in layers])
    assert (other.score, other.efficiency) == pytest.approx((one.score, one.efficiency), rel=1e-9)
    assert 0 < one.score < 1
