"""Drift of class means, of their shape and of their nearest simplex ETF against SciPy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes, polar

from ncollapse.depth import frame_drift, mean_drift, shape_drift
from ncollapse.etf import simplex_etf
from ncollapse.statistics import ClassMoments

K, D = 4, 6


def means(seed, num_classes=K, dim=D):
    return torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(rows):
    return ClassMoments.from_batch(rows, torch.arange(len(rows)), len(rows))


def rotation(seed, dim=D):
    return torch.linalg.qr(means(seed, dim, dim)).Q


def unit(rows):
    centered = rows.numpy() - rows.numpy().mean(axis=0)
    return centered / np.linalg.norm(centered)


def drifts(a, b):
    return [drift(moments(a), moments(b)) for drift in (mean_drift, shape_drift, frame_drift)]


@pytest.mark.parametrize("seed", range(3))
def test_drifts_against_scipy(seed):
    a, b = means(seed), means(seed + 10) + means(seed)
    turn, _ = orthogonal_procrustes(unit(b), unit(a))
    frames = []
    for rows in (a, b):
        # The polar factor on the span of the means, in K-1 coordinates of the classes; its rows have unit length.
        etf = simplex_etf(K, K - 1).numpy()
        frames.append(etf @ polar(etf.T @ unit(rows))[0])
    expected = [
        np.linalg.norm(unit(b) - unit(a)),
        np.linalg.norm(unit(b) @ turn - unit(a)),
        np.linalg.norm(frames[1] - frames[0]) / math.sqrt(K),
    ]
    assert drifts(a, b) == pytest.approx(expected, rel=1e-10)
    assert expected[1] < expected[0]


def test_equal_means_have_no_drift_wherever_they_are_and_however_large():
    a = means(0)
    assert drifts(a, a) == pytest.approx([0, 0, 0], abs=1e-14)
    assert drifts(a, 1e3 * a + 7) == pytest.approx([0, 0, 0], abs=1e-12)


def test_a_rotation_changes_means_and_frame_but_not_the_shape():
    a = means(0)
    moved, shape, frame = drifts(a, a @ rotation(1))
    assert shape == pytest.approx(0, abs=1e-13)
    assert min(moved, frame) > 0.5
    assert drifts(a, -a) == pytest.approx([2, 0, 2], abs=1e-13)
    etf, other = simplex_etf(K, D), simplex_etf(K, D) @ rotation(2)
    assert drifts(etf, other)[0] == pytest.approx(drifts(etf, other)[2], rel=1e-12)


def test_orthogonal_frames_are_at_the_root_of_two():
    a = torch.nn.functional.pad(simplex_etf(K, K - 1), (0, K - 1))
    assert drifts(a, a.roll(K - 1, dims=1)) == pytest.approx([math.sqrt(2), 0, math.sqrt(2)], abs=1e-13)


def test_shapes_of_other_dimensions_are_compared_and_positions_are_not():
    a = means(0)
    wide = torch.nn.functional.pad(a, (0, 3)) @ rotation(3, D + 3)
    moved, shape, frame = drifts(a, wide)
    assert shape == pytest.approx(0, abs=1e-13)
    assert math.isnan(moved)
    assert math.isnan(frame)


def test_what_is_undefined_is_nan():
    a, flat = means(0), means(1)
    flat[:, 2:] = 0  # spans 2 of K-1 = 3 dimensions: the frame is not unique
    moved, shape, frame = drifts(a, flat)
    assert math.isfinite(moved)
    assert math.isfinite(shape)
    assert math.isnan(frame)
    assert all(math.isnan(x) for x in drifts(a, torch.ones(K, D, dtype=torch.float64)))
    assert math.isnan(drifts(means(0, K, 2), means(1, K, 2))[2])
    empty = ClassMoments.from_batch(a[:3], torch.arange(3), K)
    assert all(math.isnan(drift(moments(a), empty)) for drift in (mean_drift, shape_drift, frame_drift))


@pytest.mark.parametrize("dims", [(3, 9), (9, 3), (2, 5), (12, 12)])
def test_shapes_of_two_dimensions_equal_the_sum_of_singular_values(dims):
    a, b = (means(seed, 8, dim) for seed, dim in enumerate(dims))
    values = np.linalg.svd(unit(b).T @ unit(a), compute_uv=False)
    assert shape_drift(moments(a), moments(b)) == pytest.approx(math.sqrt(2 - 2 * values.sum()), rel=1e-10)
    assert shape_drift(moments(b), moments(a)) == pytest.approx(shape_drift(moments(a), moments(b)), rel=1e-10)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 90.0, 180.0])
def test_the_frame_of_two_classes_turns_with_the_line_between_them(degrees):
    turn = math.radians(degrees)
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    b = 3 * a @ torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    assert drifts(a, b) == pytest.approx([2 * math.sin(turn / 2), 0, 2 * math.sin(turn / 2)], abs=1e-14)


def test_as_many_dimensions_as_a_frame_has_are_enough():
    a, b = means(0, K, K - 1), means(1, K, K - 1)
    assert math.isfinite(drifts(a, b)[2])
    assert math.isnan(frame_drift(moments(means(0, 1)), moments(means(1, 1))))


@pytest.mark.parametrize(("sizes", "known"), [
    ((1.0, 1.0, 1.2e-8), True), ((1.0, 0.01, 1.2e-8), True), ((1.0, 1.0, 0.8e-8), False), ((1.0, 0.01, 0.8e-8), False),
])  # fmt: skip
def test_a_frame_is_known_from_a_hundred_millionth_of_the_largest_extent_on(sizes, known):
    a = simplex_etf(K, K - 1) * torch.tensor(sizes, dtype=torch.float64)
    assert math.isfinite(frame_drift(moments(a), moments(simplex_etf(K, K - 1)))) is known
