"""The optimal transport score against brute force over permutations, closed forms, and what subsampling must do to it."""

import math
import sys
from dataclasses import fields
from itertools import permutations

import numpy as np
import pytest
import torch

from ncollapse.depth import label_wasserstein2_squared, stratified_sample, transport_score, wasserstein2_squared

GOLDEN = {"balanced": (2.7877704897, 3.4910654477), "imbalanced": (2.7213575415, 3.4974656822)}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_golden_numbers(golden):
    name, h0, h1, labels = golden
    found = transport_score(h0, h1, labels)
    wasserstein2, cost = GOLDEN[name]
    assert found.wasserstein2 == (pytest.approx(wasserstein2, abs=1e-10), 0.0)
    assert found.identity_cost == (pytest.approx(cost, abs=1e-10), 0.0)
    assert found.score == (pytest.approx(wasserstein2 / cost, abs=1e-10), 0.0)
    assert found.excess == (pytest.approx(cost - wasserstein2, abs=1e-10), 0.0)
    assert (found.num_samples, found.total_samples, found.repeats, found.exact) == (12, 12, 1, True)


@pytest.mark.parametrize("seed", range(6))
def test_both_distances_are_the_best_of_their_permutations(seed):
    labels = torch.tensor([1, 0, 1, 0, 2, 1])
    x, y = normal(seed, 6, 2), normal(seed + 100, 6, 2)
    costs, kept = [], []
    for order in permutations(range(6)):
        costs.append(np.mean([np.sum((x[i] - y[s]).numpy() ** 2) for i, s in enumerate(order)]))
        if all(labels[i] == labels[s] for i, s in enumerate(order)):
            kept.append(costs[-1])
    found = transport_score(x, y, labels)
    assert len(kept) == 12
    assert found.wasserstein2.mean == pytest.approx(min(costs), rel=1e-12)
    assert found.label_wasserstein2.mean == pytest.approx(min(kept), rel=1e-12)
    assert found.label_score.mean == pytest.approx(min(kept) / costs[0], rel=1e-12)
    assert found.identity_cost.mean == pytest.approx(costs[0], rel=1e-12)


def test_a_gradient_of_a_convex_function_scores_one_and_a_rotation_does_not():
    x, factor = normal(1, 30, 4), normal(2, 4, 4)
    labels = torch.arange(30) % 3
    assert transport_score(x, x @ (factor @ factor.T), labels).score.mean == pytest.approx(1.0, abs=1e-12)
    assert transport_score(x, -x, labels).score.mean < 0.5


def test_swapped_classes_cost_across_labels_only():
    # The classes trade places: the best pairing stays at home, one that keeps the labels has to move.
    x = torch.tensor([[0.0], [0.1], [10.0], [10.1]])
    y = torch.tensor([[10.0], [10.1], [0.0], [0.1]])
    found = transport_score(x, y, torch.tensor([0, 0, 1, 1]))
    assert found.wasserstein2.mean == pytest.approx(0.0, abs=1e-12)
    assert found.label_wasserstein2.mean == pytest.approx(100.0, rel=1e-6)
    assert (found.score.mean, found.label_score.mean) == (pytest.approx(0.0, abs=1e-12), pytest.approx(1.0, rel=1e-6))


def test_nothing_moves():
    x = normal(3, 5, 2)
    found = transport_score(x, x, torch.zeros(5, dtype=torch.long))
    assert (found.identity_cost.mean, found.excess.mean) == (0.0, 0.0)
    assert math.isnan(found.score.mean)
    assert math.isnan(found.label_score.mean)


def test_subsamples_have_their_size_spread_and_seed():
    labels = torch.arange(60) % 3
    x, y = normal(4, 60, 2), normal(5, 60, 2)
    state = torch.get_rng_state()
    found = transport_score(x, y, labels, max_samples=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.num_samples, found.total_samples, found.repeats, found.exact) == (20, 60, 5, False)
    source = generator(0)
    rows = [stratified_sample(labels, 20, source) for _ in range(5)]
    values = [wasserstein2_squared(x[r], y[r]) for r in rows]
    assert found.wasserstein2 == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    ratios = [value / float((x[r] - y[r]).square().sum(dim=1).mean()) for value, r in zip(values, rows, strict=True)]
    assert found.score == (pytest.approx(np.mean(ratios)), pytest.approx(np.std(ratios, ddof=1)))
    assert found == transport_score(x, y, labels, max_samples=20, seed=0)
    assert found != transport_score(x, y, labels, max_samples=20, seed=1)
    single = transport_score(x, y, labels, max_samples=20, repeats=1)
    assert all(math.isnan(getattr(single, field.name).spread) for field in fields(single)[:6])


def test_parts_of_a_partition_bound_the_whole_from_above():
    x, y = normal(6, 60, 3), normal(7, 60, 3)
    whole = wasserstein2_squared(x, y)
    for seed in range(10):
        parts = torch.randperm(60, generator=generator(seed)).split(15)
        assert np.mean([wasserstein2_squared(x[rows], y[rows]) for rows in parts]) >= whole
    labels = torch.arange(60) % 4
    assert transport_score(x, y, labels, max_samples=20, repeats=40).wasserstein2.mean > whole


@pytest.mark.parametrize(
    ("counts", "num_samples", "quotas"),
    [((6, 3, 1), 10, (6, 3, 1)), ((6, 3, 1), 5, (3, 2, 0)), ((50, 30, 20), 10, (5, 3, 2)), ((1, 1, 1), 2, (1, 1, 0)),
     ((7, 7, 6), 10, (4, 3, 3)), ((4, 4), 0, (0, 0))],
)  # fmt: skip
def test_strata_keep_the_shares_of_the_classes(counts, num_samples, quotas):
    labels = torch.repeat_interleave(torch.tensor([0, 2, 5][: len(counts)]), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(3))]
    drawn = stratified_sample(labels, num_samples, generator(1))
    assert len(drawn.unique()) == len(drawn) == num_samples
    assert tuple(int((labels[drawn] == k).sum()) for k in (0, 2, 5)[: len(counts)]) == quotas


def test_every_sample_is_drawn_equally_often():
    labels = torch.tensor([0] * 8 + [1] * 4)
    source = generator(2)
    hits = sum(torch.bincount(stratified_sample(labels, 6, source), minlength=12) for _ in range(2000))
    assert (hits / 2000).tolist() == pytest.approx([0.5] * 12, abs=0.05)


@pytest.mark.parametrize("shapes", [((3, 2), (4, 2)), ((3, 2), (3, 5)), ((3,), (3,)), ((0, 2), (0, 2))])
def test_layers_of_unequal_shapes_are_refused(shapes):
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"one shape \(N, d\) with N of 1 or more, got \(.*Pass flat features"):
        transport_score(x, y, torch.zeros(len(x), dtype=torch.long))


def test_other_wrong_arguments_are_refused():
    x = torch.zeros(3, 2)
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must be 1 or more, got 0 and 5. The defaults are"):
        transport_score(x, x, labels, max_samples=0)
    with pytest.raises(ValueError, match="must be 1 or more, got 2000 and 0"):
        transport_score(x, x, labels, repeats=0)
    with pytest.raises(TypeError, match="labels must be an integer tensor"):
        transport_score(x, x, labels.double())
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\), got -1"):
        transport_score(x, x, labels - torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match=r"one class index per sample, shape \(3,\), got \(2,\). Pass the labels"):
        label_wasserstein2_squared(x, x, labels[:2])
    with pytest.raises(ValueError, match=r"num_samples must be in \[0, 3\], the number of labels, got 4. Draw fewer"):
        stratified_sample(labels, 4, generator())


def test_two_thousand_samples_of_five_repeats_unless_asked_for(monkeypatch):
    module = sys.modules["ncollapse.depth.transport_score"]
    monkeypatch.setattr(module, "wasserstein2_squared", lambda first, last: float(len(first)))
    labels = torch.arange(2001) % 3
    found = transport_score(normal(0, 2001, 1), normal(1, 2001, 1), labels)
    assert (found.num_samples, found.total_samples, found.repeats, found.exact) == (2000, 2001, 5, False)


def test_the_fewest_samples_and_repeats():
    x, y, labels = normal(2, 8, 2), normal(3, 8, 2), torch.arange(8) % 2
    whole = transport_score(x, y, labels, max_samples=8)
    assert (whole.repeats, whole.num_samples, whole.exact) == (1, 8, True)
    assert whole == transport_score(x, y, labels)
    one = transport_score(x, y, labels, max_samples=1, repeats=2)
    assert (one.num_samples, one.repeats, one.score.mean) == (1, 2, pytest.approx(1))
    assert math.isfinite(one.wasserstein2.spread)
    assert stratified_sample(labels, 0, generator()).tolist() == []
    assert stratified_sample(labels[:0], 0, generator()).tolist() == []


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_scores_do_not_depend_on_the_scale(scale):
    x, y, labels = normal(2, 8, 2), normal(3, 8, 2), torch.arange(8) % 2
    one, other = transport_score(x, y, labels), transport_score(scale * x, scale * y, labels)
    assert (other.score.mean, other.label_score.mean) == pytest.approx((one.score.mean, one.label_score.mean), rel=1e-9)
    assert one.score.mean < one.label_score.mean < 1
