"""The K-gon drawn: markup and figures show the positions of the numbers, also for two, a hundred and a thousand classes."""

import html as escaping
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ncollapse as nc
from ncollapse.drawing import plot_kgon, save_animation
from ncollapse.drawing.kgon import Kgon, outside
from ncollapse.drawing.kgon_html import kgon_markup, shown_epochs
from ncollapse.etf import simplex_etf
from ncollapse.measurement.as_run import run_of
from ncollapse.polygon import corners_of
from ncollapse.records import ReportError

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def run_with(num_classes, num_epochs=3, num_layers=2, num_rows=4, prefix="layer"):
    """A run in memory whose classes collapse over depth and epochs."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat(num_rows)
    dim = max(num_classes - 1, 2)
    frame = simplex_etf(num_classes, dim)
    noise = torch.randn(len(labels), dim, generator=draw, dtype=torch.float64) / dim**0.5
    weight = frame + 0.1 * torch.randn(num_classes, dim, generator=draw, dtype=torch.float64)
    measured = {
        epoch: nc.measure_features(
            {f"{prefix}{i}": frame[labels] + noise * 0.8 ** (i + epoch) for i in range(num_layers)},
            labels,
            num_classes=num_classes,
            classifier=(weight, None),
        )
        for epoch in range(num_epochs)
    }
    return run_of(measured)


def payload(markup):
    return json.loads(re.search(r'<script type="application/json" class="kgon-data">(.*?)</script>', markup)[1])


def decoded(text):
    steps = [64 * DIGITS.index(text[i]) + DIGITS.index(text[i + 1]) for i in range(0, len(text), 2)]
    return np.array(steps).reshape(-1, 2) / 4095 * 2 - 1


def drawn_run(features, num_classes=5):
    """A run of one layer and epoch, with its K-gon."""
    labels = torch.arange(num_classes).repeat(len(features) // num_classes)
    run = run_of({0: nc.measure_features({"a": features}, labels, num_classes=num_classes)})
    return run, Kgon.of(run.samples)


@pytest.fixture(scope="module")
def run():
    return run_with(5)


def test_positions_of_markup_and_data_are_those_of_the_numbers(run):
    kgon, markup = Kgon.of(run.samples), kgon_markup(Kgon.of(run.samples))
    data = payload(markup)
    assert data["epochs"] == [0, 1, 2]
    for index, epoch in enumerate(data["epochs"]):
        at = kgon.positions(epoch)
        for layer in range(2):
            reach = data["reach"][index][layer]
            labels = outside(at.corners[layer] / reach) * reach
            parts = [at.points[layer], at.means[layer], at.corners[layer], labels, *([at.spokes[0]] if layer == 1 else [])]
            expected = np.clip(np.concatenate(parts) / reach, -1, 1)
            assert np.abs(decoded(data["drawn"][index][layer]) - expected).max() < 1e-3
            assert reach == round(kgon.pictures(epoch)[layer].reach, 3) >= 1.3
    drawn = re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"/>', markup)
    at = kgon.positions(2)
    expected = np.concatenate([at.points[i] / kgon.pictures(2)[i].reach for i in (0, 1)]) * [100, -100]
    assert np.abs(np.array(drawn, dtype=float) - expected).max() <= 0.051
    assert markup.count("<svg") == 2
    assert markup.count("<line") == 5


def test_corners_are_those_of_the_polygon_in_the_order_of_the_last_epoch(run):
    kgon = Kgon.of(run.samples)
    assert np.abs(kgon.positions(0).corners - corners_of(kgon.order)).max() < 1e-3


def test_labels_lie_apart_even_where_corners_meet():
    regular = 0.7 * corners_of(range(10))
    assert np.abs(outside(regular) - 1.2 * regular).max() < 1e-5
    met = regular.copy()
    met[2], met[5] = met[1], 0.01 * met[4]
    gaps = np.linalg.norm(outside(met)[:, None] - outside(met), axis=2) + np.eye(10)
    assert gaps.min() > 0.12


def test_seven_layers_are_in_rows_of_four_and_three():
    run = run_with(5, num_epochs=1, num_layers=7)
    assert 'class="kgon-panels" style="--columns:4"' in kgon_markup(Kgon.of(run.samples))
    figure = plot_kgon(run)
    assert len({axes.get_position().x0 for axes in figure.axes}) == 4


def test_two_classes_lie_on_a_line():
    run = run_with(2)
    kgon = Kgon.of(run.samples)
    labels, picture = run.samples.epochs[2].labels, kgon.pictures(2)[0]
    assert np.abs(picture.means[:, 1]).max() == 0
    assert (picture.points[labels == 0, 1] > 0).all()
    assert (picture.points[labels == 1, 1] < 0).all()
    assert "Two classes lie on a line" in kgon_markup(kgon)


@pytest.mark.parametrize(("num_classes", "num_rows", "named"), [(20, 2, 20), (100, 3, 10), (400, 1, 10)])
def test_many_classes(num_classes, num_rows, named):
    run = run_with(num_classes, num_epochs=1, num_layers=1, num_rows=num_rows)
    markup = kgon_markup(Kgon.of(run.samples))
    assert markup.count("<text") == named
    assert markup.count("<button") == 1 + named + (num_classes > 20)
    assert ("The 10 largest of" in markup) == (num_classes > 20)
    assert (' ring"' in markup) == (num_classes == 20)
    assert len(payload(markup)["labels"]) <= 500


def test_of_many_epochs_a_page_shows_some():
    samples = run_with(20, num_epochs=1, num_layers=6, num_rows=20).samples
    kgon = Kgon.of(replace(samples, epochs=dict.fromkeys(range(40), samples.epochs[0])))
    shown = shown_epochs(kgon)
    assert shown[0] == 0
    assert shown[-1] == 39
    markup = kgon_markup(kgon)
    assert f"{len(shown)} of 40 measured epochs are shown" in markup
    assert len(markup) < 500_000


def test_a_loader_that_shuffles_is_noted(run):
    samples = run.samples
    moved = samples.epochs[0].indices[::-1].copy()
    first = samples.epochs[0].__class__(**{**samples.epochs[0].__dict__, "indices": moved})
    kgon = Kgon.of(samples.with_epoch(0, first))
    assert "another sample at each epoch" in kgon_markup(kgon)
    data = payload(kgon_markup(kgon))
    assert data["indices"][0] == moved.tolist()
    assert data["indices"][1:] == [0, samples.epochs[2].indices.tolist()]


def test_epochs_with_other_numbers_of_samples_are_left_out(run):
    # A loader that drops its last batch: dots could not keep their classes.
    samples = run.samples
    fewer = {name: getattr(samples.epochs[1], name)[1:] for name in ("labels", "indices", "paths")}
    other = samples.with_epoch(1, replace(samples.epochs[1], points=samples.epochs[1].points[:, 1:], **fewer))
    kgon = Kgon.of(other)
    data, markup = payload(kgon_markup(kgon)), kgon_markup(kgon)
    assert kgon.epochs == (0, 2)
    assert (data["epochs"], len(data["drawn"])) == ([0, 2], 2)
    assert 'max="1" value="1"' in markup
    assert "2 of 3 measured epochs are shown." in markup
    assert "another number of samples at other epochs" in markup
    assert len(plot_kgon(replace(run, samples=other), 1).axes) == 2


def test_a_figure_of_an_epoch_notes_the_ranks_of_that_epoch():
    labels = torch.arange(4).repeat(3)
    wide = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    flat = torch.cat([wide[:, :2], torch.zeros(12, 3)], dim=1)
    run = run_of({epoch: nc.measure_features({"a": x}, labels, num_classes=4) for epoch, x in enumerate((flat, wide))})
    notes = [[text.get_text() for text in plot_kgon(run, epoch).axes[0].texts] for epoch in (0, 1)]
    assert ["class means span 2 of 3 dimensions" in "".join(note) for note in notes] == [True, False]


@pytest.mark.parametrize("num_classes", [2, 10, 30])
def test_a_network_that_has_not_collapsed_is_zoomed_out_until_its_samples_fit(num_classes):
    noise = torch.randn(num_classes * 20, 40, generator=torch.Generator().manual_seed(0))
    run, kgon = drawn_run(noise, num_classes)
    at, (picture,) = kgon.positions(0), kgon.pictures(0)
    x = np.abs(at.points[0, :, 0] if num_classes == 2 else at.points[0])
    assert x.max() > 2
    # Noise has no far samples: all are inside, and the outermost is near the edge.
    assert picture.reach == pytest.approx(1.04 * x.max())
    assert not picture.is_beyond.any()
    assert np.allclose(picture.points[:, 0], at.points[0, :, 0] / picture.reach)
    assert np.allclose(picture.corners, at.corners[0] / picture.reach)
    assert "zoomed out" in picture.note
    markup = kgon_markup(kgon)
    assert "the polygon is small" in markup
    assert (f'class="frame" r="{100 / picture.reach:.1f}"' in markup) == (num_classes == 30)
    outline = plot_kgon(run).axes[0].lines[0].get_xydata()
    assert np.abs(np.linalg.norm(outline, axis=1) - 1 / picture.reach).max() < 1e-3


def test_a_sample_far_beyond_the_others_is_a_mark_at_the_edge_and_counted():
    noise = 0.1 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = simplex_etf(5, 4)[torch.arange(5).repeat(20)] + noise
    _, before = drawn_run(features)
    features[0] += 20 * simplex_etf(5, 4)[0]
    run, kgon = drawn_run(features)
    (picture,) = kgon.pictures(0)
    assert picture.is_beyond.sum() == 1
    assert picture.is_beyond[before.samples.epochs[0].indices == 0] == [True]
    assert picture.reach < 2 * before.pictures(0)[0].reach
    assert "1 sample beyond the edge" in picture.note
    markup = kgon_markup(kgon)
    assert markup.count("<circle class=beyond") == 1
    assert "small rings at the edge" in markup
    assert sorted(plot_kgon(run).axes[0].collections[1].get_sizes())[:2] == [2, 5]


def test_a_classifier_that_starts_at_zero_has_no_spokes_but_a_picture():
    labels = torch.arange(5).repeat(4)
    m = nc.measure_features({"a": simplex_etf(5, 4)[labels]}, labels, num_classes=5, classifier=(torch.zeros(5, 4), None))
    (picture,) = Kgon.of(run_of({0: m}).samples).pictures(0)
    assert picture.spokes.tolist() == [[0, 0]] * 5
    assert np.isfinite(np.concatenate(picture[:1] + picture[2:4])).all()


def test_the_page_says_where_samples_end(run, monkeypatch):
    kgon = Kgon.of(run.samples)
    assert "have no picture" not in kgon_markup(kgon, "epoch", [0, 1, 2])
    assert "1 epoch of 4 have no picture" in kgon_markup(kgon, "epoch", [0, 1, 2, 9])
    monkeypatch.setattr("ncollapse.records.samples.FULL_EPOCHS", 3)
    assert "The pictures end at epoch 2 of 9" in kgon_markup(kgon, "epoch", [0, 1, 2, 9])
    assert plot_kgon(run, 1).get_suptitle() == "epoch 1"
    assert plot_kgon(run).get_suptitle() == ""


def test_names_stay_text():
    evil = "</script><b onload=x>\"'&"
    markup = kgon_markup(Kgon.of(run_with(3, prefix=evil).samples))
    assert evil not in markup
    assert escaping.escape(evil) in markup


def test_ranks_and_coincident_means_are_noted():
    labels = torch.arange(4).repeat(3)
    flat = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    m = nc.measure_features({"flat": flat, "same": torch.ones(12, 3)}, labels, num_classes=4)
    markup = kgon_markup(Kgon.of(run_of({0: m}).samples))
    assert "class means span 2 of 3 dimensions" in markup
    assert "all class means coincide" in markup
    assert "no simplex fits" in markup
    assert payload(markup)["drawn"][0][1] == ""


def test_a_figure_and_an_animation(run, tmp_path):
    assert len(plot_kgon(run).axes) == 2
    with pytest.raises(ReportError, match=r"needed the epoch of a measurement, such as .*, got 9"):
        plot_kgon(run, 9)
    save_animation(run, tmp_path / "new" / "kgon.gif", frames=2)
    with Image.open(tmp_path / "new" / "kgon.gif") as image:
        assert (image.n_frames, image.format) == (2, "GIF")
    save_animation(run, tmp_path / "kgon.png")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "again.png").symlink_to(tmp_path / "mine")
    save_animation(run, tmp_path / "again.png")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "kgon.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    with pytest.raises(ReportError, match=r"needed a name that ends in \.gif"):
        save_animation(run, tmp_path / "kgon.mp4")


def test_a_run_without_samples_says_so(run):
    with pytest.raises(ReportError, match=r"needed samples\.safetensors, found none"):
        plot_kgon(replace(run, samples=None))
