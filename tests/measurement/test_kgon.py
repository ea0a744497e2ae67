"""The K-gon: exact frames land on the corners, and what the map may not depend on changes nothing."""

import math

import numpy as np
import pytest
import torch

import ncollapse as nc
from ncollapse.etf import nearest_etf, simplex_etf
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.kgon_sample import in_own_planes
from ncollapse.polygon import corners_of


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(features, labels, num_classes, **options):
    """The header and the only epoch of a measurement of one layer, or of several."""
    samples = add_kgon(None, nc.measure_features(features, labels, num_classes=num_classes, **options), 0)
    return samples.header, samples.epochs[0]


def in_plane(header, values):
    values = values.astype(float)
    return values if header.order else values @ corners_of(range(len(header.classes)))


def polygon(header):
    return corners_of(header.order or range(len(header.classes)))


def clouds(num_classes, dim, num_rows=12, seed=0):
    labels = torch.arange(num_classes).repeat(num_rows)
    centers = torch.randn(num_classes, dim, generator=generator(seed), dtype=torch.float64)
    noise = torch.randn(len(labels), dim, generator=generator(seed + 1), dtype=torch.float64)
    return centers[labels] + 0.5 * noise, labels


@pytest.mark.parametrize(("num_classes", "dim"), [(2, 5), (3, 2), (5, 4), (10, 64), (20, 19), (30, 40)])
def test_an_exact_frame_lands_on_the_corners(num_classes, dim):
    frame = 3.7 * simplex_etf(num_classes, dim, generator=generator())
    labels = torch.arange(num_classes).repeat(4)
    header, found = drawn(frame[labels] + 2, labels, num_classes, classifier=(0.3 * frame - 1, None))
    assert found.ranks.tolist() == [num_classes - 1]
    corners = polygon(header)
    for values in (found.means[0], found.spokes[0], found.corners[0]):
        assert np.abs(in_plane(header, values) - corners).max() < 1e-3
    assert np.abs(in_plane(header, found.points[0]) - corners[found.labels]).max() < 1e-3


def test_the_map_is_that_of_the_theory():
    features, labels = clouds(6, 9)
    _, found = drawn(features, labels, 6)
    means = torch.stack([features[labels == k].mean(dim=0) for k in range(6)])
    near = nearest_etf(means)
    expected = (features[found.indices] - means.mean(dim=0)) / near.scale @ near.frame.T * 5 / 6
    assert np.abs(expected.numpy() - found.points[0]).max() < 1e-3 * float(expected.abs().max())
    assert torch.equal(labels[found.indices], torch.as_tensor(found.labels))


def test_random_features_do_not_land_on_the_corners():
    header, found = drawn(torch.randn(400, 64, generator=generator()), torch.arange(10).repeat(40), 10)
    distance = np.linalg.norm(in_plane(header, found.points[0]) - polygon(header)[found.labels], axis=1)
    assert np.median(distance) > 0.5


@pytest.mark.parametrize("num_classes", [5, 24])
def test_rotation_translation_and_scale_change_nothing(num_classes):
    features, labels = clouds(num_classes, 30)
    turn, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator(3), dtype=torch.float64))
    moved = 17.0 * features @ turn + torch.randn(30, generator=generator(4))
    weight = torch.randn(num_classes, 30, generator=generator(5), dtype=torch.float64)
    header, plain = drawn(features, labels, num_classes, classifier=(weight, None))
    other_header, other = drawn(moved, labels, num_classes, classifier=(0.2 * weight @ turn + 3, None))
    assert header == other_header
    for name in ("points", "means", "corners", "spokes"):
        a, b = (getattr(found, name).astype(float) for found in (plain, other))
        assert np.abs(a - b).max() <= 2e-3 * np.abs(a).max(), name


def test_fewer_dimensions_than_a_simplex_needs_give_the_images_of_the_corners():
    features, labels = clouds(8, 3)
    header, found = drawn(features, labels, 8)
    assert found.ranks.tolist() == [3]
    images = found.corners[0].astype(float)
    # The images of the corners are a projection of rank 3, and no longer the corners themselves.
    assert np.abs(images @ images - images).max() < 2e-3
    assert np.trace(images) == pytest.approx(3, abs=5e-3)
    means = torch.stack([features[labels == k].mean(dim=0) for k in range(8)]).numpy()
    left, spread, _ = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    # The scale a, times the frame's images, is the nearest point to the means.
    expected = left * spread @ left.T / (spread.sum() / 3)
    assert np.abs(found.means[0] - expected).max() < 2e-3
    assert np.abs(polygon(header) - in_plane(header, found.corners[0])).max() > 0.3


def test_class_means_in_a_plane_of_many_dimensions_count_as_few_dimensions():
    labels = torch.arange(6).repeat(5)
    flat = torch.zeros(30, 20)
    flat[:, :2] = torch.as_tensor(corners_of(range(6)))[labels].float()
    assert drawn(flat + 5, labels, 6)[1].ranks.tolist() == [2]


def test_coincident_means_have_no_picture_and_other_layers_keep_theirs():
    frame, labels = simplex_etf(3, 4), torch.arange(3).repeat(4)
    _, found = drawn({"flat": torch.ones(12, 4), "last": frame[labels]}, labels, 3)
    assert found.ranks.tolist() == [0, 2]
    assert np.isnan(found.points[0]).all()
    assert np.isfinite(found.points[1]).all()


def test_absent_classes_are_left_out_and_noted():
    features, labels = clouds(5, 8)
    there = labels != 2
    header, found = drawn(features[there], labels[there], 5)
    assert header.classes == (0, 1, 3, 4)
    assert header.absent == (2,)
    assert found.means.shape == (1, 4, 4)
    assert len(found.labels) == 0
    header, found = drawn(features[there], labels[there], 5, classes="present")
    assert (header.classes, header.absent) == ((0, 1, 3, 4), ())
    assert set(found.labels.tolist()) == {0, 1, 2, 3}


def test_without_decisions_there_are_class_means_only():
    features, labels = clouds(4, 6)
    _, found = drawn(features, labels, 4, metrics=["pfc1"])
    _, whole = drawn(features, labels, 4)
    assert len(found.labels) == 0
    assert np.abs(found.means.astype(float) - whole.means).max() < 2e-3


def test_one_class_has_no_picture():
    m = nc.measure_features(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64), num_classes=3)
    assert add_kgon(None, m, 0) is None


def test_many_classes_keep_the_order_of_the_first_epoch_and_other_layers_begin_anew():
    first, second = (nc.measure_features(*clouds(24, 30, seed=seed), num_classes=24) for seed in (0, 7))
    samples = add_kgon(None, first, 0)
    both = add_kgon(samples, second, 1)
    assert list(both.epochs) == [0, 1]
    assert both.header.order == samples.header.order != add_kgon(None, second, 1).header.order
    assert both.epochs[1].points.shape == (1, 288, 2)
    other = nc.measure_features({"other": clouds(24, 30)[0]}, clouds(24, 30)[1], num_classes=24)
    assert list(add_kgon(both, other, 2).epochs) == [2]


# Of 36 samples in one layer: two integers a sample, the rank, and three half-precision numbers a sample and a class mean.
@pytest.mark.parametrize(("limit", "most", "kept"), [("FULL_EPOCHS", 2, 2), ("FULL_BYTES", 2 * (36 * 22 + 44) + 1, 3)])
def test_a_full_file_takes_no_more_epochs(monkeypatch, limit, most, kept):
    monkeypatch.setattr(f"ncollapse.records.samples.{limit}", most)
    features, labels = clouds(3, 4)
    m, samples = nc.measure_features(features, labels, num_classes=3), None
    for epoch in range(5):
        samples = add_kgon(samples, m, epoch)
    assert list(samples.epochs) == list(range(kept))


def test_paths_in_their_planes():
    # A right angle: half of the way along the chord, and half a chord off it; a straight path; one that comes back.
    path = torch.tensor(
        [[[0.0, 0, 0], [1, 1, 0], [2, 0, 0]], [[1.0, 1, 1], [2, 2, 2], [3, 3, 3]], [[0.0, 0, 0], [1, 0, 0], [0, 0, 0]]]
    )
    found = in_own_planes(path.double())
    assert found[0].tolist() == [[0, 0], [0.5, 0.5], [1, 0]]
    assert found[1].tolist() == [[0, 0], [0.5, 0], [1, 0]]
    assert all(math.isnan(x) for x in found[2].flatten().tolist())


@pytest.mark.parametrize("dim", [5, 20_000])  # all rows at once, and a few at a time
def test_sampled_paths_are_those_of_the_centered_features(dim):
    labels = torch.arange(3).repeat(10)
    layers = {name: torch.randn(30, dim, generator=generator(i), dtype=torch.float64) for i, name in enumerate("abcd")}
    header, found = drawn(layers, labels, 3, path=True)
    assert header.path == ("a", "b", "c", "d")
    stacked = torch.stack([layer - layer.mean(dim=0) for layer in layers.values()], dim=1)[found.indices]
    assert np.abs(in_own_planes(stacked).numpy() - found.paths).max() < 4e-3
    assert np.abs(found.paths[:, -1] - [1, 0]).max() < 1e-3


def test_figures(tmp_path):
    features, labels = clouds(4, 6)
    m = nc.measure_features({"a": features, "b": 2 * features}, labels, num_classes=4)
    figure, axes = m.plot("kgon")
    assert len(axes) == 2
    assert figure.axes[0].get_title().startswith("0  a")
    m.save(tmp_path / "m.safetensors")
    again = nc.Measurement.load(tmp_path / "m.safetensors")
    a, b = (add_kgon(None, x, 0).epochs[0] for x in (m, again))
    assert np.array_equal(a.points, b.points)
    with pytest.raises(KeyError, match="No layer"):
        m.plot("kgon", layer="c", ax=axes[0])
