"""GeoMNIST: shapes, areas, determinism, balance, corruption."""

import math

import pytest
import torch

from ncollapse.data import DataConfig, geo_mnist, load_samples


def test_shapes_and_balance() -> None:
    data = geo_mnist(per_class=20)
    assert (data.inputs.shape, data.sample_shape) == ((60, 1024), (1, 32, 32))
    assert data.labels.bincount().tolist() == [20] * 3
    assert float(data.inputs.min()) >= 0
    assert float(data.inputs.max()) <= 1
    # In random order.
    assert data.labels.tolist() != sorted(data.labels.tolist())


def test_areas_are_those_of_the_shapes() -> None:
    """Turning and blurring keep the area, up to the corners that leave the frame."""
    data = geo_mnist(per_class=1)
    areas = {int(label): float(image.sum()) for image, label in zip(data.inputs, data.labels, strict=True)}
    # One image has jitter -1 and angle 0: semi-axes 5 and 10, 9 by 17 pixels, a triangle of base 20 and height 8 + 8√3.
    assert areas[0] == pytest.approx(math.pi * 50, rel=0.03)
    assert areas[1] == pytest.approx(9 * 17, rel=0.01)
    assert areas[2] == pytest.approx(10 * (8 + 8 * math.sqrt(3)), rel=0.06)


def test_the_seed_decides_all() -> None:
    assert geo_mnist(10, seed=1).inputs.equal(geo_mnist(10, seed=1).inputs)
    assert not geo_mnist(10, seed=1).inputs.equal(geo_mnist(10, seed=2).inputs)
    assert not geo_mnist(10).inputs.equal(geo_mnist(10, split="test").inputs)


def test_in_recipes_with_corrupted_labels() -> None:
    clean = load_samples(DataConfig("geo_mnist", per_class=100))
    noisy = load_samples(DataConfig("geo_mnist", per_class=100, corrupt=0.6))
    changed = float((clean.labels != noisy.labels).double().mean())
    # A drawn class is the true one in a third of the cases; three standard deviations of 300 draws.
    assert changed == pytest.approx(0.4, abs=3 * math.sqrt(0.24 / 300))
    assert torch.equal(clean.inputs, noisy.inputs)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"geo_mnist needs per_class of 1 or more, got 0\."):
        geo_mnist(0)
