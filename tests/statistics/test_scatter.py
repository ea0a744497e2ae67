"""Class scatter against explicit covariances in the oracle."""

import numpy as np
import pytest
import torch

import reference
from cases import CASES, tensors_of
from ncollapse.statistics import ClassMoments, ClassScatter

NAMES = ["balanced", "imbalanced", "one_sample_class", "far_mean_tiny_std", "float32", "bfloat16", "several_blocks", "spatial"]


def scatter_and_oracle(name):
    case = CASES[name]
    scatter = ClassScatter.from_batch(case.features, case.labels, case.num_classes)
    return scatter, (reference.rows_of(case.features), case.labels.numpy(), case.num_classes), case.rtol


def assert_matrix(value, expected, rtol):
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.numpy(), expected, rtol=rtol, atol=rtol * 1e-2 * abs(expected).max())


@pytest.mark.parametrize("name", NAMES)
def test_scatters_equal_the_oracle(name):
    scatter, data, rtol = scatter_and_oracle(name)
    assert_matrix(scatter.scatters, reference.scatters(*data), rtol)
    traces = torch.einsum("kii->k", scatter.scatters)
    assert torch.allclose(traces, scatter.moments.scatter_traces, rtol=1e-12, atol=0)
    moments = ClassMoments.from_batch(CASES[name].features, CASES[name].labels, CASES[name].num_classes)
    assert torch.equal(scatter.moments.means, moments.means)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("name", NAMES)
def test_covariances_equal_the_oracle(name, weights):
    scatter, data, rtol = scatter_and_oracle(name)
    assert_matrix(scatter.within_covariance(weights), reference.within_covariance(*data, weights), rtol)
    assert_matrix(scatter.total_covariance(weights), reference.total_covariance(*data, weights), rtol)


@pytest.mark.parametrize("convention", reference.CONVENTIONS)
@pytest.mark.parametrize("name", ["balanced", "imbalanced", "one_sample_class"])
def test_between_covariance_of_every_convention(name, convention):
    scatter, data, rtol = scatter_and_oracle(name)
    _, between, center = reference.CONVENTIONS[convention]
    assert_matrix(scatter.between_covariance(convention), reference.between_covariance(*data, between, center), rtol)


def test_defaults_weigh_every_class_alike():
    scatter, data, rtol = scatter_and_oracle("imbalanced")
    assert_matrix(scatter.within_covariance(), reference.within_covariance(*data, "class"), rtol)
    assert_matrix(scatter.between_covariance(), reference.between_covariance(*data, "class"), rtol)
    assert_matrix(scatter.total_covariance(), reference.total_covariance(*data, "class"), rtol)


def test_labels_are_checked():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2 at position 1"):
        ClassScatter.from_batch(torch.zeros(2, 3), torch.tensor([0, 2]), 2)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3, 1), (1, 4)])
def test_scatters_of_other_shapes_do_not_merge(shape):
    text = rf"must have the same \(K, d\), got \(3, 4\) and \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ValueError, match=text):
        ClassScatter.empty(3, 4).merge(ClassScatter.empty(*shape))


def test_moving_keeps_the_values():
    scatter, _, _ = scatter_and_oracle("imbalanced")
    moved = tensors_of(scatter.to("cpu"))
    assert all(torch.equal(tensor, moved[name]) for name, tensor in tensors_of(scatter).items())
    assert {tensor.device.type for tensor in tensors_of(scatter.to("meta")).values()} == {"meta"}
