"""Leave-one-out nearest-center accuracy against class means computed anew without each sample."""

import math
from fractions import Fraction

import pytest
import torch

from cases import CASES
from ncollapse.metrics import METRICS, LayerStatistics, evaluate_metrics
from ncollapse.probe import CollapseMetrics, measure, measure_features
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassMoments

ID = "pfc3.leave_one_out"


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(features, labels, num_classes):
    """Every class mean anew without the sample, all distances in float64, the smallest index on ties."""
    H, correct = features.flatten(1).double(), 0
    for i, y in enumerate(labels.tolist()):
        others = torch.arange(len(H)) != i
        members = [others & (labels == k) for k in range(num_classes)]
        distances = [float((H[i] - H[m].mean(dim=0)).square().sum()) if bool(m.any()) else math.inf for m in members]
        nearest = min(distances)
        correct += next(k for k, d in enumerate(distances) if d <= nearest + 1e-12 * (1 + nearest)) == y
    return correct / len(H)


def row_of(features, labels, num_classes, **options):
    (row,) = measure_features(features, labels, num_classes=num_classes, metrics=[ID], **options).rows
    return row


@pytest.mark.parametrize("name", sorted(set(CASES) - {"one_sample_each", "several_blocks", "tiny_scale", "large_scale"}))
def test_it_is_the_accuracy_by_means_computed_anew(name):
    case = CASES[name]
    row = row_of(case.features, case.labels, case.num_classes)
    assert row.value == plain(case.features, case.labels.long(), case.num_classes)
    assert row.flags == (("single_left_out",) if bool((torch.bincount(case.labels) == 1).any()) else ())


def test_noise_without_classes_is_at_chance():
    labels = torch.arange(50) % 10
    features = normal(0, 50, 512)
    m = measure_features(features, labels, num_classes=10, metrics=["pfc3", ID])
    assert m.value("pfc3") == 1.0
    assert m.value(ID) == plain(features, labels, 10) < 0.3


def exact(rows, labels, num_classes):
    """As ``plain``, in fractions."""
    correct = 0
    for i, (x, y) in enumerate(zip(rows, labels, strict=True)):
        distances = []
        for k in range(num_classes):
            members = [rows[j] for j in range(len(rows)) if labels[j] == k and j != i]
            means = [Fraction(sum(column), len(members)) for column in zip(*members, strict=True)]
            distances.append(sum((a - b) ** 2 for a, b in zip(x, means, strict=True)) if members else math.inf)
        correct += distances.index(min(distances)) == y
    return correct / len(rows)


@pytest.mark.parametrize("seed", range(12))
def test_ties_go_to_the_smallest_class_in_exact_arithmetic(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(24) % 4
    # Few values, so that samples, means and distances are often equal; shifts that float64 rounds.
    grid = torch.randint(0, 3, (24, 2), generator=generator)
    if seed % 3 == 0:
        grid = grid[labels // 2 * 4 + torch.arange(24) // 4 % 4]
    expected = exact(grid.tolist(), labels.tolist(), 4)
    for shift, scale in ((0.0, 1.0), (0.1, 1.0), (1000.3, 1 / 3)):
        assert row_of(scale * grid.double() + shift, labels, 4).value == expected


def test_classes_that_coincide_are_decided_by_the_smallest_index():
    row = row_of(torch.full((6, 3), 0.1), torch.arange(6) % 3, 3)
    assert (row.value, row.flags) == (2 / 6, ("no_between",))


@pytest.mark.parametrize("seed", range(10))
def test_means_that_coincide_up_to_rounding_are_a_tie(seed):
    """Class 1 has the samples of class 0 in another order, so that its mean is rounded otherwise; one sample is the mean."""
    rows = normal(seed, 6, 7) + 1000.3
    rows = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
    features = torch.cat([rows, rows[torch.randperm(7, generator=torch.Generator().manual_seed(seed))]])
    # Without its sample a mean moves away from it, so that the other class is nearer; only the sample at the mean is a tie.
    assert row_of(features, torch.arange(2).repeat_interleave(7), 2).value == 1 / 14


def test_the_second_pass_and_kept_features_agree():
    features, labels = 300 + normal(1, 90, 40).float(), torch.arange(90) % 6
    batches = [(features[i : i + 16], labels[i : i + 16]) for i in range(0, 90, 16)]
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(40, 6))
    options = {"num_classes": 6, "layers": ["0"], "metrics": [ID]}
    values = [measure(network, batches, memory_budget=budget, **options).rows[0].value for budget in (0, "1GiB")]
    assert values == [plain(features, labels, 6)] * 2


def test_a_stream_merges_and_says_where_it_forgot_the_features():
    features, labels = normal(2, 60, 30), torch.arange(60) % 5
    streams = [CollapseMetrics(num_classes=5, metrics=[ID]) for _ in range(2)]
    for stream, rows in zip(streams, (slice(0, 37), slice(37, 60)), strict=True):
        stream.update(features[rows], labels[rows])
    streams[0].merge(streams[1])
    assert streams[0].compute().rows[0].value == plain(features, labels, 5)
    forgetful = CollapseMetrics(num_classes=5, metrics=[ID], memory_budget=0)
    forgetful.update(features, labels)
    row = forgetful.compute().rows[0]
    assert math.isnan(row.value)
    assert row.flags == ("over_budget",)


def test_chosen_classes_and_another_split_are_decided_by_their_own_samples():
    features, labels = normal(3, 60, 8) + 0.5 * normal(4, 5, 8)[torch.arange(60) % 5], torch.arange(60) % 5
    chosen = (labels == 1) | (labels == 4)
    expected = plain(features[chosen], (labels[chosen] == 4).long(), 2)
    assert row_of(features, labels, 5, classes=[1, 4]).value == expected
    train = measure_features(normal(5, 60, 8), labels, num_classes=5)
    assert row_of(features, labels, 5, split="test", reference=train).value == plain(features, labels, 5)


def test_statistics_without_squares_have_no_such_row():
    moments = ClassMoments.from_batch(normal(0, 9, 3), torch.arange(9) % 3, 3)
    centers = ClassCenters.from_moments(moments)
    decisions = ClassDecisions.from_batch(normal(0, 9, 3), torch.arange(9) % 3, centers)
    assert evaluate_metrics(LayerStatistics(moments, centers, decisions, decisions), [METRICS[ID]]) == []
