"""Sliced and swap bounds, and crossing pairs, against quadrature over angles, sorting, brute force and the exact distance."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from ncollapse.depth import gelbrich_squared, pair_violations, sliced_wasserstein2, swap_bound, wasserstein2_squared
from ncollapse.depth import transport_bounds as module


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cost(x, y):
    return float((x - y).square().sum(dim=1).mean())


def test_on_a_line_both_sliced_bounds_are_exact():
    x, y = normal(1, 80, 1), 2 * normal(2, 80, 1) + 1
    found, exact = sliced_wasserstein2(x, y), wasserstein2_squared(x, y)
    assert (found.maximum, found.scaled_mean) == (pytest.approx(exact, rel=1e-12), pytest.approx(exact, rel=1e-12))
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.num_directions == 500


def test_in_the_plane_the_mean_over_angles_is_that_of_quadrature():
    x, y = normal(3, 40, 2), normal(4, 40, 2) * torch.tensor([3.0, 0.5]) + 1
    distances = []
    for angle in np.linspace(0, math.pi, 2000, endpoint=False):
        theta = np.array([math.cos(angle), math.sin(angle)])
        distances.append(np.mean((np.sort(x.numpy() @ theta) - np.sort(y.numpy() @ theta)) ** 2))
    found = sliced_wasserstein2(x, y, num_directions=20000)
    assert abs(found.scaled_mean - 2 * np.mean(distances)) < 4 * found.standard_error < 0.1 * found.scaled_mean
    assert found.maximum == pytest.approx(max(distances), rel=1e-4)
    assert found.standard_error == pytest.approx(2 * np.std(distances) / math.sqrt(20000), rel=0.05)


def test_a_translation_is_found_up_to_chance():
    x, shift = normal(5, 30, 6), torch.tensor([1.0, -2.0, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    found = sliced_wasserstein2(x, x + shift, num_directions=4000)
    squared = float(shift.square().sum())
    assert abs(found.scaled_mean - squared) < 4 * found.standard_error < 0.2 * squared
    assert 0.5 * squared < found.maximum <= squared


@pytest.mark.parametrize("dim", [1, 2, 10])
def test_bounds_lie_on_their_sides(dim):
    for seed in range(10):
        x = normal(seed, 20, dim)
        y = normal(seed + 50, 20, dim) + 0.5 * x
        exact, sliced, swapped = wasserstein2_squared(x, y), sliced_wasserstein2(x, y), swap_bound(x, y)
        rounding = 1e-12 * cost(x, y)
        assert sliced.maximum <= exact + rounding
        assert sliced.scaled_mean - 4 * sliced.standard_error <= exact + rounding
        assert gelbrich_squared(x, y) <= exact + rounding
        assert exact - rounding <= swapped.cost <= cost(x, y) + rounding


def test_blocks_of_directions_change_nothing(monkeypatch):
    x, y = normal(6, 30, 4), normal(7, 30, 4)
    whole = sliced_wasserstein2(x, y)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 100)
    blocked = sliced_wasserstein2(x, y)
    assert (blocked.maximum, blocked.scaled_mean) == (pytest.approx(whole.maximum), pytest.approx(whole.scaled_mean))
    assert pair_violations(x, y).violating == violating(x, y)


def test_swaps_sort_a_line():
    x, y = normal(8, 51, 1), normal(9, 51, 1)
    found = swap_bound(x, y, rounds=1500)
    assert found.cost == pytest.approx(wasserstein2_squared(x, y), rel=1e-12)
    assert torch.equal(x.flatten().argsort(), found.order.argsort()[y.flatten().argsort()])


def test_swaps_end_where_no_pair_crosses_and_never_raise_the_cost():
    x, y = normal(10, 30, 3), normal(11, 30, 3)
    costs = [swap_bound(x, y, rounds=rounds).cost for rounds in (0, 1, 2, 5, 20, 1000)]
    assert costs[0] == pytest.approx(cost(x, y), rel=1e-14)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * costs[0]
    found = swap_bound(x, y)
    assert found.order.sort().values.tolist() == list(range(30))
    assert found.cost == pytest.approx(cost(x, y[found.order]), rel=1e-14)
    assert violating(x, y[found.order]) == 0
    assert found.swaps > 10
    assert swap_bound(x, x).swaps == 0


def test_a_cycle_of_three_escapes_swaps():
    # Turned by 80 degrees no two corners of a triangle cross (cos 80 > 0), but turning back by 40 is cheaper for all three.
    def turned(degrees):
        angles = torch.deg2rad(torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64) + degrees)
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    x, y = turned(0.0), turned(80.0)
    assert pair_violations(x, y).violating == 0
    assert swap_bound(x, y).swaps == 0
    assert swap_bound(x, y).cost > 2 * wasserstein2_squared(x, y)


def violating(x, y):
    return sum(float((x[i] - x[j]) @ (y[i] - y[j])) < 0 for i, j in combinations(range(len(x)), 2))


@pytest.mark.parametrize("offset", [0.0, 1e7, 1e7 + 0.1])
def test_pairs_on_the_border_are_decided_by_differences(offset):
    """Right angles, of which one product of all samples, far from the origin, shows no sign."""
    x, y = (normal(seed, 30, 3).round() + offset for seed in (14, 15))
    differences = x[:, None] - x, y[:, None] - y
    assert int(((differences[0] * differences[1]).sum(dim=2) == 0).triu(1).sum()) > 30
    assert pair_violations(x, y).violating == violating(x, y)


def test_all_pairs_are_counted_once_where_they_fit():
    x, y = normal(12, 25, 3), normal(13, 25, 3)
    found = pair_violations(x, y)
    assert (found.violating, found.num_pairs, found.exact) == (violating(x, y), 300, True)
    assert found.rate == violating(x, y) / 300
    assert pair_violations(x, y, num_pairs=300).exact
    assert pair_violations(x, 2 * x).rate == 0.0
    assert pair_violations(x, -x).rate == 1.0
    assert math.isnan(pair_violations(x[:1], x[:1]).rate)


def test_drawn_pairs_estimate_the_rate_of_all():
    x, y = normal(14, 40, 2), normal(15, 40, 2)
    exact = violating(x, y) / 780
    x, y = x.repeat(30, 1), y.repeat(30, 1)  # copies of one sample never cross
    state = torch.get_rng_state()
    found = pair_violations(x, y, num_pairs=100_000)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.num_pairs, found.exact) == (100_000, False)
    assert found.rate == pytest.approx(exact * (1200 - 30) / 1199, abs=4 * math.sqrt(0.25 / 100_000))
    assert found == pair_violations(x, y, num_pairs=100_000, seed=0)
    assert found != pair_violations(x, y, num_pairs=100_000, seed=1)


def test_a_sample_is_never_paired_with_itself():
    # Of three samples every pair of two crosses: drawing one of them twice would show.
    x = normal(16, 3, 2)
    assert pair_violations(x, -x, num_pairs=2).rate == 1.0
    assert all(pair_violations(x, -x, num_pairs=2, seed=seed).violating == 2 for seed in range(50))


def test_random_bounds_leave_the_global_generator_alone():
    x, y, state = normal(17, 9, 2), normal(18, 9, 2), torch.get_rng_state()
    assert sliced_wasserstein2(x, y) == sliced_wasserstein2(x, y)
    assert sliced_wasserstein2(x, y) != sliced_wasserstein2(x, y, seed=1)
    assert torch.equal(swap_bound(x, y).order, swap_bound(x, y).order)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("function", [sliced_wasserstein2, swap_bound, pair_violations])
@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3,), (3,)), ((0, 2), (0, 2))])
def test_samples_of_unequal_shapes_are_refused(function, shapes):
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"one shape \(N, d\) with N of 1 or more, got \(.*Pass flat features"):
        function(x, y)


def test_too_few_directions_or_pairs_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"num_directions must be 200 or more .* got 10\. The default is 500"):
        sliced_wasserstein2(x, x, num_directions=10)
    with pytest.raises(ValueError, match=r"num_pairs must be 1 or more, got 0\. The default is a million"):
        pair_violations(x, x, num_pairs=0)


def test_what_is_drawn_unless_asked_for(monkeypatch):
    x, y = normal(19, 1500, 2), normal(20, 1500, 2)
    assert sliced_wasserstein2(x[:30], y[:30]) == sliced_wasserstein2(x[:30], y[:30], num_directions=500, seed=0)
    found = pair_violations(x, y)
    assert found == pair_violations(x, y, num_pairs=10**6, seed=0)
    assert (found.num_pairs, found.exact) == (10**6, False)
    products, rounds = module._products, []
    monkeypatch.setattr(module, "_products", lambda *arguments: (rounds.append(1), products(*arguments))[1])
    assert torch.equal(swap_bound(x[:30], y[:30]).order, swap_bound(x[:30], y[:30], rounds=1000, seed=0).order)
    assert len(rounds) == 2000


def test_the_fewest_that_can_be_asked_for():
    x, y = normal(21, 25, 3), normal(22, 25, 3)
    assert sliced_wasserstein2(x, y, num_directions=200).num_directions == 200
    assert pair_violations(x, y, num_pairs=1).num_pairs == 1
    assert pair_violations(x[:2], -x[:2], num_pairs=1) == module.PairViolations(1, 1, True)
    # One pair less than there are.
    assert not pair_violations(x, y, num_pairs=299).exact


def test_every_round_of_swaps_asks_all_samples():
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert swap_bound(x, x.flip(0), rounds=1).cost == 0
    same = torch.ones(8, 2, dtype=torch.float64)
    assert swap_bound(same, same).swaps == 0
    assert pair_violations(torch.zeros(8, 2), torch.zeros(8, 2)).violating == 0


@pytest.mark.parametrize("crossing", [(0, 1), (0, 2), (1, 2)])
def test_any_pair_is_drawn_with_the_same_chance(crossing):
    """Of three samples one pair crosses: it is a third of those that are drawn."""
    i, j = crossing
    (k,) = {0, 1, 2} - {i, j}
    x, y = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    x[i, 0], x[j, 0], y[i, 0], y[j, 0] = 1.0, -1.0, -1.0, 1.0
    x[k, 1] = y[k, 1] = 9.0
    rates = [pair_violations(x, y, num_pairs=2, seed=seed).rate for seed in range(400)]
    assert pair_violations(x, y).violating == 1
    assert abs(np.mean(rates) - 1 / 3) < 4 * math.sqrt(2 / 9 / 800)
