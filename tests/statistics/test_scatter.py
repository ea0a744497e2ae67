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


@pytest.mark.parametrize("name", NAMES)
def test_batches_merged_in_place_equal_the_oracle(name):
    scatter, data, rtol = scatter_and_oracle(name)
    case, running = CASES[name], ClassScatter.empty(scatter.moments.num_classes, scatter.moments.dim)
    for features, labels in zip(case.features.split(7), case.labels.split(7), strict=True):
        running = running.add_(features, labels)
    assert_matrix(running.scatters, reference.scatters(*data), rtol)
    assert torch.equal(running.moments.counts, scatter.moments.counts)


def test_a_batch_touches_the_matrices_of_its_own_classes_alone():
    running = ClassScatter.empty(4, 2).add_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1]))
    running.scatters[0] = torch.nan  # any arithmetic with it would leave its version changed
    version = running.scatters._version
    running.add_(torch.tensor([[5.0, 2.0]]), torch.tensor([2]))
    assert running.scatters._version == version + 2


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
