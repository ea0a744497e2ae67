"""NRC1 to NRC4 against plain NumPy, and at exact regression collapse."""

import math

import numpy as np
import pytest
import torch

from ncollapse import analysis
from ncollapse.statistics import CrossMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y, W = normal(0, 50, 7) @ normal(1, 7, 7) + 4, normal(2, 50, 2), normal(3, 5, 7)
MOMENTS = CrossMoments.from_batch(X, Y)


def test_each_equals_its_definition():
    x, y = X.numpy() - X.numpy().mean(axis=0), Y.numpy() - Y.numpy().mean(axis=0)
    _, s, directions = np.linalg.svd(x, full_matrices=False)
    assert float(analysis.regression_noise(MOMENTS)) == pytest.approx(1 - (s[:2] ** 2).sum() / (s**2).sum(), rel=1e-11)
    gram, targets = x @ x.T, y @ y.T
    cka = (gram * targets).sum() / (np.linalg.norm(gram) * np.linalg.norm(targets))
    assert float(analysis.regression_alignment(MOMENTS)) == pytest.approx(cka, rel=1e-11)
    read = np.linalg.svd(W.numpy())[2][:2]
    cosines = np.linalg.svd(read @ directions[:2].T, compute_uv=False)
    assert float(analysis.regression_duality(MOMENTS, W)) == pytest.approx(cosines.mean(), rel=1e-9)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    assert float(analysis.regression_error(MOMENTS)) == pytest.approx((residual**2).mean(), rel=1e-10)


def test_at_collapse():
    frame = torch.linalg.qr(normal(4, 7, 2)).Q
    collapsed = 3 * Y @ frame.T + 10
    moments = CrossMoments.from_batch(collapsed, Y)
    assert float(analysis.regression_noise(moments)) == pytest.approx(0, abs=1e-14)
    assert float(analysis.regression_alignment(moments)) == pytest.approx(1, rel=1e-12)
    assert float(analysis.regression_duality(moments, normal(5, 2, 2) @ frame.T)) == pytest.approx(1, rel=1e-12)
    assert float(analysis.regression_error(moments)) == pytest.approx(0, abs=1e-14)


def test_the_other_end():
    # A layer that reads what the features do not have, isotropic features, and targets that they know nothing of.
    plane = torch.zeros(60, 7).double()
    plane[:, :2] = normal(6, 60, 2)
    away = torch.eye(7).double()[2:4]
    assert float(analysis.regression_duality(CrossMoments.from_batch(plane, Y.repeat(2, 1)[:60]), away)) == 0
    sphere = torch.cat([torch.eye(7), -torch.eye(7)]).double()
    moments = CrossMoments.from_batch(sphere, torch.cat([torch.eye(7)[:, :2], torch.eye(7)[:, :2]]))
    assert float(analysis.regression_noise(moments)) == pytest.approx(5 / 7, rel=1e-13)
    assert float(analysis.regression_alignment(moments)) == pytest.approx(0, abs=1e-14)
    assert float(analysis.regression_error(moments)) == pytest.approx(float(moments.yy.trace()) / 28, rel=1e-12)
    assert float(analysis.regression_noise(moments, rank=9)) == 0
    assert math.isnan(float(analysis.regression_noise(CrossMoments.from_batch(torch.ones(3, 2), torch.ones(3, 1)))))


def test_refusals():
    with pytest.raises(ValueError, match=r"weight \(out, 7\) of at least 2 directions, got \(5, 6\)"):
        analysis.regression_duality(MOMENTS, W[:, :6])
    with pytest.raises(ValueError, match="at least 9 directions"):
        analysis.regression_duality(MOMENTS, W, rank=9)
