"""k-NN by depth: the oracle by full sorting, ties, blocks, agreement with a network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncollapse.depth import neighbor_predictions, neighbor_scores, neighbors

SEEDS = st.integers(0, 2**32)


def oracle(train, labels, k, num_classes, queries=None):
    """Full stable sort of explicit distances, votes counted one by one."""
    found = []
    for i, query in enumerate(train if queries is None else queries):
        distances = np.sqrt(np.sum((train - query) ** 2, axis=1))
        if queries is None:
            distances[i] = np.inf
        nearest = np.argsort(distances, kind="stable")[:k]
        ranking = [
            (-np.sum(labels[nearest] == c), np.sum(distances[nearest][labels[nearest] == c]), c) for c in range(num_classes)
        ]
        found.append(min(ranking)[2])
    return found


@given(st.integers(1, 6), st.integers(2, 4), st.booleans(), SEEDS)
def test_equal_to_the_oracle(k, num_classes, leave_one_out, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes, (20,), generator=generator)
    queries = None if leave_one_out else torch.randn(7, 3, generator=generator, dtype=torch.float64)
    found = neighbor_predictions(features, labels, num_classes=num_classes, k=k, queries=queries)
    assert found.tolist() == oracle(
        features.numpy(), labels.numpy(), k, num_classes, None if leave_one_out else queries.numpy()
    )


@given(st.integers(1, 8), SEEDS)
def test_ties_on_a_line_equal_the_oracle(k, seed):
    # Integers on a line: distances, their ties and their sums are exact.
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-3, 4, (14, 1), generator=generator).double()
    labels = torch.randint(0, 3, (14,), generator=generator)
    queries = torch.randint(-4, 5, (9, 1), generator=generator).double()
    for asked in (None, queries):
        found = neighbor_predictions(features, labels, num_classes=3, k=k, queries=asked)
        assert found.tolist() == oracle(features.numpy(), labels.numpy(), k, 3, None if asked is None else asked.numpy())


def test_equal_votes_go_to_the_nearer_class_then_to_the_smaller_index():
    features, zero = torch.tensor([[1.0], [-2.0]]), torch.zeros(1, 1)
    assert neighbor_predictions(features, torch.tensor([1, 0]), num_classes=2, k=2, queries=zero).tolist() == [1]
    features[1] = -1.0
    assert neighbor_predictions(features, torch.tensor([1, 0]), num_classes=2, k=2, queries=zero).tolist() == [0]
    # One neighbor of two at equal distance: the first sample.
    assert neighbor_predictions(features, torch.tensor([1, 0]), num_classes=2, k=1, queries=zero).tolist() == [1]


def test_blocks_do_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    features, labels = torch.randn(31, 4, generator=generator), torch.randint(0, 3, (31,), generator=generator)
    whole = neighbor_predictions(features, labels, num_classes=3, k=4)
    for elements in (1, 100):
        monkeypatch.setattr(neighbors, "_BLOCK_ELEMENTS", elements)
        assert torch.equal(neighbor_predictions(features, labels, num_classes=3, k=4), whole)


def test_collapsed_features_are_decided_right_for_every_k_below_the_class_size():
    means = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3).repeat(6)
    for k in range(1, 6):
        (score,) = neighbor_scores({"last": means[labels]}, labels, num_classes=3, k=k)
        assert score.accuracy == 1
    # With the sample itself in, one neighbor is always right.
    noise = torch.randn(18, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(neighbor_predictions(noise, labels, num_classes=3, k=1, queries=noise), labels)
    assert not torch.equal(neighbor_predictions(noise, labels, num_classes=3, k=1), labels)


def test_far_features_with_tiny_spread_keep_their_neighbors():
    # Inner products would leave nothing of distances of 1e-6 at 1e4.
    features = 1e4 + 1e-6 * torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    found = neighbor_predictions(features, torch.tensor([0, 0, 1, 1]), num_classes=2, k=1)
    assert found.tolist() == [0, 0, 1, 1]


def test_scores_by_depth_and_agreement_with_the_network():
    train = {"first": torch.tensor([[0.0], [3.0], [1.0], [4.0]]), "last": torch.tensor([[0.0], [1.0], [9.0], [8.0]])}
    labels = torch.tensor([0, 0, 1, 1])
    predictions = torch.tensor([0, 1, 1, 0])
    first, last = neighbor_scores(train, labels, num_classes=2, k=1, predictions=predictions)
    # The first layer's votes are 1, 1, 0, 0; the last layer's 0, 0, 1, 1. The network is wrong about samples 1 and 3.
    assert (first.layer, first.accuracy, first.agreement, first.agreement_on_errors) == ("first", 0.0, 0.5, 1.0)
    assert (last.layer, last.accuracy, last.agreement, last.agreement_on_errors) == ("last", 1.0, 0.5, 0.0)
    held_out = {name: layer + 0.4 for name, layer in train.items()}
    first, last = neighbor_scores(
        train, labels, num_classes=2, k=1, queries=held_out, query_labels=torch.tensor([0, 1, 1, 1]), predictions=labels
    )
    assert (first.accuracy, first.agreement, first.agreement_on_errors) == (0.75, 1.0, 1.0)
    none = neighbor_scores(train, labels, num_classes=2, k=1)[0]
    assert math.isnan(none.agreement)
    assert math.isnan(none.agreement_on_errors)
    assert math.isnan(neighbor_scores(train, labels, num_classes=2, k=1, predictions=labels)[1].agreement_on_errors)


def test_wrong_arguments_are_named():
    features, labels = torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])
    for k in (0, 4):
        with pytest.raises(ValueError, match=rf"1 <= k <= 3 neighbors and queries of 2 features, got k={k} and 2"):
            neighbor_predictions(features, labels, num_classes=2, k=k)
    with pytest.raises(ValueError, match=r"1 <= k <= 4 neighbors and queries of 2 features, got k=4 and 3 features"):
        neighbor_predictions(features, labels, num_classes=2, k=4, queries=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"needs query_labels and every layer in queries, got no labels and layers h\."):
        neighbor_scores({"h": features}, labels, num_classes=2, k=1, queries={"h": features})
    with pytest.raises(ValueError, match=r"got labels and layers g\. Collect the same layers"):
        neighbor_scores({"h": features}, labels, num_classes=2, k=1, queries={"g": features}, query_labels=labels)
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(4, 2\)\. Pass logits\.argmax\(1\)"):
        neighbor_scores({"h": features}, labels, num_classes=2, k=1, predictions=torch.zeros(4, 2))


def test_ten_neighbors_vote_unless_asked_for():
    generator = torch.Generator().manual_seed(5)
    features, labels = torch.randn(200, 3, generator=generator), torch.randint(0, 3, (200,), generator=generator)
    ten = neighbor_predictions(features, labels, num_classes=3, k=10)
    assert torch.equal(neighbor_predictions(features, labels, num_classes=3), ten)
    assert not torch.equal(neighbor_predictions(features, labels, num_classes=3, k=11), ten)
    (score,) = neighbor_scores({"h": features}, labels, num_classes=3)
    assert score.accuracy == float((ten == labels).double().mean())


@pytest.mark.parametrize("distance", [1e6, 1e10])
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_neighbors_in_groups_that_are_far_apart(distance, leave_one_out):
    """Products of features lose all digits of the distances within a group, wherever the center is."""
    generator = torch.Generator().manual_seed(6)
    features = distance * torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).double().repeat(20, 1)
    features += distance * 1e-9 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (40,), generator=generator)
    queries = None if leave_one_out else features.roll(1, dims=0) + distance * 1e-9
    for k in (1, 3):
        found = neighbor_predictions(features, labels, num_classes=3, k=k, queries=queries)
        expected = oracle(features.numpy(), labels.numpy(), k, 3, None if leave_one_out else queries.numpy())
        assert found.tolist() == expected


def test_samples_that_are_all_the_same_are_decided_by_the_first():
    zeros, labels = torch.zeros(5, 2), torch.tensor([1, 0, 0, 1, 0])
    assert neighbor_predictions(zeros, labels, num_classes=2, k=1).tolist() == [0, 1, 1, 1, 1]
    assert neighbor_predictions(zeros, labels, num_classes=2, k=1, queries=zeros[:2]).tolist() == [1, 1]


def test_no_queries_have_no_decisions():
    found = neighbor_predictions(
        torch.randn(5, 2), torch.tensor([1, 0, 0, 1, 0]), num_classes=2, k=1, queries=torch.zeros(0, 2)
    )
    assert found.shape == (0,)
