"""Features batch by batch give what they give at once; copies, budget, merging, bad input."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from ncollapse.metrics import METRICS, Metric, select_metrics
from ncollapse.probe import CollapseMetrics, measure_features

K = 4
CENTERED = {metric.id for metric in select_metrics(None) if metric.needs & {"centers", "logits"}}


def data(num_samples=60, dim=7, seed=2):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (num_samples,), generator=generator)
    means = torch.randn(K, dim, generator=generator)
    layers = {name: means[labels] + torch.randn(num_samples, dim, generator=generator) for name in ("first", "last")}
    return layers, labels, (torch.randn(K, dim, generator=generator), torch.randn(K, generator=generator))


LAYERS, LABELS, CLASSIFIER = data()


def fed(metrics, start=0, stop=60, size=7):
    for i in range(start, stop, size):
        part = slice(i, min(i + size, stop))
        metrics.update({name: layer[part] for name, layer in LAYERS.items()}, LABELS[part])
    return metrics


def assert_same_rows(found, expected, rel=1e-10):
    assert [(*row[2:6], row.flags) for row in found.rows] == [(*row[2:6], row.flags) for row in expected.rows]
    values = [row.value for row in found.rows]
    assert values == pytest.approx([row.value for row in expected.rows], rel=rel, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    "options", [{}, {"path": True}, {"convention": "papyan", "metrics": ["pfc1", "nc1", "nc4", "rank_total"]}]
)
def test_batches_give_what_all_samples_at_once_give(options):
    found = fed(CollapseMetrics(num_classes=K, **options)).compute(CLASSIFIER)
    expected = measure_features(LAYERS, LABELS, num_classes=K, classifier=CLASSIFIER, **options)
    assert_same_rows(found, expected)
    assert (found.num_samples, found.passes, found.kept_bytes) == (60, 1, expected.kept_bytes)
    if "path" in options:
        assert found.path.position() == pytest.approx(expected.path.position(), rel=1e-10)
        assert found.line.pfc3().tolist() == expected.line.pfc3().tolist()


def test_compute_may_come_at_any_time_and_what_it_gave_stays():
    metrics = fed(CollapseMetrics(num_classes=K), stop=30)
    early = metrics.compute()
    before = early.statistics["last"].moments.means.clone()
    late = fed(metrics, start=30).compute()
    assert torch.equal(early.statistics["last"].moments.means, before)
    first = {name: layer[:30] for name, layer in LAYERS.items()}
    assert_same_rows(early, measure_features(first, LABELS[:30], num_classes=K))
    assert_same_rows(late, measure_features(LAYERS, LABELS, num_classes=K))
    metrics.reset()
    assert_same_rows(fed(metrics, stop=30).compute(), early)


def test_a_buffer_may_be_used_again():
    metrics, buffer, labels = CollapseMetrics(num_classes=K), torch.empty(10, 7), torch.empty(10, dtype=torch.int64)
    for i in range(0, 60, 10):
        metrics.update(buffer.copy_(LAYERS["last"][i : i + 10]), labels.copy_(LABELS[i : i + 10]))
    assert_same_rows(metrics.compute(), measure_features(LAYERS["last"], LABELS, num_classes=K))


def test_no_graph_is_held():
    features = LAYERS["last"].clone().requires_grad_()
    metrics = CollapseMetrics(num_classes=K)
    metrics.update(features * 2, LABELS)
    (kept,) = metrics._totals._first.kept
    assert not any(layer.requires_grad for layer in kept.features.values())


def test_beyond_the_budget_what_needs_final_means_is_undefined_and_says_why():
    num_bytes = 2 * 60 * 7 * 4
    kept = fed(CollapseMetrics(num_classes=K, memory_budget=num_bytes, path=True)).compute(CLASSIFIER)
    assert not any("over_budget" in row.flags for row in kept.rows)
    dropped = fed(CollapseMetrics(num_classes=K, memory_budget=num_bytes - 1, path=True)).compute(CLASSIFIER)
    expected = {(row.layer, row.metric): row.value for row in kept.rows}
    assert {row.metric for row in dropped.rows if "over_budget" in row.flags} == CENTERED
    for row in dropped.rows:
        if row.metric in CENTERED:
            assert math.isnan(row.value)
        else:
            assert row.value == pytest.approx(expected[row.layer, row.metric], rel=0, abs=0, nan_ok=True)
    for name in ("path", "line", "arcs"):
        with pytest.raises(AttributeError, match=rf"{name} needs .* exceeded the stream's memory budget"):
            getattr(dropped, name)
    assert dropped.geodesic.pfc1().tolist() == kept.geodesic.pfc1().tolist()
    assert dropped.kept_bytes == 0


def test_a_split_is_decided_by_its_reference():
    reference = measure_features(LAYERS, LABELS, num_classes=K)
    layers, labels, _ = data(seed=5)
    metrics = CollapseMetrics(num_classes=K, split="test", reference=reference)
    metrics.update(layers, labels)
    assert_same_rows(metrics.compute(), measure_features(layers, labels, num_classes=K, split="test", reference=reference))


@pytest.mark.parametrize("options", [{}, {"path": True, "metrics": ["pfc1", "pfc3", "rank_total"]}])
def test_merged_parts_are_the_whole(options):
    whole = measure_features(LAYERS, LABELS, num_classes=K, **options)
    parts = [fed(CollapseMetrics(num_classes=K, **options), *ends) for ends in ((0, 25), (25, 32), (32, 60))]
    merged = CollapseMetrics(num_classes=K, **options)
    for part in parts:
        merged.merge(part)
    merged.merge(CollapseMetrics(num_classes=K, **options))
    assert_same_rows(merged.compute(), whole)
    assert parts[0].compute().num_samples == 25
    if "path" in options:
        assert merged.compute().path.energy == pytest.approx(whole.path.energy, rel=1e-10)


def test_merged_parts_keep_to_the_budget():
    a, b = (fed(CollapseMetrics(num_classes=K, memory_budget=2 * 30 * 7 * 4), *ends) for ends in ((0, 30), (30, 60)))
    assert a.compute().kept_bytes == 2 * 30 * 7 * 4
    a.merge(b)
    assert "over_budget" in {flag for row in a.compute().rows for flag in row.flags}
    assert a.compute().value("pfc1") == pytest.approx(measure_features(LAYERS, LABELS, num_classes=K).value("pfc1"), rel=1e-10)


def test_only_what_is_alike_is_merged():
    with pytest.raises(ValueError, match=r"must have the same arguments, got \[4, .* and \[4, .*pfc1.*Pass the same"):
        CollapseMetrics(num_classes=K).merge(CollapseMetrics(num_classes=K, metrics=["pfc1"]))
    other = CollapseMetrics(num_classes=K)
    other.update(LAYERS["last"], LABELS)
    with pytest.raises(ValueError, match=r"same layers and dimensions, got \{'first': 7, 'last': 7\} and \{'features': 7\}"):
        fed(CollapseMetrics(num_classes=K)).merge(other)


def test_after_an_error_nothing_is_whole_until_a_reset():
    metrics = fed(CollapseMetrics(num_classes=K))
    with pytest.raises(ValueError, match="labels must be in"):
        metrics.update(LAYERS, LABELS + 1)
    for use in (metrics.compute, lambda: fed(metrics), lambda: CollapseMetrics(num_classes=K).merge(metrics)):
        with pytest.raises(ValueError, match=r"must be complete, but it ended in an error\. Call reset"):
            use()
    metrics.reset()
    assert fed(metrics).compute().num_samples == 60


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(ValueError, match="at least one batch since the start or the last reset, got none"):
        CollapseMetrics(num_classes=K).compute()
    with pytest.raises(ValueError, match=r"nc3, nc4 need a classifier \(features passed to update; no classifier was given\)"):
        fed(CollapseMetrics(num_classes=K, metrics=["nc3", "nc4"])).compute()
    with pytest.raises(ValueError, match=r"must have shape \(4, 7\) for layer 'last', got \(4, 6\)"):
        fed(CollapseMetrics(num_classes=K)).compute((torch.ones(4, 6), None))
    with pytest.raises(TypeError, match=r"must be a pair \(weight, bias or None\), got Linear"):
        fed(CollapseMetrics(num_classes=K)).compute(nn.Linear(7, 4))
    with pytest.raises(ValueError, match="at least one layer"):
        CollapseMetrics(num_classes=K).update({}, LABELS)
    with pytest.raises(ValueError, match=r"^labels must be in \[0, 4\), got 4 at position \d+\. Pass num_classes of 5 or more"):
        fed(CollapseMetrics(num_classes=K)).update(LAYERS, LABELS + 1)
    with pytest.raises(ValueError, match="Layer 'last' must have 7 features as before, got 6"):
        fed(CollapseMetrics(num_classes=K)).update({**LAYERS, "last": LAYERS["last"][:, :6]}, LABELS)
    with pytest.raises(ValueError, match=r"memory_budget must be a number of bytes, at least 0, .*got -1"):
        CollapseMetrics(num_classes=K, memory_budget=-1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metrics: pickle.loads(pickle.dumps(metrics))])
def test_a_copy_goes_on_by_itself(copied):
    own = Metric("double_pfc1", "twice PFC1", twice_pfc1, frozenset(), 0.0, (0.0, math.inf), "decreases", "ours")
    metrics = fed(CollapseMetrics(num_classes=K, metrics=["core", METRICS["nc1_total"], own], path=True), stop=30)
    other = copied(metrics)
    whole = fed(metrics, start=30).compute(CLASSIFIER)
    assert other.compute(CLASSIFIER).num_samples == 30
    again = fed(other, start=30).compute(CLASSIFIER)
    assert again.rows == whole.rows
    assert again.value("double_pfc1") == 2 * whole.value("pfc1")
    assert torch.equal(again.path.straightness, whole.path.straightness)


def twice_pfc1(statistics):
    return 2 * METRICS["pfc1"].compute(statistics)
