"""The table: values, curves, effective depth, text, HTML, pandas."""

import copy
import dataclasses
import io
import math
import pickle
import sys

import pandas as pd
import pytest
import torch

from cases import CASES
from ncollapse.measurement import Row
from ncollapse.metrics import CORE, FLAGS
from ncollapse.probe import measure_features

CASE = CASES["imbalanced"]


@pytest.fixture(scope="module")
def table():
    x = CASE.features
    layers = {"<b>one</b>": x.flip(1) + 3 * x.roll(1, 0), "two": x, "three & last": 2 * x}
    ids = ["pfc1", "pfc2", "pfc3", "pfc3_error", "nc4", "snc1"]
    return measure_features(layers, CASE.labels, num_classes=4, classifier=(CASE.weight, CASE.bias), metrics=ids, split="train")


def test_rows_are_ordered_by_depth_then_as_in_the_registry(table):
    assert [(r.depth, r.layer, r.metric) for r in table.rows] == [
        (depth, layer, metric)
        for depth, layer in enumerate(table.layers)
        for metric in [
            "pfc1",
            "pfc2",
            *(["snc1"] if depth == 2 else []),
            "pfc3",
            "pfc3_error",
            *(["nc4"] if depth == 2 else []),
        ]
    ]
    assert all(isinstance(row, Row) and row.split == "train" and type(row.value) is float for row in table.rows)


def test_a_value_by_name_and_by_depth(table):
    (expected,) = [r.value for r in table.rows if r.metric == "pfc1" and r.layer == "two"]
    assert table.value("pfc1", "two") == table.value("pfc1", 1) == table.value("pfc1", -2) == expected
    assert table.value("pfc1") == table.value("pfc1", "three & last") == table.value("pfc1", 2)
    assert table.value("pfc1", 0) != table.value("pfc1", 1)
    assert [table.value("nc4")] == [r.value for r in table.rows if r.metric == "nc4"]


@pytest.mark.parametrize("layer", ["four", 3, -4])
def test_a_layer_that_was_not_measured_lists_those_that_were(table, layer):
    with pytest.raises(KeyError, match=f"No layer {layer!r}. Layers measured: <b>one</b>, two, three & last"):
        table.value("pfc1", layer)


def test_a_metric_that_was_not_measured_there_lists_those_that_were(table):
    with pytest.raises(KeyError, match=r"No metric 'nc4' at layer 'two'\. Measured there: pfc1, pfc2, pfc3, pfc3_error"):
        table.value("nc4", "two")


def test_a_curve_goes_over_the_layers(table):
    assert table.curve("pfc1") == [table.value("pfc1", layer) for layer in range(3)]
    assert table.curve("nc4") == [table.value("nc4")]
    with pytest.raises(
        KeyError, match=r"No metric 'own' in this measurement\. .*It has: pfc1, pfc2, pfc3, pfc3_error, snc1, nc4\."
    ):
        table.curve("own")
    assert table["pfc1"] == dict(zip(table.layers, table.curve("pfc1"), strict=True))
    assert table["NC4"] == {"three & last": table.value("nc4")}


def test_what_was_not_computed_is_computed_when_it_is_asked_for():
    x = CASE.features
    ids = ["cdnv", "separation", "strong_collapse", "snc3", "pfc3_error"]
    options = {"num_classes": 4, "classifier": (CASE.weight, CASE.bias)}
    named = measure_features({"a": x, "b": x.square()}, CASE.labels, metrics=[*ids, "pfc3"], **options)
    asked = measure_features({"a": x, "b": x.square()}, CASE.labels, metrics=["pfc3"], **options)
    assert {row.metric for row in asked.rows} == {"pfc3"}
    for id in ids:
        assert repr(asked[id]) == repr(named[id]), id
    assert asked.effective_depth(0.4) == named.effective_depth(0.4)
    # Nothing was summed around the final means, which no question afterwards can mend.
    bare = measure_features(x, CASE.labels, num_classes=4, metrics=["pfc1"])
    assert bare["cdnv"] == pytest.approx({"features": measure_features(x, CASE.labels, num_classes=4).value("cdnv")})
    for ask in (bare.effective_depth, lambda: bare["pfc3_error"]):
        with pytest.raises(
            KeyError, match=r"No metric 'pfc3_error' .*It has: pfc1\. Measure again with metrics=\['pfc3_error'\]"
        ):
            ask()


def test_effective_depth_reads_the_error(table):
    errors = table.curve("pfc3_error")
    assert errors[0] > errors[1] > 0
    assert table.effective_depth(errors[1]).depth == 1
    assert table.effective_depth(errors[0]).depth == 0
    result = table.effective_depth()
    assert (result.epsilon, result.depth, result.reached) == (0.005, 2, False)


def test_pandas_gets_one_line_a_row(table):
    frame = table.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == "epoch step split depth layer metric value standard_error flags".split()
    assert len(frame) == len(table.rows)
    line = frame[(frame.metric == "pfc2") & (frame.layer == "two")].iloc[0]
    assert (line.depth, line.value, line.split, line["flags"]) == (1, table.value("pfc2", "two"), "train", "")
    assert frame[frame.metric == "snc1"].iloc[0]["flags"] == "imbalanced"


def test_several_flags_are_joined():
    # Both classes at one point, on a split without the training set's means.
    line = CASE.features[:, :1]
    frame = measure_features(line, CASE.labels, num_classes=4, split="test").to_pandas()
    assert frame[frame.metric == "pfc3"].iloc[0]["flags"] == "own_means"
    assert frame[frame.metric == "pfc2"].iloc[0]["flags"] == "low_dimension"
    options = {"classifier": (torch.ones(2, 1), None), "metrics": ["snc1", "pfc2"]}
    two = measure_features(line * 0, CASE.labels % 2, num_classes=2, **options).to_pandas()
    assert two[two.metric == "snc1"].iloc[0]["flags"] == "imbalanced"
    assert two[two.metric == "pfc2"].iloc[0]["flags"] == "no_between"
    none = measure_features(line, CASE.labels, num_classes=5, classifier=(torch.ones(5, 1), None)).to_pandas()
    assert set(none[~none["metric"].str.endswith("_weights") & ~none["metric"].isin(["accuracy", "nc0"])]["flags"]) == {
        "empty_class"
    }


def test_without_pandas_the_error_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'to_pandas needs pandas, .*pip install -e "\.\[pandas\]"'):
        table.to_pandas()


def test_text_is_a_table_with_its_flags(table):
    summary, *lines = str(table).splitlines()
    assert summary == "3 layers, 23 samples of 4 classes, split train, convention class, 1 pass"
    assert lines[0] == "chosen: features in memory"
    assert lines[1].split() == ["layer", "pfc1", "pfc2", "pfc3", "nc4", "snc1", "pfc3_error"]
    assert [line.index(cell) for line, cell in zip(lines[2:5], table.layers, strict=True)] == [0, 0, 0]
    values = [f"{table.value(metric, 'two'):.4g}" for metric in ("pfc1", "pfc2", "pfc3", "pfc3_error")]
    assert lines[3].split() == ["two", *values]
    assert lines[4].startswith("three & last")
    assert lines[4].split()[-2] == "nan*"
    assert len({len(line) for line in (lines[1], lines[4])}) == 1, "columns are aligned"
    assert f"* imbalanced: {FLAGS['imbalanced']}" in lines


def test_the_core_is_printed_and_the_rest_is_said_to_be_there():
    m = measure_features(CASE.features, CASE.labels, num_classes=4, classifier=(CASE.weight, CASE.bias))
    lines = str(m).splitlines()
    assert lines[2].split() == ["layer", *CORE]
    more = len({row.metric for row in m.rows}) - len(CORE)
    assert lines[-2].startswith(f"{more} more metrics were measured: ")
    assert lines[-1].endswith("print(nc.METRICS['pfc1']) explains one.")
    assert m["nc1_total"] == {"features": m.value("nc1_total")}, "as the last line says"
    named = measure_features(CASE.features, CASE.labels, num_classes=4, metrics=["gnc2", "core"])
    assert "gnc2" in str(named).splitlines()[2].split()


@pytest.mark.parametrize("width", [40, 72, 200])
def test_lines_fold_to_the_terminal(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    layers = {f"blocks.{index}": CASE.features + index for index in range(60)}
    text = str(measure_features(layers, CASE.labels, num_classes=4, classifier=(CASE.weight, CASE.bias)))
    assert max(map(len, text.splitlines())) <= width
    for name in (*layers, *CORE):
        assert name in text


def test_repr_is_one_line(table):
    assert repr(table) == "Measurement(3 layers, 23 samples of 4 classes, split 'train', 6 metrics)"


def test_html_escapes_what_it_shows(table):
    page = table._repr_html_()
    assert "<b>one" not in page
    assert "<th>&lt;b&gt;one&lt;/b&gt;</th>" in page
    assert "<th>three &amp; last</th>" in page
    assert f"<td>{table.value('pfc1', 1):.4g}</td>" in page
    assert "<td>nan*</td>" in page
    assert f"imbalanced: {FLAGS['imbalanced']}" in page
    assert page.count("<tr>") == 1 + 6
    assert page.startswith("<p><b>3 layers, 23 samples of 4 classes")


def test_five_numbers_of_a_path_are_printed():
    m = measure_features({"a": CASE.features, "b": CASE.features.square()}, CASE.labels, num_classes=4, path=True)
    assert str(m.path) == repr(m.path)
    assert str(m.path) == (
        f"PathStatistics(23 samples through 2 layers: straightness {float(m.path.straightness.mean()):.4g}, "
        f"efficiency {m.path.efficiency:.4g}, chord deviation {m.path.chord_deviation:.4g}, r² {m.path.r_squared:.4g}, "
        f"speed cov {m.path.speed_cov:.4g})"
    )


def test_undefined_values_stay_nan_in_curves():
    m = measure_features({"a": CASE.features, "b": CASE.features}, CASE.labels, num_classes=5)
    assert len(m.curve("pfc1")) == 2
    assert all(math.isnan(v) for v in m.curve("pfc1"))
    assert not m.effective_depth().reached


def test_the_second_pass_is_in_the_summary(table, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert ", convention class, 2 passes\nchosen: features in memory" in str(dataclasses.replace(table, passes=2))


def test_a_misspelled_metric_is_told_the_near_ones(table):
    with pytest.raises(KeyError, match=r"No metric 'pcf1' in this measurement\. Near ones: pfc1\. It has: pfc1, pfc2"):
        table["pcf1"]
    with pytest.raises(KeyError, match=r"No metric 'CDVN' at layer 'two'\. Near ones: cdnv\. Measured there: pfc1, pfc2"):
        table.value("CDVN", "two")
    with pytest.raises(KeyError, match=r"No metric 'nc4' at layer 'two'\. Measured there: pfc1"):
        table.value("nc4", "two")


def test_what_a_path_adds_prints_as_one_line():
    m = measure_features({"a": CASE.features, "b": CASE.features.square()}, CASE.labels, num_classes=4, path=True)
    first, last = m.curve("pfc1")
    assert repr(m.paths) == "Paths(2 layers from 'a' to 'b')"
    assert repr(m.geodesic) == (
        f"GeodesicCurve(23 samples of 4 classes, 6 dimensions, convention 'class': PFC1 {first:.4g} at t=0, {last:.4g} at t=1)"
    )
    first, last = m.curve("pfc3")
    assert repr(m.line) == f"LineDecisions(23 samples at 101 positions: PFC3 {first:.4g} at the first, {last:.4g} at the last)"
    assert repr(m.arcs) == f"ClassArcs(4 classes: shortest arc {float(m.arcs.lengths.min()):.4g})"


@pytest.mark.parametrize("name", ["path", "geodesic", "line", "arcs"])
def test_attributes_of_paths_need_paths(table, name):
    with pytest.raises(
        AttributeError, match=rf"^{name} needs a measurement along the samples' paths\. Measure again with path="
    ):
        getattr(table, name)
    assert not hasattr(table, name)
    assert getattr(type(table), name).__doc__.endswith(".")


def through_torch(table):
    file = io.BytesIO()
    torch.save(table, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda table: pickle.loads(pickle.dumps(table)), through_torch])
def test_a_copy_is_the_same_table_and_no_comparison_fails(table, copied):
    other = copied(table)
    assert repr(other.rows) == repr(table.rows)
    assert repr(other["cdnv"]) == repr(table["cdnv"])
    assert (other == other, other == table, other in [other], table in [other]) == (True, False, True, False)
    assert len({table, other}) == 2
