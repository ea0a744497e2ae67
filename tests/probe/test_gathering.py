"""Small batches that wait for others: the same numbers and errors, whatever the batches are like, in little memory."""

import pickle

import pytest
import torch

import reference
from ncollapse.probe import CollapseMetrics, measure_features

K = 300
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(1200) % K
FEATURES = torch.randn(1200, 5, generator=GENERATOR) + 3 * torch.randn(K, 5, generator=GENERATOR)[LABELS]


def test_batches_of_any_kind_give_what_all_give_at_once():
    metrics, buffer = CollapseMetrics(num_classes=K), torch.empty(8, 5)
    sizes = [8] * 30 + [1, 200, 3, 500] + [16] * 16
    for index, (x, y) in enumerate(zip(FEATURES.split(sizes), LABELS.split(sizes), strict=True)):
        # Float32 and float64, labels of several kinds, inference mode, graphs, and a buffer that the loop uses again.
        kind = (torch.float32, torch.float64)[index // 20 % 2]
        label_kind = torch.uint8 if int(y.max()) < 256 and index % 3 == 0 else torch.int32 if index % 3 == 1 else torch.int64
        with torch.inference_mode(index % 5 == 4):
            given = buffer.copy_(x) if len(x) == 8 else x.to(kind, copy=True)
            metrics.update(given if index % 5 == 4 else given.clone().requires_grad_() * 1, y.to(label_kind))
    found, expected = metrics.compute(), measure_features(FEATURES, LABELS, num_classes=K)
    own = {row.metric: row.value for row in expected.rows}
    assert {row.metric: row.value for row in found.rows} == pytest.approx(own, rel=1e-12, nan_ok=True)
    total = reference.within_covariance(FEATURES.double().numpy(), LABELS.numpy(), K).trace()
    assert float(found.statistics["features"].moments.within_trace()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("inside", [lambda index: index % 3 == 0, lambda index: index == 0, lambda index: index > 40])
def test_a_loop_may_be_in_inference_mode_at_some_batches(inside):
    metrics, plain = CollapseMetrics(num_classes=K), CollapseMetrics(num_classes=K)
    for index, (x, y) in enumerate(zip(FEATURES.repeat(4, 1).split(60), LABELS.repeat(4).split(60), strict=True)):
        plain.update(x, y)
        with torch.inference_mode(inside(index)):
            metrics.update(x * 1, y)
    assert metrics.compute()["pfc1"] == plain.compute()["pfc1"]


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (lambda x, y: (x, y + K), r"labels must be in \[0, 300\)"),
        (lambda x, y: (x * torch.nan, y), r"must be finite, got NaN or inf at layer 'features'"),
        (lambda x, y: (x[1:], y), "one row per label"),
        (lambda x, y: (x[:, 1:], y), "must have 5 features as before, got 4"),
        (lambda x, y: ({"other": x}, y), "'other' is new"),
        (lambda x, y: (x, y.float()), "labels must be an integer tensor"),
    ],
)
def test_a_bad_batch_is_told_when_it_comes(bad, match):
    metrics = CollapseMetrics(num_classes=K)
    for rows in torch.arange(40).split(4):
        metrics.update(FEATURES[rows], LABELS[rows])
    with pytest.raises((ValueError, TypeError), match=match):
        metrics.update(*bad(FEATURES[:4], LABELS[:4]))


def test_looking_changes_nothing_that_comes_later():
    looked, not_looked = (CollapseMetrics(num_classes=K, metrics=["pfc1", "nc1"]) for _ in range(2))
    for rows in torch.arange(1200).split(8):
        for metrics in (looked, not_looked):
            metrics.update(FEATURES[rows], LABELS[rows])
        if int(rows[0]) % 600 == 592:
            looked.compute()
    assert looked.compute().rows == not_looked.compute().rows


def test_a_pickled_stream_is_as_large_as_its_features():
    metrics = CollapseMetrics(num_classes=K)
    metrics.update(FEATURES, LABELS)
    metrics.update(FEATURES[:4], LABELS[:4])
    # The gathering's memory, 2,048 rows, is part of it.
    assert len(pickle.dumps(metrics)) < 200_000
    assert pickle.loads(pickle.dumps(metrics)).compute().num_samples == 1204
