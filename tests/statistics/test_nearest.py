"""Nearest class centers beside distances computed one by one, for few classes, for many, and for a vocabulary."""

import pytest
import torch

from ncollapse.statistics import ClassCenters, ClassMoments, nearest
from ncollapse.statistics.nearest import nearest_centers, own_is_nearest

PLACES = {"few": (6, None), "many": (40, None), "vocabulary": (40, 8)}


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=PLACES)
def num_classes(request, monkeypatch):
    number, most = PLACES[request.param]
    if most is not None:
        monkeypatch.setattr(nearest, "_MOST_DISTANCES", most)
    return number


@pytest.mark.parametrize("dim", [3, 50])
def test_a_sample_is_decided_by_the_means_of_the_others(num_classes, dim):
    labels = torch.arange(4 * num_classes) % num_classes
    # One class has two samples more, one has a single sample.
    labels = torch.cat([labels[labels != 1], torch.tensor([1, 0, 0])])
    features = 2 * (3 / dim) ** 0.5 * normal(0, num_classes, dim)[labels] + 1.5 * normal(1, len(labels), dim)
    # Two classes of the same samples, whose means coincide.
    features[labels == 3] = features[labels == 2]
    centers = ClassCenters.from_moments(ClassMoments.from_batch(features, labels, num_classes))
    steps = features - centers.moments.means[labels]
    won = own_is_nearest(centers, steps @ centers.basis, labels, steps.square().sum(dim=1))
    expected = []
    for index in range(len(labels)):
        rest = torch.arange(len(labels)) != index
        alone = not bool((labels[rest] == labels[index]).any())
        means = ClassMoments.from_batch(features[rest], labels[rest], num_classes).class_means
        distances = (features[index] - means).square().sum(dim=1).nan_to_num(torch.inf)
        expected.append(not alone and int(distances.argmin()) == int(labels[index]))
    assert won.tolist() == expected
    assert 0.1 < sum(expected) / len(expected) < 0.95


def test_of_two_centers_at_one_distance_up_to_rounding_the_smaller_index_is_nearest(num_classes):
    # Rotated, so that the two computed distances differ by their rounding, now one way, now the other.
    turn, _ = torch.linalg.qr(normal(2, 7, 7))
    means = (10 + 3 * normal(3, num_classes, 7)) @ turn
    labels = torch.arange(num_classes).repeat_interleave(num_classes)
    others = torch.arange(num_classes).repeat(num_classes)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(num_classes), num_classes))
    middle = (means[labels] + means[others]) / 2
    distances = torch.cdist(middle, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    # Pairs between which no third center lies.
    clear = (distances < distances.amin(dim=1, keepdim=True) + 1e-6).sum(dim=1) == 1 + (labels != others).long()
    clear &= distances.argsort(dim=1)[:, :1].eq(torch.stack([labels, others], dim=1)).any(dim=1)
    found, _ = nearest_centers(centers, (middle - means[labels]) @ centers.basis, labels)
    assert int(clear.sum()) > 2 * num_classes
    assert torch.equal(found[clear], torch.minimum(labels, others)[clear])


def test_margins_are_what_the_nearest_center_is_nearer_by(num_classes):
    means = normal(4, num_classes, 5)
    labels = torch.arange(300) % num_classes
    features = means[labels] + normal(5, 300, 5)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(means, torch.arange(num_classes), num_classes))
    found, margins = nearest_centers(centers, (features - means[labels]) @ centers.basis, labels)
    distances = (features.unsqueeze(1) - means).square().sum(dim=2)
    assert torch.equal(found, distances.argmin(dim=1))
    expected = distances.amin(dim=1) - distances.gather(1, labels.unsqueeze(1)).squeeze(1)
    assert torch.allclose(margins, expected, rtol=1e-12, atol=1e-12)
    assert bool((margins[found == labels] == 0).all())


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_of_two_other_means_at_one_distance_up_to_rounding_the_smaller_index_is_nearest(num_classes, scale):
    # Of each pair of classes one has the samples h and h + u, so that the mean without h is h + u; the other's mean is h + v.
    starts = scale * (20 + 10 * normal(6, num_classes // 2, 6))
    own = torch.arange(0, num_classes, 2) + torch.arange(2).view(2, 1)
    u, v = scale * torch.nn.functional.normalize(normal(7, 2, num_classes // 2, 6), dim=2)
    for first in (True, False):
        labels, others = own if first else own.flip(0)
        means = torch.empty(num_classes, 6, dtype=torch.float64)
        means[labels], means[others] = starts + u / 2, starts + v
        two, spread = torch.full((num_classes,), 2), torch.zeros(num_classes, dtype=torch.float64)
        centers = ClassCenters.from_moments(ClassMoments(two, means, spread))
        steps = starts - means[labels]
        won = own_is_nearest(centers, steps @ centers.basis, labels, steps.square().sum(dim=1))
        assert won.tolist() == [first] * (num_classes // 2)


def test_of_two_collapsed_classes_at_one_place_up_to_rounding_the_first_is_nearest(num_classes):
    means = 1e6 + normal(8, num_classes, 6)
    means[1] = means[0] * (1 - 3e-16)
    labels = torch.arange(num_classes)
    centers = ClassCenters.from_moments(ClassMoments(torch.full_like(labels, 5), means, torch.zeros(len(means)).double()))
    steps = torch.zeros_like(means)
    steps[0], steps[1] = means[1] - means[0], means[0] - means[1]
    won = own_is_nearest(centers, steps @ centers.basis, labels, steps.square().sum(dim=1))
    assert won.tolist() == [True, False] + [True] * (num_classes - 2)
