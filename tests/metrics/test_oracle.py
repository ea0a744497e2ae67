"""Every id of the registry equals the NumPy oracle on every case, in every convention."""

import math

import pytest
import torch

import reference
from cases import CASES, PLAIN, classifier_of, statistics_of
from ncollapse.metrics import METRICS, LayerStatistics, evaluate_metrics, ncc_error
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassifierChoices, ClassMoments

# Angles and distances between unit matrices: differences of numbers of order one, known to a few eps and no better.
ABSOLUTE = {id for id in METRICS if id.startswith(("pfc2", "nc2", "nc3", "gnc2", "unc3", "log_", "softmax"))} - {"nc3_bias"}


def oracle(case, convention="class"):
    H, y = reference.rows_of(case.features), case.labels.long().numpy()
    return reference.metrics(H, y, case.num_classes, case.weight.numpy(), case.bias.numpy(), convention)


def assert_equal_to_oracle(values, expected, case):
    assert set(values) == set(expected)
    for id, value in values.items():
        tolerance = {
            "rel": case.rtol,
            "abs": 1e-12 if id in ABSOLUTE else 0.0,
            "nan_ok": id.startswith(("snc", "gnc2", "hyper", "pfc2_orthoplex", "pfc2_seli", "softmax")),
        }
        assert value.value == pytest.approx(expected[id], **tolerance), id


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_metric_equals_the_oracle(case):
    values = {v.metric: v for v in evaluate_metrics(statistics_of(case), PLAIN)}
    assert_equal_to_oracle(values, oracle(case), case)


@pytest.mark.parametrize("convention", ["sample", "papyan", "papyan_notebook", "zhu", "he_su"])
@pytest.mark.parametrize("name", ["balanced", "imbalanced", "two_imbalanced_classes", "low_dimension", "one_sample_class"])
def test_every_convention_equals_the_oracle(name, convention):
    case = CASES[name]
    values = evaluate_metrics(statistics_of(case, convention=convention), PLAIN)
    assert_equal_to_oracle({v.metric: v for v in values}, oracle(case, convention), case)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_streaming_in_batches_equals_the_oracle(batch_size):
    case = CASES["imbalanced"]
    values = evaluate_metrics(statistics_of(case, batch_size=batch_size), PLAIN)
    assert_equal_to_oracle({v.metric: v for v in values}, oracle(case), case)


def test_held_out_samples_are_decided_by_the_training_means():
    train, other = CASES["balanced"], CASES["imbalanced"]
    H = other.features + 0.5
    centers = ClassCenters.from_moments(ClassMoments.from_batch(train.features, train.labels, 4))
    classifier = classifier_of(train)
    moments = ClassMoments.from_batch(H, other.labels, 4)
    decisions = ClassDecisions.from_batch(H, other.labels, centers, classifier, moments.counts)
    own = ClassCenters.from_moments(moments)
    within = ClassDecisions.from_batch(H, other.labels, own)
    choices = ClassifierChoices.from_batch(classifier.choices(H), other.labels, 4)
    statistics = LayerStatistics(moments, own, within, decisions, classifier, reference=centers.moments, choices=choices)
    values = {v.metric: v.value for v in evaluate_metrics(statistics, PLAIN)}

    X, y = H.numpy(), other.labels.numpy()
    chosen = reference.nearest(X, reference.means(train.features.numpy(), train.labels.numpy(), 4))
    decided = (X @ train.weight.numpy().T + train.bias.numpy()).argmax(axis=1)
    assert 0 < (chosen == y).mean() < 1
    assert values["pfc3"] == pytest.approx((chosen == y).mean(), rel=1e-15)
    assert values["nc4"] == pytest.approx((chosen == decided).mean(), rel=1e-15)
    assert values["accuracy"] == pytest.approx((decided == y).mean(), rel=1e-15)
    mu, trace = reference.means(train.features.numpy(), train.labels.numpy(), 4), float(centers.moments.between_trace())
    assert values["strong_collapse"] == pytest.approx(reference.strong_collapse(X, y, 4, mu, trace), rel=1e-13)
    assert values["weak_collapse"] == pytest.approx(reference.weak_collapse(X, y, 4, mu, trace), rel=1e-12)
    assert values["weak_collapse"] < values["strong_collapse"]
    # NC1 of a held-out split is around its own means.
    assert values["nc1"] == pytest.approx(reference.feature_metrics(X, y, 4)["nc1"], rel=1e-12)
    errors = [(chosen[y == k] != k).mean() for k in range(4)]
    assert float(ncc_error(decisions, balanced=True)) == pytest.approx(sum(errors) / 4, rel=1e-14)
    assert sum(errors) / 4 != pytest.approx((chosen != y).mean(), rel=1e-3)


def test_a_layer_without_classifier_or_scatter_gives_no_row_for_them():
    case = CASES["balanced"]
    statistics = statistics_of(case, scatter=False)
    without = LayerStatistics(statistics.moments, statistics.centers, statistics.within, statistics.within)
    ids = [v.metric for v in evaluate_metrics(without, PLAIN)]
    assert ids == [m.id for m in PLAIN if not m.needs & {"logits", "classifier", "scatter"}]
    assert not any(math.isnan(v.value) for v in evaluate_metrics(without, PLAIN))


def test_values_are_python_floats_in_the_order_of_the_registry():
    values = evaluate_metrics(statistics_of(CASES["float32"]), PLAIN)
    assert [v.metric for v in values] == [metric.id for metric in PLAIN]
    assert all(type(v.value) is float for v in values)
    assert torch.get_default_dtype() is torch.float32
