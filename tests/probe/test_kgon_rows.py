"""The rows that pictures show: few, the same whatever the batches, and drawn without a trace."""

import random

import pytest
import torch

import ncollapse as nc
from ncollapse.probe import kgon_rows
from ncollapse.probe.kgon_rows import KgonRows, rows_by_class


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100, 7, 0, 30], [20, 7, 0, 20]),
        ([100] * 20, [20] * 20),
        ([50] * 10 + [9] * 30, [20] * 10 + [9] * 30),
        ([50] * 110, [20] * 10 + [3] * 100),
    ],
)
def test_numbers_of_rows(counts, expected):
    assert rows_by_class(counts) == expected


def test_of_a_thousand_classes_five_hundred_rows():
    sizes = rows_by_class([60] * 995 + [90] * 5)
    assert sum(sizes) == 500
    assert sizes[995:] == [20] * 5
    assert sorted(sizes)[-10:] == [20] * 10
    assert sizes.count(1) == 300


def test_rows_are_the_same_whatever_the_batches_the_passes_and_the_way_to_find_them(monkeypatch):
    labels = torch.randint(5, (300,), generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(300, 4, generator=torch.Generator().manual_seed(1)) + labels[:, None]
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5))
    found = []
    for size, budget, most in ((300, None, 2**20), (7, None, 2**20), (64, 0, 2**20), (7, None, 0)):
        monkeypatch.setattr(kgon_rows, "_MOST_KEYS", most)
        batches = list(zip(inputs.split(size), labels.split(size), strict=True))
        state, own = torch.get_rng_state(), random.getstate()
        m = nc.measure(net, batches, num_classes=5, memory_budget=budget, path=False)
        assert torch.equal(torch.get_rng_state(), state)
        assert random.getstate() == own
        found.append(m.sample)
    first = found[0]
    assert len(first.labels) == 100
    assert torch.equal(labels[first.indices], first.labels)
    # Drawn, not the first ones.
    assert first.indices.max() > 200
    for other in found[1:]:
        assert torch.equal(other.indices, first.indices)
        assert torch.allclose(other.coordinates.abs(), first.coordinates.abs(), atol=1e-4)


def test_indices_count_the_samples_of_all_classes():
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    m = nc.measure_features(features, labels, num_classes=3, classes=[0, 2])
    assert m.sample.indices.tolist() == [0, 3, 6, 2, 5, 8]
    assert m.sample.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_process_without_samples_has_no_sample():
    assert KgonRows(torch.zeros(3, dtype=torch.int64)).finish(["a"]) is None
