"""The loss-based learning rate: its rule, past underflow, the smoothed margin of a homogeneous network, the best margin."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from ncollapse.data import LabeledData
from ncollapse.margins import normalized_margins
from ncollapse.train import LossBasedRate, train_by_loss


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bias_free(seed, *widths):
    """A homogeneous network in float64: linear layers, ReLU between them if there are hidden units."""
    layers = [nn.Linear(before, after, bias=False).double() for before, after in pairwise(widths)]
    for number, layer in enumerate(layers):
        layer.weight.data = normal(seed + number, *layer.weight.shape) / math.sqrt(layer.in_features)
    return layers


def network_margins(model, data):
    norm = float(nn.utils.parameters_to_vector(model.parameters()).detach().norm())
    return normalized_margins(model(data.inputs).detach(), data.labels, norm, order=2)


def mixture():
    labels = torch.arange(4).repeat(10)
    return LabeledData(normal(1, 40, 5) + 2 * normal(2, 4, 5)[labels], labels, 4, "mixture")


def test_the_rate_is_that_of_the_loss():
    rate = LossBasedRate(alpha=0.1, num_classes=4)
    assert rate.learning_rate(math.log(1e-3)) == pytest.approx(0.1 * math.log(4) / 1e-3, rel=1e-12)
    assert rate.learning_rate(-800.0) == math.inf
    assert rate.after(True).alpha == pytest.approx(0.1 * 2**0.2, rel=1e-15)
    assert rate.after(False).alpha == pytest.approx(0.1 / 2**0.1, rel=1e-15)
    fixed = LossBasedRate(alpha=0.1, num_classes=4, adapt=False)
    assert fixed.after(True) == fixed.after(False) == fixed


def test_a_step_is_one_of_gradient_descent_at_that_rate():
    first, last = bias_free(0, 5, 8, 4)
    model, data = nn.Sequential(first, nn.ReLU(), last), mixture()
    loss = nn.functional.cross_entropy(model(data.inputs), data.labels)
    gradient = torch.autograd.grad(loss, last.weight)[0]
    rate = LossBasedRate(0.05, 4).learning_rate(float(loss.detach().log()))
    expected = last.weight.detach() - rate * gradient
    (record,) = train_by_loss(model, data, epochs=1, alpha=0.05)
    assert torch.allclose(last.weight, expected, rtol=1e-12)
    assert record.log_loss == pytest.approx(float(nn.functional.cross_entropy(model(data.inputs), data.labels).detach().log()))
    assert (record.epoch, record.alpha, record.kept) == (1, 0.05, True)


def test_an_epoch_that_does_not_help_is_undone():
    first, last = bias_free(0, 5, 8, 4)
    model, data = nn.Sequential(first, nn.ReLU(), last), mixture()
    before = first.weight.detach().clone()
    records = list(train_by_loss(model, data, epochs=2, alpha=1e3))
    assert [record.kept for record in records] == [False, False]
    assert torch.equal(first.weight, before)
    assert records[1].alpha == pytest.approx(1e3 / 2**0.1)


def free_features():
    data = LabeledData(torch.eye(12, dtype=torch.float64), torch.arange(3).repeat_interleave(4), 3, "free features")
    first, last = bias_free(0, 12, 5, 3)
    for layer in (first, last):
        layer.weight.data *= math.sqrt(layer.in_features)
    return nn.Sequential(first, last), data


def test_the_adapted_rate_goes_past_the_smallest_number():
    *_, record = train_by_loss(*free_features(), epochs=300)
    assert -math.inf < record.log_loss < -1000


def test_the_smoothed_margin_of_a_homogeneous_network_never_falls():
    """From a summed loss of log 2 on, with steps short enough to follow the flow."""
    first, last = bias_free(3, 5, 30, 4)
    model, data = nn.Sequential(first, nn.ReLU(), last), mixture()
    below = math.log(math.log(2) / 40)
    assert any(record.log_loss < below for record in train_by_loss(model, data, epochs=2000, alpha=5e-3, adapt=False))
    curve = [network_margins(model, data)]
    slowly = train_by_loss(model, data, epochs=800, alpha=1e-4 / math.log(4), adapt=False)
    curve += [network_margins(model, data) for _ in slowly]
    smoothed = [point.smoothed for point in curve]
    assert all(after >= before - 1e-9 for before, after in pairwise(smoothed))
    assert smoothed[-1] > smoothed[0] + 1e-3
    assert all(point.smoothed <= point.exact for point in curve)


def test_free_features_reach_the_best_margin():
    """Weight times free features is a linear network on one-hot inputs: its largest margin is 1/(2(K-1)√n) = 0.125."""
    model, data = free_features()
    # A rate for the norm at the start, and one for that at the end.
    for epochs, alpha in ((600, 0.015), (3000, 2e-3)):
        *_, last_record = train_by_loss(model, data, epochs=epochs, alpha=alpha, adapt=False)
        assert last_record.kept
    exact, smoothed = network_margins(model, data)
    assert 0.95 * 0.125 < exact < 0.125
    assert exact - math.log(36) / 500 < smoothed <= exact


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LossBasedRate(0.0, 3), r"a positive alpha and two or more classes, got 0\.0 and 3\."),
        (lambda: LossBasedRate(0.1, 1), r"two or more classes, got 0\.1 and 1\."),
        (lambda: train_by_loss(nn.Linear(5, 4), mixture(), epochs=0), r"one epoch and one sample or more, got 0 and 40\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
