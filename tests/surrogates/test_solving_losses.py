"""The losses of the surrogate models: plain formulas, Fenchel's equality, and digits of tiny losses."""

import math

import pytest
import torch

from ncollapse.surrogates.solving.losses import loss_conjugate, loss_gradient, loss_value

LABELS = torch.tensor([0, 1, 2, 0])
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def logits(scale):
    return scale * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.1, 3.0, 500.0])
@pytest.mark.parametrize("name", ["mse", "cross_entropy"])
def test_gradient_and_conjugate(name, scale):
    point, slack = logits(scale), 1e-14 * max(1.0, scale)
    leaf = point.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_value(name, leaf, LABELS, SHARES), leaf)
    gradient, value = loss_gradient(name, point, LABELS, SHARES), float(loss_value(name, point, LABELS, SHARES))
    assert torch.allclose(gradient, expected, atol=slack)
    product = float((gradient * point).sum())
    assert float(loss_conjugate(name, gradient, LABELS, SHARES)) == pytest.approx(product - value, rel=1e-12, abs=slack)
    if name == "cross_entropy":
        plain = torch.nn.functional.cross_entropy(point, LABELS, reduction="none")
        assert value == pytest.approx(float(SHARES @ plain), rel=1e-12)


def test_no_digit_of_a_tiny_cross_entropy_is_lost():
    point = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    label, share, wrong = torch.tensor([0]), torch.ones(1, dtype=torch.float64), math.exp(-40)
    assert float(loss_value("cross_entropy", point, label, share)) == pytest.approx(math.log1p(2 * wrong), rel=1e-14)
    gradient = loss_gradient("cross_entropy", point, label, share)
    odds = wrong / (1 + 2 * wrong)
    assert gradient.flatten().tolist() == pytest.approx([-2 * odds, odds, odds], rel=1e-14)
    entropy = 2 * odds * math.log(odds) + (1 - 2 * odds) * math.log1p(-2 * odds)
    assert float(loss_conjugate("cross_entropy", gradient, label, share)) == pytest.approx(entropy, rel=1e-14)


def test_the_conjugate_is_infinite_outside_of_the_probabilities():
    label, share = torch.tensor([0]), torch.ones(1, dtype=torch.float64)
    for wrong in ([-0.1, 0.2, -0.1], [-1e-12, 2e-12, -1e-12], [-1.1, 0.5, 0.6]):
        gradient = torch.tensor([wrong], dtype=torch.float64)
        assert float(loss_conjugate("cross_entropy", gradient, label, share)) == math.inf
