"""Measurements side by side: values at common layers, drift from each to the next, training means with test variances."""

import math

import pytest
import torch
from matplotlib.figure import Figure

import ncollapse as nc
from ncollapse.depth import frame_drift, mean_drift, shape_drift

K, D = 3, 5
Y = torch.arange(K).repeat(6)


def features(seed, dim=D):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(K, dim, generator=generator, dtype=torch.float64)
    noise = [torch.randn(len(Y), dim, generator=generator, dtype=torch.float64) for _ in "ab"]
    return {"a": means[Y] + noise[0], "b": 2 * means[Y] + noise[1]}


def measured(seed, **options):
    return nc.measure_features(features(seed), Y, num_classes=K, **options)


@pytest.fixture(scope="module")
def three():
    return nc.compare(measured(0), measured(1), measured(2), names=[1, 10, 100])


def test_drift_is_that_from_each_to_the_next_at_every_layer(three):
    assert [(d.before, d.after, d.layer) for d in three.drift] == [(1, 10, "a"), (1, 10, "b"), (10, 100, "a"), (10, 100, "b")]
    moments = {name: m.statistics["b"].moments for name, m in three.measurements.items()}
    found = three.drift[3]
    for drift in (mean_drift, shape_drift, frame_drift):
        assert getattr(found, drift.__name__) == drift(moments[10], moments[100]) > 0.1


def test_training_means_with_test_variances_against_plain_loops(three):
    before, after = (features(seed)["b"] for seed in (0, 1))
    means, own = ([x[Y == k].mean(dim=0) for k in range(K)] for x in (before, after))
    variances = [(after[Y == k] - own[k]).square().sum(dim=1).mean() for k in range(K)]
    center = sum(means) / K
    pairs = [(k, j) for k in range(K) for j in range(K) if k != j]
    cdnv = sum((variances[k] + variances[j]) / (2 * (means[k] - means[j]).square().sum()) for k, j in pairs) / len(pairs)
    found = three.drift[1]
    assert found.pfc1 == pytest.approx(float(sum(variances) / sum((m - center).square().sum() for m in means)), rel=1e-12)
    assert found.cdnv == pytest.approx(float(cdnv), rel=1e-12)


def test_a_measurement_compared_with_itself_has_its_own_values_and_no_drift():
    m = measured(0)
    for item in nc.compare(m, m).drift:
        assert item[3:6] == pytest.approx((0, 0, 0), abs=1e-13)
        assert item[6:] == pytest.approx((m.value("pfc1", item.layer), m.value("cdnv", item.layer)), rel=1e-13)


def test_values_are_those_of_the_measurements(three):
    assert three["pfc1"] == {name: m["pfc1"] for name, m in three.measurements.items()}
    one = nc.measure_features({"b": features(0)["b"]}, Y, num_classes=K)
    assert nc.compare(measured(0), one)["pfc2"][1] == {"b": measured(0).value("pfc2", "b")}


def test_other_widths_have_a_shape_and_nothing_else():
    wide = nc.measure_features(features(0, D + 2), Y, num_classes=K)
    item = nc.compare(measured(0), wide).drift[0]
    assert math.isfinite(item.shape_drift)
    assert all(math.isnan(value) for value in (item.mean_drift, item.frame_drift, item.pfc1, item.cdnv))


def test_the_text_is_a_table(three):
    header, *lines = str(three).splitlines()
    assert header.split() == "from to layer mean_drift shape_drift frame_drift pfc1 cdnv".split()
    assert lines[0].split()[:3] == ["1", "10", "a"]
    assert repr(three) == "Comparison(3 measurements at 2 layers)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nc.compare(measured(0), measured(1), names=["a"]), "names must be 2 distinct names"),
        (lambda: nc.compare(measured(0), measured(1), names=["a", "a"]), "names must be 2 distinct names"),
        (lambda: nc.compare(measured(0), measured(1, classes=[0, 1])), "must have the same classes, got 3, 2 of them"),
        (
            lambda: nc.compare(measured(0), nc.measure_features(features(0)["a"], Y, num_classes=K)),
            "must have a common layer, got a, b and others",
        ),
        (lambda: nc.compare(measured(0), measured(1)).plot("spiral"), "kind must be one of depth, epochs, drift, got 'spiral'"),
        (
            lambda: nc.compare(measured(0), measured(1), names=["x", "y"]).plot("epochs"),
            "epochs as names, got 'x', 'y'",
        ),
        (lambda: nc.compare(measured(0), measured(1), names=[2, 1]).plot("epochs"), "epochs as names, got 2, 1"),
    ],
)
def test_what_cannot_be_compared_or_drawn_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_pictures_draw_the_values(three):
    _, axes = three.plot(metrics=["pfc1"])
    assert [list(line.get_ydata()) for line in axes.lines] == [m.curve("pfc1") for m in three.measurements.values()]
    _, axes = three.plot("epochs", metrics=["pfc1", "cdnv"])
    values = [[m.value("cdnv", layer) for m in three.measurements.values()] for layer in "ab"]
    assert [list(line.get_ydata()) for line in axes[1].lines] == values
    assert list(axes[1].lines[0].get_xdata()) == [1, 10, 100]
    own = Figure().subplots(1, 3)
    _, axes = three.plot("drift", ax=own)
    assert axes is own
    assert list(own[2].lines[1].get_ydata()) == [d.frame_drift for d in three.drift[2:]]
