"""Batches reduced to residuals on the span of the class means."""

import pytest
import torch

from ncollapse.statistics import ClassCenters, ClassMoments
from ncollapse.statistics.projected import Projected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [3, 9])
def test_residuals_and_their_squared_lengths_off_the_span_too(dtype, dim):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, dim, generator=generator, dtype=dtype) + 1, torch.arange(40) % 5
    centers = ClassCenters.from_moments(ClassMoments.from_batch(features, labels, 5))
    steps = features.double() - centers.moments.means[labels]
    found = Projected.from_batch(features, labels, centers, None, squares=True)
    assert torch.allclose(found.squares, steps.square().sum(dim=1), rtol=1e-12)
    assert torch.allclose(found.residual, steps @ centers.basis, rtol=1e-12, atol=1e-13)
    assert Projected.from_batch(features, labels, centers, None).squares is None
