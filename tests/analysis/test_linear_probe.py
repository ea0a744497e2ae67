"""Probes against scikit-learn's ridge regression and NumPy's least squares."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from ncollapse.analysis import least_squares_probe, squared_error
from ncollapse.statistics import CrossMoments


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(0, 40, 5) @ normal(1, 5, 5) + 7, normal(2, 40, 3)
ASKED, ANSWERS = normal(3, 11, 5) + 7, normal(4, 11, 3)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 2.0])
def test_equals_ridge_regression(ridge):
    moments = CrossMoments.from_batch(X, Y)
    alpha = ridge * float(moments.xx.trace()) / 5
    model = (Ridge(alpha, solver="cholesky") if ridge else LinearRegression()).fit(X.numpy(), Y.numpy())
    probe = least_squares_probe(moments, ridge=ridge)
    assert probe.weight.numpy() == pytest.approx(model.coef_, rel=1e-9, abs=1e-10)
    assert probe.bias.numpy() == pytest.approx(model.intercept_, rel=1e-9, abs=1e-10)
    for x, y in ((X, Y), (ASKED, ANSWERS)):
        expected = ((model.predict(x.numpy()) - y.numpy()) ** 2).sum(axis=1).mean()
        assert float(squared_error(CrossMoments.from_batch(x, y), probe)) == pytest.approx(expected, rel=1e-9)


def test_without_ridge_the_smallest_solution_of_a_singular_problem():
    x = torch.cat([X, X[:, :2], torch.zeros(40, 1)], dim=1)
    probe = least_squares_probe(CrossMoments.from_batch(x, Y))
    centered, targets = x.numpy() - x.numpy().mean(axis=0), Y.numpy() - Y.numpy().mean(axis=0)
    expected = np.linalg.lstsq(centered, targets, rcond=1e-10)[0]
    assert probe.weight.T.numpy() == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_a_linear_target_is_found():
    weight, bias = normal(5, 3, 5), normal(6, 3)
    moments = CrossMoments.from_batch(X, X @ weight.T + bias)
    probe = least_squares_probe(moments)
    assert torch.allclose(probe.weight, weight, atol=1e-9)
    assert torch.allclose(probe.bias, bias, atol=1e-8)
    assert float(squared_error(moments, probe)) == pytest.approx(0, abs=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="got 0 samples and ridge=0"):
        least_squares_probe(CrossMoments.empty(2, 1))
    with pytest.raises(ValueError, match="ridge=-1"):
        least_squares_probe(CrossMoments.from_batch(X, Y), ridge=-1)
