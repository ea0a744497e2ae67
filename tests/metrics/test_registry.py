"""The registry: ids, selection by id, flags, and what its entries declare."""

import copy
import dataclasses
import math
import pickle

import pytest
import torch

from cases import CASES, classifier_of, layer_statistics, statistics_of
from ncollapse.metrics import CORE, FLAGS, METRICS, Metric, evaluate_metrics, select_metrics

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
    assert metric.needs <= {"centers", "logits", "classifier", "scatter", "parts", "left_out"}
    assert metric.invariant <= {"translation", "rotation", "scale"}
    assert metric.direction in ("decreases", "increases", "none")
    low, high = metric.bounds
    assert low < high
    if metric.at_collapse is None:
        assert metric.direction == "none"
    else:
        # Collapse is at the end of the range that the values go to.
        assert metric.at_collapse == (low if metric.direction == "decreases" else high)


# Shares, and cosines by their spread, are at most 1; the distance of two unit vectors is at most 2, but √2 if their inner
# product cannot be negative, and its square 4. The logarithm of a mean inverse distance of unit vectors is at least -log 2.
RANGES = {
    (0.0, 1.0): "nc1_total nc2_equiangularity nc2_equiangularity_weights unc3 pfc3 pfc3_error nc4 nc4_mismatch accuracy "
    "pfc3.noise pfc3.leave_one_out softmax_code",
    (0.0, math.sqrt(2)): "pfc2 pfc2.noise pfc2.population pfc2_tight_frame pfc2_orthoplex pfc2_seli",
    (0.0, 2.0): "nc2_max_angle nc2_max_angle_weights nc2_etf_weights nc3_etf nc3_cosine",
    (0.0, 4.0): "nc3",
    (-math.log(2), math.inf): "hyperspherical_energy",
}


def test_values_have_the_range_that_their_formulas_have():
    ranges = {name: bounds for bounds, names in RANGES.items() for name in names.split()}
    assert {name: metric.bounds for name, metric in METRICS.items()} == dict.fromkeys(METRICS, (0.0, math.inf)) | ranges


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_flag_word_is_explained(metric):
    assert metric.undefined_when | metric.flagged_when | {metric.nan_flag} <= set(FLAGS)
    assert not metric.undefined_when & metric.flagged_when


def test_every_explained_flag_is_used():
    always = {
        "one_class",
        "empty_class",
        "over_budget",
        "classifier_not_finite",
        "undersampled",
        "unresolved",
        "unbounded",
        "few_samples",
        "classifier_unproven",
    }
    used = always.union(*(m.undefined_when | m.flagged_when | {m.nan_flag} for m in METRICS.values()))
    assert used == set(FLAGS)
    assert all(text and text[0].islower() for text in FLAGS.values())


@pytest.mark.parametrize(("name", "conditions"), [
    ("balanced", set()),
    ("imbalanced", {"imbalanced"}),
    ("two_classes", {"two_classes"}),
    ("two_imbalanced_classes", {"two_classes", "imbalanced"}),
    ("low_dimension", {"low_dimension"}),
    ("many_classes_few_dimensions", {"low_dimension", "imbalanced", "no_orthoplex", "no_softmax_code"}),
    ("one_dimension", {"low_dimension", "odd_on_line", "imbalanced", "no_orthoplex", "no_softmax_code"}),
    ("means_on_a_line", {"imbalanced", "no_orthoplex"}),
    ("deep_collapse", {"imbalanced", "no_orthoplex"}),
    ("far_mean_tiny_std", {"imbalanced", "no_orthoplex"}),
])  # fmt: skip
def test_conditions_of_a_layer(name, conditions):
    assert statistics_of(CASES[name]).conditions() == [conditions]


def test_conditions_of_degenerate_layers():
    line = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    twice = torch.arange(3).repeat(2)
    assert layer_statistics(line.repeat(2, 1), twice, 3).conditions()[0] == {"rank_deficient", "no_orthoplex"}
    assert layer_statistics(line, torch.arange(3), 3).conditions()[0] == {
        "rank_deficient", "single_samples", "single_centers", "single_left_out", "no_orthoplex"
    }  # fmt: skip
    assert layer_statistics(torch.ones(6, 4), twice, 3).conditions()[0] == {
        "no_between", "same_centers", "no_variance", "no_orthoplex"
    }  # fmt: skip
    assert layer_statistics(line, torch.tensor([0, 1, 1]), 3).conditions()[0] == {"empty_class"}
    assert layer_statistics(line, torch.zeros(3).long(), 1).conditions()[0] == {"one_class"}


def test_own_means_are_flagged_where_they_decide():
    statistics = dataclasses.replace(statistics_of(CASES["balanced"]), own_means=True)
    values = evaluate_metrics(statistics, list(METRICS.values()))
    flagged = {value.metric for value in values if "own_means" in value.flags}
    assert flagged == {"pfc3", "pfc3_error", "strong_collapse", "weak_collapse", "nc4", "nc4_mismatch"}


def test_a_nan_always_carries_a_flag_and_a_number_is_finite():
    for case in CASES.values():
        for value in evaluate_metrics(statistics_of(case), list(METRICS.values())):
            flagged = "unbounded" in value.flags if math.isinf(value.value) else bool(value.flags)
            assert math.isfinite(value.value) or flagged, (case.name, value)


def test_selection_keeps_the_order_of_the_registry():
    assert [m.id for m in select_metrics(["nc4", "pfc1", "pfc2"])] == ["pfc1", "pfc2", "nc4"]
    assert [m.id for m in select_metrics(["pfc1", "pfc1"])] == ["pfc1"]
    assert select_metrics([]) == []


LIGHT = [id for id, m in METRICS.items() if not m.needs & {"scatter", "parts", "left_out"}]
ON_DEMAND = {"separation", "pfc3_error", "strong_collapse", "snc1", "snc2", "snc3"}
ON_DEMAND |= {"pfc2_tight_frame", "pfc2_orthoplex", "pfc2_seli", "softmax_code"}


def test_selecting_nothing_in_particular_leaves_out_matrices_repetitions_and_the_squared_loss():
    assert [m.id for m in select_metrics(None)] == [id for id in LIGHT if id not in ON_DEMAND]
    heavy = {id for id in METRICS if id.endswith(("_total", ".population", ".low", ".high", ".leave_one_out"))} - {"nc1_total"}
    assert heavy == set(METRICS) - set(LIGHT)
    # With the class means of another split strong collapse is no longer PFC1.
    other = [m.id for m in select_metrics(None, by_reference=True)]
    assert other == [id for id in LIGHT if id not in ON_DEMAND - {"strong_collapse"}]


def test_words_stand_for_several_metrics():
    assert {m.id for m in select_metrics("core")} == set(CORE)
    assert [m.id for m in select_metrics(["ALL"])] == LIGHT
    assert {m.id for m in select_metrics(["Core", "rank_total"])} == {*CORE, "rank_total"}
    population = {"pfc1.population", "pfc2.population", "nc1.population", "cdnv.population"}
    estimates = {m.id for m in select_metrics("population")}
    assert estimates == {id for id in METRICS if "." in id and not id.endswith(".noise")} >= population


def test_names_in_any_case_and_one_alone():
    assert [m.id for m in select_metrics(["NC1", "PFC1", "nc2_Equinorm"])] == ["pfc1", "nc1", "nc2_equinorm"]
    assert [m.id for m in select_metrics("Pfc2")] == ["pfc2"]
    assert select_metrics(METRICS["pfc2"]) == [METRICS["pfc2"]]


def own(id="mine", needs=frozenset()):
    return Metric(id, "twice PFC1", lambda s: 2 * METRICS["pfc1"].compute(s), needs, 0.0, (0.0, math.inf), "decreases", "ours")


def test_own_metrics_come_behind_those_of_the_registry():
    mine = own()
    assert select_metrics([mine, "nc4", METRICS["pfc1"], mine]) == [METRICS["pfc1"], METRICS["nc4"], mine]
    for taken in (["pfc1", own("pfc1")], [mine, own()]):
        with pytest.raises(ValueError, match=r"must have new ids, got '(pfc1|mine)', the id of another metric\. Rename it\."):
            select_metrics(taken)
    with pytest.raises(TypeError, match=r"metrics must be ids, such as 'pfc1', or Metric values, got int"):
        select_metrics([3])


def test_entries_are_pickled_and_copied_by_their_id():
    for metric in METRICS.values():
        assert pickle.loads(pickle.dumps(metric)) is metric
        assert copy.deepcopy(metric) is metric


def test_what_was_not_collected_is_said():
    case = CASES["balanced"]
    whole = statistics_of(case)
    assert whole.lacks == set()
    nothing = dict.fromkeys(("centers", "within", "decisions", "classifier", "scatter", "class_parts", "choices"))
    bare = dataclasses.replace(whole, **nothing)
    assert bare.lacks == {"centers", "logits", "classifier", "scatter", "parts"}
    # An empty class leaves no centers, whoever asks for them: its metrics say so themselves.
    assert "centers" not in layer_statistics(case.features, case.labels, 5).lacks
    # Beyond the memory budget the classifier's decisions were not summed, though it is there.
    over_budget = dataclasses.replace(bare, centers=whole.centers, classifier=whole.classifier)
    assert (over_budget.over_budget, bare.over_budget, whole.over_budget) == (True, False, False)
    assert "logits" not in over_budget.lacks
    assert {"logits", "classifier"} <= dataclasses.replace(bare, centers=whole.centers).lacks
    values = evaluate_metrics(over_budget, list(METRICS.values()))
    summed = {value.metric for value in values if METRICS[value.metric].needs & {"centers", "logits"}}
    assert {"nc1", "nc4", "accuracy"} <= summed < {value.metric for value in values}
    assert {value.metric for value in values if "over_budget" in value.flags} == summed


def test_an_unknown_id_names_near_ones():
    with pytest.raises(ValueError, match=r"No metric 'cor'\. Near ones: core"):
        select_metrics("cor")
    text = r"No metric 'nc2_equinrom'\. Near ones: nc2_equinorm, .*\. list\(ncollapse\.METRICS\) has all"
    with pytest.raises(ValueError, match=text):
        select_metrics(["pfc1", "nc2_equinrom"])


def test_an_unknown_id_unlike_any_names_all():
    with pytest.raises(ValueError, match=r"No metric 'zzz'\. Known: pfc1, nc1, .*pfc3\.leave_one_out\."):
        select_metrics(["zzz"])


def test_evaluation_follows_the_metrics_that_were_asked_for():
    case = CASES["balanced"]
    statistics = layer_statistics(case.features, case.labels, 4, classifier_of(case), scatter=False)
    asked = [METRICS["nc4"], METRICS["rank_total"], METRICS["pfc1"]]
    assert [value.metric for value in evaluate_metrics(statistics, asked)] == ["nc4", "pfc1"]


def test_a_metric_in_print_names_where_its_formula_is_only_if_it_has_one():
    text = str(METRICS["pfc1.population"])
    assert text.splitlines()[-1].startswith("Formula: docs/metrics.md#pfc1population in")
    own = dataclasses.replace(METRICS["pfc1"], id="own", compute=lambda statistics: statistics.moments.counts.sum())
    assert str(own).splitlines()[-1] == f"Source: {own.reference}"
