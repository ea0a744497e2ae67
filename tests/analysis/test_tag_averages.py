"""Multi-label collapse against plain loops, at exact collapse, at the optimum of the paper's model, and in a network."""

import itertools
import math

import numpy as np
import pytest
import torch

import ncollapse as nc
from ncollapse.analysis import tag_averages
from ncollapse.statistics import ClassMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_sets(num_tags, most):
    """All sets of 1 to ``most`` tags, as rows of 0 and 1."""
    chosen = [set(c) for m in range(1, most + 1) for c in itertools.combinations(range(num_tags), m)]
    return torch.tensor([[int(k in tags) for k in range(num_tags)] for tags in chosen])


def averages(features, tags):
    sets, index = torch.unique(tags, dim=0, return_inverse=True)
    return tag_averages(ClassMoments.from_batch(features, index, len(sets)), sets)


def plain(features, tags, m):
    """Scale, distance and variability of the sets of m tags, by loops."""
    rows = {tuple(row): features[(tags == row).all(axis=1)] for row in np.unique(tags, axis=0)}
    single = {int(np.argmax(row)): part.mean(axis=0) for row, part in rows.items() if sum(row) == 1}
    center = sum(single.values()) / len(single)
    v = [part.mean(axis=0) - center for row, part in rows.items() if sum(row) == m]
    t = [np.mean([single[k] - center for k in np.flatnonzero(row)], axis=0) for row in rows if sum(row) == m]
    scale = max(sum(a @ b for a, b in zip(v, t, strict=True)) / sum(b @ b for b in t), 0)
    squares = sum(a @ a for a in v)
    within = sum(((part - part.mean(axis=0)) ** 2).sum() / len(part) for row, part in rows.items() if sum(row) == m)
    return scale, sum(((a - scale * b) ** 2).sum() for a, b in zip(v, t, strict=True)) / squares, within / squares


def test_equals_its_definition():
    # Sets in any order, of uneven counts, two that do not occur, samples without a tag, and an offset far from the origin.
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    sets = torch.cat([all_sets(4, 3), torch.zeros(1, 4, dtype=torch.int64)])[order]
    tags = all_sets(4, 3)[torch.arange(80) % 12]
    tags[::19] = 0
    features = tags.double() @ normal(0, 4, 6) + normal(1, 80, 6) + 1000
    places = (tags.unsqueeze(1) == sets).all(dim=2).int().argmax(dim=1)
    found = tag_averages(ClassMoments.from_batch(features, places, 15), sets)
    assert [(part.tags, part.sets) for part in found] == [(2, 6), (3, 2)]
    for part in found:
        assert part[2:] == pytest.approx(plain(features.numpy(), tags.numpy(), part.tags), rel=1e-9)


def test_at_collapse_and_far_from_it():
    tags = all_sets(5, 5).repeat(2, 1)
    corners = normal(2, 5, 7)
    size = tags.sum(dim=1, keepdim=True)
    scales = torch.tensor([0, 1, 0.8, 0.7, 0.5, 0.2], dtype=torch.float64)
    features = scales[size] * (tags.double() / size @ (corners - corners.mean(dim=0))) + 3
    *found, everything = averages(features, tags)
    assert [part.scale for part in found] == pytest.approx([0.8, 0.7, 0.5])
    assert all(part.distance < 1e-24 and part.variability == 0 for part in found)
    assert all(math.isnan(value) for value in everything[2:])
    # Means that point away from their tags have no scale, and those without a relation nearly none.
    opposite = torch.where(size == 1, features - 3, 3 - features)
    assert [part[2:4] for part in averages(opposite, tags)[:3]] == [(0, 1)] * 3
    sets = all_sets(20, 2)
    assert averages(normal(3, len(sets), 30), sets)[0].distance > 0.99


def test_rotation_translation_scale_and_the_order_of_merging_change_nothing():
    sets = all_sets(4, 2)
    index = torch.arange(60) % 10
    features = sets[index].double() @ normal(4, 4, 6) + normal(5, 60, 6)
    (found,) = tag_averages(ClassMoments.from_batch(features, index, 10), sets)
    moved = 3 * features @ torch.linalg.qr(normal(6, 6, 6)).Q + 50
    halves = [ClassMoments.from_batch(moved[part], index[part], 10) for part in (slice(0, 17), slice(17, 60))]
    (again,) = tag_averages(halves[1].merge(halves[0]), sets)
    assert again == pytest.approx(found, rel=1e-10)


def test_the_optimum_of_the_papers_model_is_the_scaled_average():
    # Free features of all single tags and pairs under the pick-all-label cross-entropy with weight decay.
    tags = all_sets(4, 2).repeat(2, 1).double()
    weight, features, bias = normal(7, 4, 5), normal(8, len(tags), 5), torch.zeros(4).double()
    parameters = [tensor.requires_grad_() for tensor in (weight, features, bias)]
    settings = {"max_iter": 200, "history_size": 50, "tolerance_grad": 1e-10, "tolerance_change": 1e-16}
    optimizer = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe", **settings)

    def objective():
        optimizer.zero_grad()
        losses = -(tags * torch.log_softmax(features @ weight.T + bias, dim=1)).sum(dim=1)
        value = losses.mean() + 2e-2 * (weight.square().sum() + features.square().sum() / len(tags) * 4)
        value.backward()
        return value

    optimizer.step(objective)
    (pairs,) = averages(features.detach(), tags.long())
    assert pairs.distance < 1e-12
    assert pairs.variability < 1e-12
    assert 1 < pairs.scale < 2


def test_the_moments_of_a_measured_network_will_do():
    sets = all_sets(3, 2)
    index = torch.arange(36) % 6
    inputs = (sets[index].double() @ normal(9, 3, 8)).float()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    m = nc.measure(net, [(inputs[:20], index[:20]), (inputs[20:], index[20:])], num_classes=6, layers=["1"])
    (found,) = tag_averages(m.statistics["1"].moments, sets)
    (expected,) = averages(net[:2](inputs).detach(), sets[index])
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (torch.eye(3), r"`sets` must be 4 different rows of 0 and 1, .* got shape \(3, 3\)"),
        (torch.tensor([[1, 0], [0, 1], [1, 1], [1, 1]]), "4 different rows"),
        (torch.tensor([[1, 0], [0, 2], [1, 1], [0, 0]]), "4 different rows"),
        (torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]]), r"carry it alone, got none for tags \[2\]"),
    ],
)
def test_refusals(sets, words):
    with pytest.raises(ValueError, match=words):
        tag_averages(ClassMoments.from_batch(normal(0, 4, 3), torch.arange(4), 4), sets)
