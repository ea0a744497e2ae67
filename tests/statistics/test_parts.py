"""Interleaved parts against their definition, in any batches, merged, selected, and by a measurement."""

import pytest
import torch

from ncollapse.probe import CollapseMetrics, measure_features
from ncollapse.statistics import ClassMoments, ClassParts
from ncollapse.statistics.parts import PARTS, part_labels

GENERATOR = torch.Generator().manual_seed(0)
H = torch.randn(60, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(0, 5, (60,), generator=GENERATOR)


def expected(rows=slice(None)):
    """Counts and means by class and part, sample by sample."""
    sums, counts, seen = torch.zeros(5, PARTS, 3).double(), torch.zeros(5, PARTS), [0] * 5
    for h, y in zip(H[rows], Y[rows].tolist(), strict=True):
        part = seen[y] % PARTS
        seen[y] += 1
        sums[y, part] += h
        counts[y, part] += 1
    return counts.flatten(), (sums / counts.unsqueeze(2)).flatten(0, 1)


@pytest.mark.parametrize("size", [1, 3, 7, 60])
def test_the_part_of_a_sample_is_its_rank_in_its_class_whatever_the_batches(size):
    parts, before = ClassParts.empty(5, 3), torch.zeros(5, dtype=torch.int64)
    for start in range(0, 60, size):
        labels = Y[start : start + size]
        parts.add_(H[start : start + size], part_labels(labels, before))
        before += torch.bincount(labels, minlength=5)
    counts, means = expected()
    assert parts.moments.counts.tolist() == counts.tolist()
    assert torch.allclose(parts.moments.means, means, rtol=1e-13)
    whole = ClassParts.from_batch(H, Y, 5)
    assert whole.moments.counts.tolist() == counts.tolist()


def total(parts):
    merged = ClassMoments.empty(5, 3)
    for part in range(PARTS):
        merged = merged.merge(parts.moments.select(torch.arange(5) * PARTS + part))
    return merged


def test_merging_keeps_all_samples_and_equal_parts():
    pieces = [ClassParts.from_batch(H[i : i + 5], Y[i : i + 5], 5) for i in range(0, 60, 5)]
    merged = ClassParts.empty(5, 3)
    for piece in pieces:
        merged = merged.merge(piece)
    moments = ClassMoments.from_batch(H, Y, 5)
    assert torch.equal(total(merged).counts, moments.counts)
    assert torch.allclose(total(merged).means, moments.means, rtol=1e-12)
    assert torch.allclose(total(merged).scatter_traces, moments.scatter_traces, rtol=1e-12)
    counts = merged.moments.counts.view(5, PARTS)
    assert int((counts.amax(dim=1) - counts.amin(dim=1)).max()) <= 1


def test_parts_of_some_classes():
    counts, means = expected()
    chosen = ClassParts.from_batch(H, Y, 5).select(torch.tensor([1, 4]))
    assert chosen.moments.counts.tolist() == counts.view(5, PARTS)[[1, 4]].flatten().tolist()
    assert torch.allclose(chosen.moments.means, means.view(5, PARTS, 3)[[1, 4]].flatten(0, 1), rtol=1e-13)


def test_parts_are_summed_only_if_a_metric_needs_them():
    plain, named = measure_features(H, Y, num_classes=5), measure_features(H, Y, num_classes=5, metrics="population")
    assert plain.statistics["features"].class_parts is None
    parts = named.statistics["features"].class_parts
    assert parts.moments.counts.tolist() == expected()[0].tolist()


def test_streams_merge_their_parts():
    streams = [CollapseMetrics(num_classes=5, metrics=["population", "pfc1"]) for _ in range(2)]
    features = H + 4 * Y[:, None]
    for stream, rows in zip(streams, (slice(0, 35), slice(35, 60)), strict=True):
        stream.update(features[rows], Y[rows])
    streams[0].merge(streams[1])
    merged, whole = streams[0].compute(), measure_features(features, Y, num_classes=5, metrics=["pfc1.population"])
    # The trace does not depend on the parts, its error does.
    assert merged.value("pfc1.population") == pytest.approx(whole.value("pfc1.population"), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (6, 3), (5, 2)])
def test_parts_of_other_shapes_do_not_merge(shape):
    with pytest.raises(ValueError, match=r"must have the same \(K, d\), got \(20, 3\) and"):
        ClassParts.empty(5, 3).merge(ClassParts.empty(*shape))
