"""Cross moments against NumPy's centered products, far from the origin and in blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cases import tensors_of
from ncollapse.statistics import ClassScatter, CrossMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_products_equal_those_of_centered_rows(offset):
    x, y = normal(0, 700, 6) + offset, normal(1, 700, 2) - offset
    moments = CrossMoments.from_batch(x, y)
    X, Y = x.numpy() - x.numpy().mean(axis=0), y.numpy() - y.numpy().mean(axis=0)
    for value, expected in ((moments.xx, X.T @ X), (moments.xy, X.T @ Y), (moments.yy, Y.T @ Y)):
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-9 * abs(expected).max())
    assert moments.mean_x.numpy() == pytest.approx(x.numpy().mean(axis=0), rel=1e-14, abs=1e-14)
    assert moments.num_samples == 700


def test_a_long_block_is_cut():
    x, y = normal(0, 900, 400).float(), normal(1, 900, 3).float()
    moments, X = CrossMoments.from_batch(x, y), x.double().numpy()
    np.testing.assert_allclose(moments.xx.numpy(), 899 * np.cov(X.T), rtol=1e-11, atol=1e-10)
    Y = y.double().numpy()
    np.testing.assert_allclose(moments.xy.numpy(), (X - X.mean(axis=0)).T @ (Y - Y.mean(axis=0)), rtol=1e-11, atol=1e-10)


def test_one_hot_labels_split_the_scatter():
    labels = torch.arange(3).repeat_interleave(torch.tensor([9, 5, 7]))
    x = normal(2, 21, 4) + 10
    moments, scatter = CrossMoments.from_labels(x, labels, 4), ClassScatter.from_batch(x, labels, 4)
    assert moments.mean_y.tolist() == pytest.approx([9 / 21, 5 / 21, 7 / 21, 0])
    offsets = scatter.moments.counts.double().unsqueeze(1) * (scatter.moments.means - moments.mean_x)
    assert torch.allclose(moments.xy.T[:3], offsets[:3], atol=1e-12)
    assert torch.allclose(moments.xx, scatter.select(torch.arange(3)).total_covariance("sample") * 21, atol=1e-11)


def test_layers_must_have_the_same_samples_and_sizes():
    with pytest.raises(ValueError, match="one row per sample, got 3 and 2"):
        CrossMoments.from_batch(normal(0, 3, 2), normal(1, 2, 2))
    with pytest.raises(ValueError, match=r"the same \(d, m\), got \(2, 1\) and \(3, 1\)"):
        CrossMoments.empty(2, 1).merge(CrossMoments.empty(3, 1))
    with pytest.raises(ValueError, match="at least 1, got 0 and 1"):
        CrossMoments.empty(0, 1)


def test_moving_keeps_the_values():
    moments = CrossMoments.from_batch(normal(0, 30, 4), normal(1, 30, 2))
    moved = tensors_of(moments.to("cpu"))
    assert all(torch.equal(tensor, moved[name]) for name, tensor in tensors_of(moments).items())
    assert {tensor.device.type for tensor in tensors_of(moments.to("meta")).values()} == {"meta"}


def test_the_means_of_no_samples_do_not_reach_merged_ones():
    full = CrossMoments.from_batch(normal(0, 30, 4), normal(1, 30, 2))
    empty = CrossMoments.empty(4, 2)
    far = replace(empty, mean_x=empty.mean_x + 1e100, mean_y=empty.mean_y - 1e100)
    for merged in (full.merge(far), far.merge(full)):
        assert all(torch.equal(tensor, tensors_of(full)[name]) for name, tensor in tensors_of(merged).items())
