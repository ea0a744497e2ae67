"""Laws over the whole registry: declared invariances, bounds, value at collapse, direction, batch size, inputs kept."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, all_statistics, classifier_of, layer_statistics, statistics_of, tensors_of
from ncollapse.etf import helmert_basis
from ncollapse.metrics import METRICS, evaluate_metrics
from ncollapse.statistics import (
    LinearClassifier,
)

SEEDS = st.integers(0, 2**32)
# Shares of samples take few values, so a transformation may leave them unchanged by chance.
SHARES = {"pfc3", "pfc3_error", "nc4", "nc4_mismatch", "accuracy", "rank_between", "rank_total"}
CASE_NAMES = ["balanced", "imbalanced", "overlapping", "low_dimension", "two_imbalanced_classes"]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values_of(features, labels, num_classes, classifier, convention="class"):
    statistics = layer_statistics(features, labels, num_classes, classifier, convention=convention)
    return {v.metric: v for v in evaluate_metrics(statistics, list(METRICS.values()))}


def translate(features, classifier, seed):
    return features + 10 * normal(seed, features.shape[1]), classifier


def rotate(features, classifier, seed):
    turn = torch.linalg.qr(normal(seed, features.shape[1], features.shape[1]))[0]
    return features @ turn, LinearClassifier(classifier.weight @ turn, classifier.bias)


def scale(features, classifier, seed):
    return (0.03, 7.0, 1e4)[seed % 3] * features, classifier


TRANSFORMATIONS = {"translation": translate, "rotation": rotate, "scale": scale}


def assert_same(id, value, expected):
    tolerance = 1e-12 if id.startswith(("pfc2", "nc2", "nc3", "gnc2", "unc3", "log_")) else 0.0
    assert value.flags == expected.flags
    assert value.value == pytest.approx(expected.value, rel=1e-9, abs=tolerance, nan_ok=True), id


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("name", CASE_NAMES)
def test_declared_invariances_hold(name, transformation):
    case, classifier = CASES[name], classifier_of(CASES[name])
    expected = values_of(case.features, case.labels, case.num_classes, classifier)
    for seed in range(3):
        features, moved = TRANSFORMATIONS[transformation](case.features, classifier, seed)
        values = values_of(features, case.labels, case.num_classes, moved)
        for id, metric in METRICS.items():
            if transformation in metric.invariant:
                assert_same(id, values[id], expected[id])


@pytest.mark.parametrize("convention", ["sample", "papyan", "papyan_notebook", "zhu", "he_su"])
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
def test_declared_invariances_hold_in_every_convention(transformation, convention):
    case, classifier = CASES["imbalanced"], classifier_of(CASES["imbalanced"])
    expected = values_of(case.features, case.labels, 4, classifier, convention)
    features, moved = TRANSFORMATIONS[transformation](case.features, classifier, 1)
    values = values_of(features, case.labels, 4, moved, convention)
    for id, metric in METRICS.items():
        if transformation in metric.invariant:
            assert_same(id, values[id], expected[id])


@pytest.mark.parametrize("id", [id for id in METRICS if id not in SHARES])
def test_no_invariance_is_left_undeclared(id):
    case, classifier = CASES["balanced"], classifier_of(CASES["balanced"])
    expected = values_of(case.features, case.labels, 4, classifier)[id].value
    for name, transformation in TRANSFORMATIONS.items():
        if name not in METRICS[id].invariant:
            features, moved = transformation(case.features, classifier, 1)
            assert values_of(features, case.labels, 4, moved)[id].value != pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", CASE_NAMES)
def test_relabelling_changes_nothing(name):
    case, classifier = CASES[name], classifier_of(CASES[name])
    expected = values_of(case.features, case.labels, case.num_classes, classifier)
    for seed in range(3):
        order = torch.randperm(case.num_classes, generator=torch.Generator().manual_seed(seed))
        moved = LinearClassifier(classifier.weight[order], classifier.bias[order])
        values = values_of(case.features, torch.argsort(order)[case.labels], case.num_classes, moved)
        for id in METRICS:
            assert_same(id, values[id], expected[id])


@pytest.mark.parametrize("name", CASE_NAMES)
def test_sample_order_changes_nothing(name):
    case, classifier = CASES[name], classifier_of(CASES[name])
    expected = values_of(case.features, case.labels, case.num_classes, classifier)
    order = torch.randperm(len(case.labels), generator=torch.Generator().manual_seed(2))
    values = values_of(case.features[order], case.labels[order], case.num_classes, classifier)
    # But which part of its class a sample belongs to.
    for id in (id for id in METRICS if not id.endswith(".population")):
        assert_same(id, values[id], expected[id])


def assert_within_bounds(values):
    for value in values:
        low, high = METRICS[value.metric].bounds
        assert math.isnan(value.value) or low - 1e-12 <= value.value <= high + 1e-12, value


@pytest.mark.parametrize("convention", ["class", "sample", "zhu"])
@pytest.mark.parametrize("name", CASES)
def test_bounds_hold_on_every_case(name, convention):
    values = evaluate_metrics(statistics_of(CASES[name], convention=convention), list(METRICS.values()))
    assert_within_bounds(values)
    if name not in ("one_sample_each", "one_dimension"):
        assert {v.metric for v in values if math.isnan(v.value) and "." not in v.metric} <= {"snc1", "snc2", "snc3"}


@given(st.integers(2, 6), st.integers(1, 8), st.floats(0.0, 5.0), SEEDS)
def test_bounds_hold_on_random_data(num_classes, dim, noise, seed):
    labels = torch.arange(num_classes).repeat(3)
    features = normal(seed, num_classes, dim)[labels] + noise * normal(seed + 1, len(labels), dim)
    classifier = LinearClassifier(normal(seed + 2, num_classes, dim), normal(seed + 3, num_classes))
    assert_within_bounds(values_of(features, labels, num_classes, classifier).values())


def strong_collapse(num_classes, per_class, dim, seed):
    """Exact collapse: means on a simplex ETF, W along them, at the scale that strong collapse asks for."""
    orientation = torch.linalg.qr(normal(seed, dim, num_classes - 1))[0]
    weight = per_class**0.25 * helmert_basis(num_classes).T @ orientation.T
    return (weight / math.sqrt(per_class)).repeat(per_class, 1), torch.arange(num_classes).repeat(per_class), weight


@pytest.mark.parametrize(("num_classes", "per_class", "dim"), [(2, 5, 4), (3, 4, 2), (5, 4, 9), (10, 6, 16)])
@pytest.mark.parametrize("id", [id for id, metric in METRICS.items() if metric.at_collapse is not None])
def test_value_at_exact_collapse(id, num_classes, per_class, dim):
    features, labels, weight = strong_collapse(num_classes, per_class, dim, 1)
    # At strong collapse the bias is 1/K; the other metrics want the logits of the mean to vanish.
    bias = torch.full((num_classes,), 1 / num_classes if id == "snc3" else 0.0, dtype=torch.float64)
    value = values_of(features, labels, num_classes, LinearClassifier(weight, bias))[id].value
    assert value == pytest.approx(METRICS[id].at_collapse, abs=1e-13)


@pytest.mark.parametrize("factor", [0.1, 30.0])
@pytest.mark.parametrize("id", [id for id, metric in METRICS.items() if metric.at_collapse is not None])
def test_value_at_collapse_for_any_positive_multiple_of_the_means(id, factor):
    features, labels, weight = strong_collapse(4, 4, 7, 5)
    values = values_of(12.0 * features, labels, 4, LinearClassifier(factor * weight, torch.zeros(4).double()))
    if not id.startswith("snc"):
        assert values[id].value == pytest.approx(METRICS[id].at_collapse, abs=1e-13)


@pytest.mark.parametrize("id", [id for id in METRICS if not id.endswith(".population")])
def test_direction_towards_collapse(id):
    case, metric = CASES["overlapping"], METRICS[id]
    labels = torch.arange(3).repeat(8)
    collapsed, _, weight = strong_collapse(3, 8, 4, 3)
    start = torch.cat([case.features, case.features])[:24]
    bias, end_bias = 0.5 * normal(1, 3), torch.full((3,), 1 / 3, dtype=torch.float64)
    values = [
        values_of(
            (1 - t) * start + t * collapsed, labels, 3,
            LinearClassifier((1 - t) * normal(2, 3, 4) + t * weight, (1 - t) * bias + t * end_bias * (id == "snc3")),
        )[id].value
        for t in (0.0, 0.99)
    ]  # fmt: skip
    if metric.direction == "none":
        assert metric.at_collapse is None
    elif metric.direction == "decreases":
        assert values[1] < values[0]
    else:
        assert values[1] > values[0]


@given(st.integers(2, 4), st.integers(1, 6), st.integers(1, 12), SEEDS)
def test_metrics_do_not_depend_on_the_batch_size(num_classes, dim, batch_size, seed):
    labels = torch.arange(num_classes).repeat(5)
    features = normal(seed, num_classes, dim)[labels] + 0.7 * normal(seed + 1, len(labels), dim)
    classifier = LinearClassifier(normal(seed + 2, num_classes, dim), normal(seed + 3, num_classes))
    streamed = layer_statistics(features, labels, num_classes, classifier, batch_size=batch_size)
    expected = values_of(features, labels, num_classes, classifier)
    for value in evaluate_metrics(streamed, list(METRICS.values())):
        assert_same(value.metric, value, expected[value.metric])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_handed_in_is_never_modified(dtype):
    # In float64 `.double()` is a view of the caller's tensor.
    case = CASES["imbalanced"]
    features, labels, classifier = case.features.to(dtype), case.labels.clone(), classifier_of(case)
    inputs = [features, labels, *classifier]
    before = [tensor.clone() for tensor in inputs]
    statistics = layer_statistics(features, labels, 4, classifier, batch_size=5)
    evaluate_metrics(statistics, list(METRICS.values()))
    whole = layer_statistics(features, labels, 4, classifier)
    evaluate_metrics(whole, list(METRICS.values()))
    all_statistics(features, labels, 4, classifier, whole.centers)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(inputs, before, strict=True))


def test_evaluating_leaves_the_statistics_as_they_were():
    statistics = statistics_of(CASES["imbalanced"])
    held = [statistics.moments, statistics.within, statistics.scatter, statistics.centers]
    before = [{name: tensor.clone() for name, tensor in tensors_of(value).items()} for value in held]
    first = evaluate_metrics(statistics, list(METRICS.values()))
    for value, kept in zip(held, before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors_of(value).items())
    assert str(evaluate_metrics(statistics, list(METRICS.values()))) == str(first)
