"""A measurement as picture, sentences and HTML: the numbers are its own, names are only ever text."""

import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import ncollapse as nc
from ncollapse.drawing import plot_class_distances, summarize
from ncollapse.metrics import METRICS
from ncollapse.records import read_run
from ncollapse.targets import Target, write_measurement

K, D = 3, 5
Y = torch.arange(K).repeat(6)
HOSTILE = '<script>alert("$x$")</script>&'


def features(num_layers=4, name="layer{}"):
    generator = torch.Generator().manual_seed(0)
    means, noise = (torch.randn(n, D, generator=generator, dtype=torch.float64) for n in (K, len(Y)))
    return {name.format(i): means[Y] + 0.9**i * noise for i in range(num_layers)}


def measured(x=None, **options):
    return nc.measure_features(features() if x is None else x, Y, num_classes=K, **options)


@pytest.fixture(scope="module")
def m():
    return measured(path=True, classifier=(torch.eye(K, D), None))


def dots(axes):
    """The layers' markers: x and y by depth."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]


def test_over_depth_every_layer_is_at_its_place(m):
    figure, axes = m.plot()
    assert isinstance(figure, Figure)
    for panel, metric in zip(axes, ("pfc1", "pfc2", "pfc3"), strict=True):
        assert dots(panel) == list(zip(m.path.position(), m.curve(metric), strict=True))
    line = next(line for line in axes[0].lines if len(line.get_xdata()) == 101 and line.get_linestyle() == "-")
    assert list(line.get_ydata()) == m.geodesic.pfc1().tolist()


def test_without_paths_or_in_stages_layers_are_at_equal_distances():
    _, axes = measured().plot(metrics=["nc1"])
    assert dots(axes) == list(enumerate(measured().curve("nc1")))
    stages = measured({**features(3), "pooled": features()["layer3"][:, :3], "again": features()["layer2"][:, :3]}, path=True)
    _, axes = stages.plot(metrics=["pfc1"])
    assert dots(axes) == list(enumerate(stages.curve("pfc1")))
    line = next(line for line in axes.lines if len(line.get_xdata()) == 101 and line.get_linestyle() == "-")
    assert [line.get_xdata()[i] for i in (0, 50, 100)] == [0, 1, 2]
    assert line.get_ydata()[50] == pytest.approx(float(stages.geodesic.pfc1([0.5])))


def test_a_metric_of_the_classifier_is_drawn_at_its_layer(m):
    _, axes = m.plot(metrics=["accuracy"])
    assert dots(axes) == [(pytest.approx(1.0), m.value("accuracy"))]
    assert axes.get_ylabel() == METRICS["accuracy"].title


def test_the_last_layer_alone_has_its_values_as_text(m):
    _, axes = m.plot("last_layer")
    written = {text.get_text() for text in axes.texts}
    assert {f"{m.value(metric):.3g}" for metric in ("nc1", "nc2_equinorm", "nc3")} <= written


def test_class_distances_are_relative_to_their_root_mean_square(m):
    _, axes = m.plot("class_distances", layer="layer1")
    means = m.statistics["layer1"].moments.means.numpy()
    distances = np.array([[np.linalg.norm(a - b) for b in means] for a in means])
    scale = np.sqrt((distances**2).sum() / (K * (K - 1)))
    np.testing.assert_allclose(axes.images[0].get_array(), distances / scale, rtol=1e-12)
    assert axes.get_title(loc="left") == "layer1"
    etf = nc.measure_features(nc.simplex_etf(K, D)[Y], Y, num_classes=K)
    _, axes = etf.plot("class_distances")
    np.testing.assert_allclose(axes.images[0].get_array(), 1 - np.eye(K), atol=1e-12)


def test_a_matrix_without_distances_is_white_and_one_of_another_size_refused():
    figure = plot_class_distances([[0.0, 0.0], [0.0, 0.0]], ["$x$", "b"])
    assert np.ma.getmaskarray(figure.axes[0].images[0].get_array()).all()
    with pytest.raises(ValueError, match=r"distances must be 3 by 3, one row per class, got \(2, 2\)"):
        plot_class_distances([[0.0, 1.0], [1.0, 0.0]], ["a", "b", "c"])


def test_own_axes_are_drawn_into(m):
    figure = Figure()
    own = figure.subplots(1, 2)
    assert m.plot(metrics=["pfc1"], ax=own[0]) == (figure, own[0])
    assert m.plot("class_distances", ax=own[1])[1] is own[1]
    assert not figure.legends
    with pytest.raises(ValueError, match=r"ax must be 3 Axes, one per panel, got 2\."):
        m.plot(ax=own)


def test_unknown_kinds_and_layers_are_refused(m):
    with pytest.raises(ValueError, match=r"kind must be one of depth, last_layer, class_distances, kgon, got 'pie'\."):
        m.plot("pie")
    with pytest.raises(ValueError, match=r"got 'epochs'\. compare\(a, b, names=\[1, 10\]\)\.plot\('epochs'\)"):
        m.plot("epochs")
    with pytest.raises(KeyError, match="No layer 'nowhere'"):
        m.plot("class_distances", layer="nowhere")


@pytest.mark.parametrize("path", [True, False])
def test_the_summary_says_what_the_page_says(path, tmp_path):
    m = measured(path=path)
    run = read_run(write_measurement(m, Target("net:make", data="digits"), tmp_path / "run"))
    assert m.summary().splitlines() == summarize(run)
    if path:
        assert m.depth_results.prediction_error["projection"].line["pfc1"] == pytest.approx(run.prediction_errors("pfc1")[0])
        assert m.depth_results.theorem1.holds is run.last.theorem1.holds
    else:
        assert f"{m.value('pfc1', 0):.3g} → {m.value('pfc1'):.3g}" in m.summary()
        with pytest.raises(AttributeError, match="depth_results needs a measurement along the samples' paths"):
            m.depth_results  # noqa: B018


def test_html_has_curves_and_meanings_and_escapes_names():
    html = measured(features(3, f"{HOSTILE}{{}}"))._repr_html_()
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html
    assert '<img alt="metrics over depth" style="max-width:100%" src="data:image/svg+xml,' in html
    address = re.search(r'src="([^"]*)"', html)[1]
    assert not {*address} & set('<>#"')
    assert METRICS["pfc1"].title in html
    assert re.search(r"<details><summary>\d+ more metrics</summary>", html)
    assert len(html) < 100_000


def test_html_of_many_layers_with_long_names_stays_small():
    m = measured(features(60, "model.encoder.layers.{:02}" + 40 * "x"))
    html = m._repr_html_()
    assert len(html) < 100_000
    assert html.count("<th>") == 2 * (1 + 13)
    assert "13 of 60 layers are shown" in html
