"""Paired moments against the oracle, and the straight line between two layers that they fix."""

import pytest
import torch

import reference
from cases import CASES, tensors_of
from ncollapse.statistics import ClassMoments, PairedMoments

NAMES = ["balanced", "imbalanced", "one_sample_class", "far_mean_tiny_std", "bfloat16", "several_blocks", "spatial"]


def layers_of(case):
    """A second layer related to the first, but curved."""
    x = case.features
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)
    return x, (0.5 * x + 0.3 * x.flip(1) + noise).to(x.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_paired_moments_equal_the_oracle(name):
    case = CASES[name]
    x, y = layers_of(case)
    paired = PairedMoments.from_batch(x, y, case.labels, case.num_classes)
    X, Y, labels, K = reference.rows_of(x), reference.rows_of(y), case.labels.numpy(), case.num_classes
    expected = reference.cross_traces(X, Y, labels, K)
    assert paired.cross_traces.numpy() == pytest.approx(expected, rel=case.rtol, abs=1e-12 * abs(expected).max())
    for side, features in ((paired.first, x), (paired.last, y)):
        alone = ClassMoments.from_batch(features, case.labels, K)
        assert all(torch.equal(a, b) for a, b in zip(vars(side).values(), vars(alone).values(), strict=True))
    for weights in ("class", "sample"):
        value = sum(reference.weights(labels, K, weights) * expected / reference.counts(labels, K))
        assert float(paired.within_cross_trace(weights)) == pytest.approx(value, rel=1e-9)
    steps_x, steps_y = (means[:, None] - means for means in (reference.means(X, labels, K), reference.means(Y, labels, K)))
    for found, (a, b) in zip(paired.separations, [(steps_x, steps_x), (steps_x, steps_y), (steps_y, steps_y)], strict=True):
        assert found.numpy() == pytest.approx((a * b).sum(axis=-1), rel=case.rtol, abs=1e-9)


def test_a_layer_paired_with_itself_gives_its_scatter_traces():
    case = CASES["imbalanced"]
    paired = PairedMoments.from_batch(case.features, case.features, case.labels, 4)
    assert torch.allclose(paired.cross_traces, paired.first.scatter_traces, rtol=1e-14, atol=0)
    opposite = PairedMoments.from_batch(case.features, -case.features, case.labels, 4)
    assert torch.allclose(opposite.cross_traces, -paired.first.scatter_traces, rtol=1e-14, atol=0)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("t", [0.0, 0.25, 0.6, 1.0])
def test_within_trace_on_the_line_is_the_quadratic_of_the_three_moments(t, weights):
    case = CASES["imbalanced"]
    x, y = layers_of(case)
    paired = PairedMoments.from_batch(x, y, case.labels, 4)
    on_line = ClassMoments.from_batch((1 - t) * x + t * y, case.labels, 4).within_trace(weights)
    w0, w1, w2 = paired.first.within_trace(weights), paired.within_cross_trace(weights), paired.last.within_trace(weights)
    assert float((1 - t) ** 2 * w0 + 2 * t * (1 - t) * w1 + t**2 * w2) == pytest.approx(float(on_line), rel=1e-13)


def test_means_that_coincide_are_told_for_each_layer():
    labels = torch.tensor([0, 1, 2])
    x, y = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0]])
    first, last = PairedMoments.from_batch(x, y, labels, 3).coincident
    assert first.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert last.tolist() == [[True, False, False], [False, True, True], [False, True, True]]


def test_layers_of_different_precision_pair():
    case = CASES["imbalanced"]
    x, y = layers_of(case)
    mixed = PairedMoments.from_batch(x.float(), y.bfloat16(), case.labels, 4)
    exact = PairedMoments.from_batch(x.float().double(), y.bfloat16().double(), case.labels, 4)
    assert torch.equal(mixed.cross_traces, exact.cross_traces)


def test_moving_keeps_the_values():
    x, y = layers_of(CASES["balanced"])
    paired = PairedMoments.from_batch(x, y, CASES["balanced"].labels, 4)
    moved = tensors_of(paired.to("cpu"))
    assert all(torch.equal(tensor, moved[name]) for name, tensor in tensors_of(paired).items())
    assert {tensor.device.type for tensor in tensors_of(paired.to("meta")).values()} == {"meta"}


@pytest.mark.parametrize(("first", "last"), [((4, 3), (4, 5)), ((4, 3), (6, 3))])
def test_layers_of_other_shapes_have_no_line(first, last):
    text = (
        rf"two layers of one shape \(N, d\), got \({first[0]}, {first[1]}\) and \({last[0]}, {last[1]}\)\. "
        "Choose layers of one stage"
    )
    with pytest.raises(ValueError, match=text):
        PairedMoments.from_batch(torch.zeros(first), torch.zeros(last), torch.zeros(4, dtype=torch.int64), 2)


def test_labels_are_checked():
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2 at position 1"):
        PairedMoments.from_batch(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 2]), 2)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3, 1), (1, 4)])
def test_paired_moments_of_other_shapes_do_not_merge(shape):
    text = rf"must have the same \(K, d\), got \(3, 4\) and \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ValueError, match=text):
        PairedMoments.empty(3, 4).merge(PairedMoments.empty(*shape))
