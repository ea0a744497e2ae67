"""The battery of metrics: every entry of the registry passes, and a metric that breaks a law is told so with the numbers."""

import dataclasses
import math

import pytest
import torch

from ncollapse.metrics import METRICS, Metric
from ncollapse.testing import Report, check_metric
from ncollapse.testing.report import Law


def own(compute, *, needs=(), **declared):
    """A metric of one's own: the spread of the class means, unless told otherwise."""
    declared = {"at_collapse": None, "bounds": (-math.inf, math.inf), "direction": "none", "invariant": frozenset()} | declared
    return Metric("own", "a metric of one's own", compute, frozenset(needs), reference="here", **declared)


def norms(s):
    return s.moments.centered_means("class").norm(dim=1)


class Counting:
    """A value that moves with every call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, s):
        self.calls += 1
        return norms(s).sum() + 1e-3 * self.calls


def written(s):
    s.moments.means.sub_(s.moments.means.mean(dim=0))
    return s.moments.means.norm()


def without_last_class(s):
    return norms(s)[:-1].sum()


def of_a_float(s):
    return s.moments.means.float().norm().double()


BROKEN = {
    "translation": own(lambda s: s.moments.means.norm(), invariant=frozenset({"translation"})),
    "rotation": own(lambda s: s.moments.centered_means("class").abs().sum(), invariant=frozenset({"rotation"})),
    "scale": own(lambda s: norms(s).sum(), invariant=frozenset({"scale"})),
    "relabeling": own(without_last_class),
    "order": own(Counting()),
    "batches": own(Counting()),
    "processes": own(Counting()),
    "dtype": own(Counting()),
    "empty class": own(lambda s: norms(s).sum(), despite_empty=True, needs={"centers"}),
    "at collapse": own(lambda s: norms(s).std() + 0.1, at_collapse=0.0),
    "bounds": own(lambda s: norms(s).sum(), bounds=(0.0, 1.0)),
    "direction": own(lambda s: s.moments.within_trace(), direction="increases"),
    "inputs kept": own(written),
}


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "empty class"])
def test_a_broken_law_is_told(name):
    report = check_metric(BROKEN[name])
    assert report[name].holds is False, report
    assert not report.holds


def test_only_the_broken_law_fails():
    report = check_metric(own(without_last_class, invariant=frozenset({"translation", "rotation"})))
    assert [law.name for law in report.laws if law.holds is False] == ["relabeling"]
    assert report["relabeling"].words == "12.2408 becomes 11.1455 (balanced classes)"
    assert report["scale"] == Law("scale", None, report["scale"].words)
    assert report["scale"].words.startswith("not declared in invariant; ")


def test_what_a_metric_raises_is_told():
    report = check_metric(own(lambda s: s.centers.separations.sum()))
    assert report["bounds"].words.startswith("raised AttributeError: 'NoneType'")
    assert check_metric(own(lambda s: s.centers.separations.sum(), needs={"centers"})).holds


def test_a_value_without_samples_of_a_class_must_be_declared():
    (entry,) = [dataclasses.replace(METRICS["nc2_equinorm_weights"], id="own", despite_empty=True)]
    assert check_metric(entry)["empty class"].holds
    told = dataclasses.replace(entry, compute=lambda s: torch.tensor(math.nan, dtype=torch.float64))
    assert check_metric(told)["empty class"].holds is False


def test_a_taken_id_and_another_type_are_refused():
    with pytest.raises(ValueError, match=r"new ids, got 'pfc1'"):
        check_metric(dataclasses.replace(METRICS["pfc1"], bounds=(0.0, 1.0)))
    with pytest.raises(TypeError, match="got function"):
        check_metric(norms)


def test_a_report_prints_a_line_for_each_law():
    report = Report(
        "metric own", (Law("scale", False, "1 becomes 7"), Law("order", True, "1 stays 1"), Law("bounds", None, "-"))
    )
    assert str(report).splitlines() == [
        "metric own: 1 of 2 laws fail",
        "fails           scale   1 becomes 7",
        "holds           order   1 stays 1",
        "not applicable  bounds  -",
    ]
    assert not report.holds
    assert Report("metric own", report.laws[1:]).holds
    with pytest.raises(KeyError, match=r"No law 'scales'\. Laws: scale, order, bounds"):
        report["scales"]
