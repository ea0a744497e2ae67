"""The test on classes against the exact assignment, SciPy's shortest paths, and its own two certificates."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import NegativeCycleError, floyd_warshall

from ncollapse.depth import ClassArcs, GeodesicCurve, collapsed_optimality, theorem1
from ncollapse.statistics import PairedMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def collapsed(seed, num_samples=18, num_classes=3, dim=3, pull=0.6):
    """First features, labels, targets; pulled to the targets so that about half of the pairings are optimal."""
    labels = torch.arange(num_samples) % num_classes
    targets = normal(seed + 10_000, num_classes, dim)
    return normal(seed, num_samples, dim) + pull * 3 * targets[labels] + 1, labels, targets


def arcs_of(x, labels, targets, num_classes=None):
    return ClassArcs.from_batch(x, labels, PairedMoments.from_batch(x, targets[labels], labels, num_classes or len(targets)))


def plain(x, labels, targets):
    """Arc lengths around the mean of x, sample by sample."""
    x, y = x.double().numpy() - x.double().numpy().mean(axis=0), targets.numpy()
    K = len(y)
    return np.array([[min(x[i] @ (y[k] - y[j]) for i in range(len(x)) if labels[i] == k) for j in range(K)] for k in range(K)])


def best_cost(x, y):
    cost = ((x[:, None] - y[None]) ** 2).sum(dim=2).numpy()
    rows, columns = linear_sum_assignment(cost)
    return cost[rows, columns].sum(), cost.trace()


def certified(x, labels, targets, found):
    """Check the proof on the raw features, whichever it is."""
    if found.optimal:
        assert (found.cycle, found.gain) == (None, 0.0)
        scores = x @ targets.T + torch.tensor(found.biases, dtype=torch.float64)
        own = scores.gather(1, labels.unsqueeze(1))
        return bool((own >= scores - 10 * found.tolerance - 1e-13 * scores.abs().max()).all())
    assert found.biases is None
    cycle = list(found.cycle)
    assert len(set(cycle)) == len(cycle) >= 2
    moved = labels.clone()
    for k, j in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        products = torch.where(labels == k, x @ (targets[k] - targets[j]), math.inf)
        moved[products.argmin()] = j
    before, after = (float((x - targets[y]).square().sum()) for y in (labels, moved))
    assert torch.equal(torch.bincount(labels), torch.bincount(moved))
    assert found.gain == pytest.approx(before - after, rel=1e-9)
    return before - after > 0


def test_the_verdict_is_that_of_the_assignment_on_400_instances():
    verdicts = []
    for seed in range(400):
        x, labels, targets = collapsed(seed)
        found = collapsed_optimality(arcs_of(x, labels, targets))
        best, identity = best_cost(x, targets[labels])
        assert found.optimal == (best >= identity - 1e-10 * identity), seed
        assert certified(x, labels, targets, found), seed
        verdicts.append(found.optimal)
        if found.optimal:
            paired = PairedMoments.from_batch(x, targets[labels], labels, 3)
            assert theorem1(GeodesicCurve(paired, "sample")).correlation >= 0
        else:
            assert found.gain <= identity - best + 1e-9
    assert 120 < sum(verdicts) < 280


@pytest.mark.parametrize("rounds", [32, 1])
def test_the_verdict_is_that_of_shortest_paths_for_more_classes(monkeypatch, rounds):
    """Also if a cycle is looked for after every round, as it is after 32 of more classes."""
    monkeypatch.setattr("ncollapse.depth.class_arcs._ROUNDS", rounds)
    verdicts = []
    for seed in range(60):
        x, labels, targets = collapsed(seed, num_samples=40, num_classes=8, dim=8, pull=0.4)
        found = collapsed_optimality(arcs_of(x, labels, targets))
        lengths = plain(x, labels, targets)
        np.fill_diagonal(lengths, 0.0)
        try:
            # Zero lengths are edges too: a matrix in which nan stands for no edge keeps them.
            floyd_warshall(np.ma.masked_invalid(lengths))
            negative = False
        except NegativeCycleError:
            negative = True
        assert found.optimal != negative, seed
        assert certified(x, labels, targets, found), seed
        verdicts.append(found.optimal)
    assert 5 < sum(verdicts) < 55


def test_arcs_are_the_minima_over_samples():
    x, labels, targets = collapsed(1)
    arcs = arcs_of(x, labels, targets)
    assert torch.allclose(arcs.lengths, torch.as_tensor(plain(x, labels, targets)), rtol=1e-12, atol=1e-12)
    assert arcs.lengths.diagonal().tolist() == [0.0] * 3
    y = targets - targets[labels].mean(dim=0)
    radius = (x - x.mean(dim=0)).norm(dim=1).max()
    assert float(arcs.scale) == pytest.approx(float(radius * y.norm(dim=1).max()))
    assert torch.allclose(arcs.shifts, targets @ x.mean(dim=0))


def test_repr_names_the_shortest_arc():
    x, labels, targets = collapsed(1)
    lengths = plain(x, labels, targets)
    shortest = min(float(lengths[j, k]) for j in range(3) for k in range(3) if j != k)
    assert repr(arcs_of(x, labels, targets)) == f"ClassArcs(3 classes: shortest arc {shortest:.4g})"


@pytest.mark.parametrize("sizes", [(18,), (1,) * 18, (5, 0, 13)])
def test_partitions_merge_to_the_whole(sizes):
    x, labels, targets = collapsed(2)
    paired = PairedMoments.from_batch(x, targets[labels], labels, 3)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    parts = [ClassArcs.from_batch(x[rows], labels[rows], paired) for rows in order.split(sizes)]
    whole = ClassArcs.from_batch(x, labels, paired)
    for parts_in_order in (parts, parts[::-1]):
        merged = parts_in_order[0]
        for part in parts_in_order[1:]:
            merged = merged.merge(part)
        for name, tensor in vars(whole).items():
            assert torch.allclose(getattr(merged, name), tensor, rtol=1e-13, atol=1e-13), name


def test_a_known_cycle_of_three_is_found():
    # Class k stands where class k+1 ends: each hands its sample on, and no swap of two gains as much.
    targets = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
    labels = torch.arange(3)
    x = targets[[1, 2, 0]]
    found = collapsed_optimality(arcs_of(x, labels, targets))
    assert not found.optimal
    assert found.cycle in {(0, 1, 2), (1, 2, 0), (2, 0, 1)}
    assert found.gain == pytest.approx(9.0, rel=1e-12)  # three sides of length √3 are saved
    assert certified(x, labels, targets, found)


def test_every_order_of_two_to_four_points_is_optimal_only_at_home():
    targets = normal(3, 4, 4)
    labels = torch.arange(4)
    for order in permutations(range(4)):
        x = targets[list(order)]
        found = collapsed_optimality(arcs_of(x, labels, targets))
        assert found.optimal == (order == (0, 1, 2, 3)), order
        assert certified(x, labels, targets, found)


def test_ties_are_optimal():
    # All samples in one point, and targets that coincide: no cycle gains anything, up to rounding.
    labels = torch.arange(6) % 3
    for seed in range(20):
        targets = 1e3 * normal(seed, 3, 5)
        assert collapsed_optimality(arcs_of(normal(seed + 50, 1, 5).expand(6, 5) * 7, labels, targets)).optimal
        same = targets[:1].expand(3, 5)
        assert collapsed_optimality(arcs_of(normal(seed, 6, 5), labels, same)).optimal
        on_a_line = targets[0] + torch.tensor([[0.0], [1.0], [2.0]]) * targets[1]
        between = on_a_line[labels] + 5 * torch.linalg.qr(targets.T, mode="complete").Q[:, 4]
        assert collapsed_optimality(arcs_of(between, labels, on_a_line)).optimal


def test_translations_change_the_biases_only():
    for seed in range(40):
        x, labels, targets = collapsed(seed)
        near, far = (collapsed_optimality(arcs_of(x + shift, labels, targets + shift)) for shift in (0.0, 1e5))
        assert near.optimal == far.optimal
        assert near.cycle == far.cycle
        assert near.gain == pytest.approx(far.gain, rel=1e-6)


def test_float32_features_and_many_blocks():
    x, labels, targets = collapsed(4, num_samples=900, num_classes=3, dim=700)
    arcs = arcs_of(x.float(), labels, targets)
    assert torch.allclose(arcs.lengths, torch.as_tensor(plain(x.float(), labels, targets)), rtol=1e-10, atol=1e-9)


def test_a_class_without_samples_is_left_out():
    x, labels, targets = collapsed(5)
    labels = labels * 2  # classes 0, 2, 4 of 5
    spread = torch.zeros(5, 3, dtype=torch.float64)
    spread[[0, 2, 4]] = targets
    arcs = arcs_of(x, labels, spread)
    assert arcs.lengths[1].isinf().all()
    assert arcs.lengths[:, 3].isinf().all()
    found, expected = collapsed_optimality(arcs), collapsed_optimality(arcs_of(x, labels // 2, targets))
    assert found.optimal == expected.optimal
    optimal = collapsed_optimality(arcs_of(spread[labels], labels, spread))
    assert [math.isnan(bias) for bias in optimal.biases] == [False, True, False, True, False]


def test_one_class_is_optimal_and_no_sample_is_refused():
    x = normal(6, 4, 2)
    paired = PairedMoments.from_batch(x, x, torch.zeros(4, dtype=torch.long), 1)
    assert collapsed_optimality(ClassArcs.from_batch(x, torch.zeros(4, dtype=torch.long), paired)).optimal
    with pytest.raises(ValueError, match=r"samples of at least one class, got none\. Merge the arcs"):
        collapsed_optimality(ClassArcs.from_batch(x[:0], torch.zeros(0, dtype=torch.long), paired))


def test_many_classes_take_little_time():
    x, labels, targets = collapsed(7, num_samples=600, num_classes=300, dim=16, pull=0.0)
    found = collapsed_optimality(arcs_of(x, labels, targets))
    assert not found.optimal
    assert certified(x, labels, targets, found)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_size_of_terms_is_that_of_the_classes_with_samples(scale):
    x, labels, targets = (scale * part if part.is_floating_point() else part for part in collapsed(5))
    spread = torch.zeros(5, 3, dtype=torch.float64)
    spread[[0, 2, 4]] = targets
    arcs, whole = arcs_of(x, 2 * labels, spread), arcs_of(x, labels, targets)
    reach = float((x - x.mean(dim=0)).norm(dim=1).max() * (targets - targets[labels].mean(dim=0)).norm(dim=1).max())
    assert float(arcs.scale) == pytest.approx(float(whole.scale), rel=1e-12) == pytest.approx(reach, rel=1e-12)
    assert collapsed_optimality(whole).tolerance == pytest.approx(1e-12 * reach, rel=1e-9)
