"""A batch of many samples is worked on in parts: with the values of small batches, and with their memory."""

import pytest
import torch
from torch import nn

from ncollapse.probe import decision_sums, layer_batch, measure, measure_features
from ncollapse.statistics import ClassDecisions, projected


@pytest.fixture
def sizes(monkeypatch):
    """Parts of 16 rows, and how many samples are projected and decided on at once."""
    monkeypatch.setattr(layer_batch, "_MOST_ROWS", 16)
    monkeypatch.setattr(decision_sums, "_PENDING_ELEMENTS", 16 * 3)
    found = {"projected": [], "decided": []}
    residuals, decide = projected._residuals, ClassDecisions.from_projected

    def counted_residuals(features, *args, **options):
        found["projected"].append(len(features))
        return residuals(features, *args, **options)

    def counted_decisions(parts, *args):
        found["decided"].append(sum(len(part.labels) for part in parts))
        return decide(parts, *args)

    monkeypatch.setattr(projected, "_residuals", counted_residuals)
    monkeypatch.setattr(ClassDecisions, "from_projected", counted_decisions)
    return found


@pytest.mark.parametrize("budget", [0, 2**20])
@pytest.mark.parametrize("least", [0, 20])
def test_one_large_batch_has_the_values_of_small_ones(sizes, budget, least):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    inputs, labels = torch.randn(101, 5), torch.arange(101) % 4
    labels[60:][labels[60:] == 3] = 0
    options = {"num_classes": 4, "memory_budget": budget, "path": True, "metrics": "all", "min_per_class": least}
    small = measure(model, list(zip(inputs.split(10), labels.split(10), strict=True)), **options)
    for counts in sizes.values():
        counts.clear()
    large = measure(model, [(inputs, labels)], **options)
    # Means of three classes span two dimensions, so that 24 samples wait for their decisions.
    assert (max(sizes["projected"]), max(sizes["decided"]) <= 24) == (16, True)
    assert sum(sizes["projected"]) == sum(sizes["decided"])
    for row, own in zip(large.rows, small.rows, strict=True):
        assert row.value == pytest.approx(own.value, rel=1e-12, abs=1e-14, nan_ok=True), (row.layer, row.metric)
        assert row.flags == own.flags
    assert torch.equal(large.sample.indices, small.sample.indices)
    assert torch.allclose(large.sample.coordinates, small.sample.coordinates, rtol=1e-10, atol=1e-12)


def test_parts_of_which_no_sample_is_left_waiting(monkeypatch):
    features, labels = torch.randn(80, 50, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 40
    labels[40:] //= 2
    whole = measure_features(features, labels, num_classes=40)
    monkeypatch.setattr(layer_batch, "_MOST_ROWS", 40)
    monkeypatch.setattr(decision_sums, "_PENDING_ELEMENTS", 40 * 39)
    parts = measure_features(features, labels, num_classes=40)
    for row, own in zip(parts.rows, whole.rows, strict=True):
        assert row.value == pytest.approx(own.value, rel=1e-12, abs=1e-14, nan_ok=True), row.metric
