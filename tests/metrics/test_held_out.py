"""Weak and strong collapse of held-out samples: oracle, order, equality, and what they are on the training set."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from ncollapse import metrics as m
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def held_out(features, labels, centers):
    """Moments and decisions of samples, by given centers."""
    moments = ClassMoments.from_batch(features, labels, centers.moments.num_classes)
    return moments, ClassDecisions.from_batch(features, labels, centers, counts=moments.counts)


def both(features, labels, centers, convention="class"):
    moments, decisions = held_out(features, labels, centers)
    strong = m.strong_collapse(moments, centers.moments, convention)
    return float(strong), float(m.weak_collapse(moments, decisions, centers.moments, convention))


@given(st.integers(2, 5), st.integers(1, 6), st.floats(0.01, 3.0), SEEDS)
def test_equal_to_the_oracle_and_in_order(num_classes, dim, noise, seed):
    K, means = num_classes, normal(seed, num_classes, dim)
    train_y = torch.arange(K).repeat_interleave(torch.arange(1, K + 1))
    test_y = torch.arange(K).repeat_interleave(torch.arange(K + 1, 1, -1))
    train_h = means[train_y] + noise * normal(seed + 1, len(train_y), dim)
    test_h = means[test_y] + noise * normal(seed + 2, len(test_y), dim)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(train_h, train_y, K))
    mu = reference.means(train_h.numpy(), train_y.numpy(), K)
    right = bool((reference.nearest(test_h.numpy(), mu) == test_y.numpy()).all())
    for convention, alpha in (("class", "class"), ("sample", "sample")):
        trace = reference.between_covariance(train_h.numpy(), train_y.numpy(), K, alpha).trace()
        strong, weak = both(test_h, test_y, centers, convention)
        arguments = (test_h.numpy(), test_y.numpy(), K, mu, trace, alpha)
        assert strong == pytest.approx(reference.strong_collapse(*arguments), rel=1e-10)
        assert weak == pytest.approx(reference.weak_collapse(*arguments), rel=1e-10, abs=1e-13 * strong)
        assert -1e-13 * strong <= weak <= strong
        assert (weak == strong) is right


@pytest.mark.parametrize("convention", ["class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"])
def test_on_the_training_set_strong_collapse_is_pfc1(convention):
    labels = torch.arange(4).repeat_interleave(torch.tensor([9, 4, 3, 7]))
    features = normal(0, 4, 6)[labels] + normal(1, 23, 6)
    moments = ClassMoments.from_batch(features, labels, 4)
    strong = float(m.strong_collapse(moments, moments, convention))
    assert strong == pytest.approx(float(m.within_between_ratio(moments, convention)), rel=1e-15)


def test_written_out():
    # Training means (0, 0) and (4, 0): tr Σ_B = 4. One sample of class 0 lies near the other mean.
    centers = ClassCenters.from_moments(
        ClassMoments.from_batch(torch.tensor([[0.0, 0.0], [4.0, 0.0]]), torch.tensor([0, 1]), 2)
    )
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [4.0, 2.0], [4.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    strong, weak = both(features, labels, centers)
    assert strong == pytest.approx((1 + 9 + 4 + 0) / 4 / 4, rel=1e-15)
    assert weak == pytest.approx((1 + 1 + 4 + 0) / 4 / 4, rel=1e-15)


def test_weak_without_strong_collapse():
    # Every sample lies on some training mean, half of them on a wrong one.
    means = normal(3, 4, 5)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(4), 4))
    strong, weak = both(means.repeat(2, 1), torch.tensor([0, 1, 2, 3, 1, 2, 3, 0]), centers)
    assert weak == pytest.approx(0, abs=1e-15)
    assert strong > 0.5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_margins_add_up_over_batches(batch_size):
    labels = torch.arange(3).repeat(5)
    features = normal(5, 3, 4)[labels] + normal(6, 15, 4)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(normal(5, 3, 4), torch.arange(3), 3))
    whole = ClassDecisions.from_batch(features, labels, centers)
    merged = ClassDecisions.empty(centers)
    for start in range(0, 15, batch_size):
        part = slice(start, start + batch_size)
        merged = merged.merge(ClassDecisions.from_batch(features[part], labels[part], centers))
    assert torch.allclose(merged.margin_sums, whole.margin_sums, rtol=1e-14)
    assert bool((whole.margin_sums < 0).any())


def test_undefined_where_the_training_means_coincide_or_a_class_is_missing():
    same = ClassCenters.from_moments(ClassMoments.from_batch(torch.ones(2, 3), torch.arange(2), 2))
    assert all(math.isnan(value) for value in both(normal(0, 4, 3), torch.tensor([0, 1, 0, 1]), same))
    centers = ClassCenters.from_moments(ClassMoments.from_batch(normal(1, 2, 3), torch.arange(2), 2))
    assert all(math.isnan(value) for value in both(normal(0, 4, 3), torch.zeros(4).long(), centers))


def test_thousands_of_classes_leave_no_rounding_where_every_sample_is_right():
    # Beyond 4096 classes the separations come from inner products and are not exactly 0 for the own class.
    means = 1e3 * normal(2, 4100, 3)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(4100), 4100))
    decisions = ClassDecisions.from_batch(means, torch.arange(4100), centers)
    assert bool((decisions.ncc_correct == 1).all())
    assert not decisions.margin_sums.any()


@pytest.mark.parametrize("convention", ["class", "sample"])
def test_variances_of_these_samples_and_means_of_training(convention):
    labels = torch.arange(4).repeat_interleave(torch.tensor([9, 4, 3, 7]))
    train, test = (normal(0, 4, 6)[labels] + normal(seed, 23, 6) for seed in (1, 2))
    reference, moments = (ClassMoments.from_batch(h, labels, 4) for h in (train, test))
    variances, means = moments.class_variances, reference.means
    pairs = [(k, j) for k in range(4) for j in range(k)]
    cdnv = [(variances[k] + variances[j]) / (2 * (means[k] - means[j]).square().sum()) for k, j in pairs]
    assert float(m.held_out_cdnv(moments, reference)) == pytest.approx(float(sum(cdnv)) / 6, rel=1e-13)
    weights = torch.full((4,), 0.25).double() if convention == "class" else reference.counts.double() / 23
    between = weights @ (means - weights @ means).square().sum(dim=1)
    found = m.held_out_variability(moments, reference, convention)
    assert float(found) == pytest.approx(float(weights @ variances / between), rel=1e-13)
