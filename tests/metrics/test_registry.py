"""The registry: ids, selection by id, flags, and what its entries declare."""

import dataclasses
import math

import pytest
import torch

from cases import CASES, classifier_of, layer_statistics, statistics_of
from ncollapse.metrics import FLAGS, METRICS, Metric, evaluate_metrics, select_metrics

ISSUE_IDS = (
    "pfc1 pfc2 pfc3 pfc3_error nc1 nc1_total nc2_equinorm nc2_equiangularity nc2_max_angle nc2_equinorm_weights "
    "nc2_etf_weights nc3 nc3_etf nc3_cosine nc4 cdnv separation"
).split()


@pytest.mark.parametrize("id", ISSUE_IDS)
def test_promised_ids_exist(id):
    assert METRICS[id].id == id


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_an_entry_is_complete(metric):
    assert isinstance(metric, Metric)
    assert metric.title
    assert metric.reference
    assert metric.needs <= {"moments", "centers", "decisions", "classifier", "scatter"}
    assert metric.invariant <= {"translation", "rotation", "scale"}
    assert metric.direction in ("decreases", "increases", "none")
    low, high = metric.bounds
    assert low < high
    if metric.at_collapse is None:
        assert metric.direction == "none"
    else:
        # Collapse is at the end of the range that the values go to.
        assert metric.at_collapse == (low if metric.direction == "decreases" else high)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_flag_word_is_explained(metric):
    assert metric.undefined_when | metric.flagged_when | {metric.nan_flag} <= set(FLAGS)
    assert not metric.undefined_when & metric.flagged_when


def test_every_explained_flag_is_used():
    always = {"one_class", "empty_class", "over_budget"}
    used = always.union(*(m.undefined_when | m.flagged_when | {m.nan_flag} for m in METRICS.values()))
    assert used == set(FLAGS)
    assert all(text and text[0].islower() for text in FLAGS.values())


@pytest.mark.parametrize(("name", "conditions"), [
    ("balanced", set()),
    ("imbalanced", {"imbalanced"}),
    ("two_classes", {"two_classes"}),
    ("two_imbalanced_classes", {"two_classes", "imbalanced"}),
    ("low_dimension", {"low_dimension"}),
    ("one_dimension", {"low_dimension", "imbalanced"}),
    ("means_on_a_line", {"imbalanced"}),
    ("deep_collapse", {"imbalanced"}),
    ("far_mean_tiny_std", {"imbalanced"}),
])  # fmt: skip
def test_conditions_of_a_layer(name, conditions):
    assert statistics_of(CASES[name]).conditions() == conditions


def test_conditions_of_degenerate_layers():
    line = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    twice = torch.arange(3).repeat(2)
    assert layer_statistics(line.repeat(2, 1), twice, 3).conditions() == {"rank_deficient"}
    assert layer_statistics(line, torch.arange(3), 3).conditions() == {"rank_deficient", "single_samples"}
    assert layer_statistics(torch.ones(6, 4), twice, 3).conditions() == {"no_between"}
    assert layer_statistics(line, torch.tensor([0, 1, 1]), 3).conditions() == {"empty_class"}
    assert layer_statistics(line, torch.zeros(3).long(), 1).conditions() == {"one_class"}


def test_own_means_are_flagged_where_they_decide():
    statistics = dataclasses.replace(statistics_of(CASES["balanced"]), own_means=True)
    values = evaluate_metrics(statistics, list(METRICS.values()))
    flagged = {value.metric for value in values if "own_means" in value.flags}
    assert flagged == {"pfc3", "pfc3_error", "strong_collapse", "weak_collapse", "nc4", "nc4_mismatch", "accuracy"}


def test_a_nan_always_carries_a_flag_and_a_number_is_finite():
    for case in CASES.values():
        for value in evaluate_metrics(statistics_of(case), list(METRICS.values())):
            assert math.isfinite(value.value) or (math.isnan(value.value) and value.flags), (case.name, value)


def test_selection_keeps_the_order_of_the_registry():
    assert [m.id for m in select_metrics(["nc4", "pfc1", "pfc2"])] == ["pfc1", "pfc2", "nc4"]
    assert [m.id for m in select_metrics(["pfc1", "pfc1"])] == ["pfc1"]
    assert select_metrics([]) == []


def test_selecting_nothing_in_particular_takes_all_without_a_matrix():
    chosen = select_metrics(None)
    assert [m.id for m in chosen] == [id for id, m in METRICS.items() if "scatter" not in m.needs]
    assert set(ISSUE_IDS) <= {m.id for m in chosen}
    assert {id for id in METRICS if id.endswith("_total")} - {"nc1_total"} == set(METRICS) - {m.id for m in chosen}


def test_an_unknown_id_names_near_ones():
    text = r"No metric 'nc2_equinrom'\. Near ones: nc2_equinorm, .*\. All ids: ncollapse\.METRICS"
    with pytest.raises(ValueError, match=text):
        select_metrics(["pfc1", "nc2_equinrom"])


def test_an_unknown_id_unlike_any_names_all():
    with pytest.raises(ValueError, match=r"No metric 'zzz'\. Near ones: pfc1, nc1, .*entropy_rank_total\."):
        select_metrics(["zzz"])


def test_evaluation_follows_the_metrics_that_were_asked_for():
    case = CASES["balanced"]
    statistics = layer_statistics(case.features, case.labels, 4, classifier_of(case), scatter=False)
    asked = [METRICS["nc4"], METRICS["rank_total"], METRICS["pfc1"]]
    assert [value.metric for value in evaluate_metrics(statistics, asked)] == ["nc4", "pfc1"]
