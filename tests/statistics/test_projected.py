"""Batches reduced to residuals on the span of the class means."""

import pytest
import torch

from ncollapse.statistics import ClassCenters, ClassMoments, LinearClassifier
from ncollapse.statistics.projected import Projected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "num_classes"), [(3, 5), (9, 5), (50, 40)])
def test_residuals_and_their_squared_lengths_off_the_span_too(dtype, dim, num_classes):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(90, dim, generator=generator, dtype=dtype) + 1, torch.arange(90) % num_classes
    centers = ClassCenters.from_moments(ClassMoments.from_batch(features, labels, num_classes))
    steps = features.double() - centers.moments.means[labels]
    found = Projected.from_batch(features, labels, centers, None, squares=True)
    assert torch.allclose(found.squares, steps.square().sum(dim=1), rtol=1e-12)
    assert torch.allclose(found.residual, steps @ centers.basis, rtol=1e-12, atol=1e-13)
    plain = Projected.from_batch(features, labels, centers, None)
    assert plain.squares is None
    assert torch.allclose(plain.residual, found.residual, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [5, 40])
def test_cosines_to_the_own_row_and_choices_of_few_classes_and_of_many(dtype, num_classes, monkeypatch):
    # Tiles of 32 rows and 7 columns, neither of which divides the features.
    monkeypatch.setattr("ncollapse.statistics.batch._BLOCK_ELEMENTS_CPU", 7 * 32)
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(200, 60, generator=generator).to(dtype), torch.arange(200) % num_classes
    weight, bias = torch.randn(num_classes, 60, generator=generator), torch.randn(num_classes, generator=generator)
    classifier = LinearClassifier.from_parameters(weight, bias)
    centers = ClassCenters.from_moments(ClassMoments.from_batch(features, labels, num_classes))
    found = Projected.from_batch(features, labels, centers, classifier, choose=True)
    expected = torch.nn.functional.cosine_similarity(features.double(), weight.double()[labels])
    assert torch.allclose(found.cosines, expected, rtol=1e-12)
    assert torch.equal(found.chosen.long(), (features.double() @ weight.double().T + bias.double()).argmax(dim=1))
    assert Projected.from_batch(features, labels, centers, classifier).chosen is None
