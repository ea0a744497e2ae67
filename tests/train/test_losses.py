"""Losses against plain loops."""

import math

import pytest
import torch

from ncollapse.models import FixedETFHead
from ncollapse.train import TrainConfig
from ncollapse.train.losses import LOSSES, batch_loss, cross_entropy, dot_regression, mean_squared_error

LOGITS = [[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [1.0, 1.0, -2.0], [0.3, 0.1, 0.2]]
LABELS = [0, 2, 1, 1]


def test_cross_entropy_equals_a_loop() -> None:
    terms = [math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in zip(LOGITS, LABELS, strict=True)]
    value = cross_entropy(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS))
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-12)


def test_mean_squared_error_equals_a_loop() -> None:
    terms = [sum((z - (k == y)) ** 2 for k, z in enumerate(row)) / 2 for row, y in zip(LOGITS, LABELS, strict=True)]
    logits = torch.tensor(LOGITS, dtype=torch.float64)
    value = mean_squared_error(logits, torch.tensor(LABELS))
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-12)
    targets = torch.nn.functional.one_hot(torch.tensor(LABELS)).double()
    assert torch.nn.functional.mse_loss(logits, targets).item() == pytest.approx(2 / 3 * value.item(), rel=1e-12)


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "dot_regression"])
def test_weighted_losses_average_over_classes_and_so_do_their_gradients(name: str) -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(LABELS)
    loss = batch_loss(TrainConfig(loss=name, balance="weights"), labels.bincount())
    classes = [LOSSES[name](logits[labels == k], labels[labels == k]) for k in range(3)]
    value, expected = loss(logits, labels), sum(classes) / 3
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(item, logits)[0] for item in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    # Equal classes are left alone, and over batches of any content the mean is that over classes.
    assert batch_loss(TrainConfig(loss=name, balance="weights"), torch.tensor([2, 2, 2]))(logits, labels).item() == (
        pytest.approx(LOSSES[name](logits, labels).item(), rel=1e-12)
    )
    halves = [loss(logits[rows], labels[rows]).item() for rows in ([0, 2], [1, 3])]
    assert sum(halves) / 2 == pytest.approx(expected.item(), rel=1e-12)


def test_adjusted_logits_equal_a_loop() -> None:
    shares = [1 / 8, 6 / 8, 1 / 8]
    adjusted = [[z + math.log(p) for z, p in zip(row, shares, strict=True)] for row in LOGITS]
    terms = [math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in zip(adjusted, LABELS, strict=True)]
    loss = batch_loss(TrainConfig(balance="logits"), torch.tensor([1, 6, 1]))
    assert loss(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS)).item() == pytest.approx(sum(terms) / 4)
    # The minimum for features that say nothing is the logits of equal classes.
    found = loss(torch.zeros(8, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 1, 1, 1, 1, 2]))
    assert found.item() == pytest.approx(-sum(p * math.log(p) for p in shares))
    with pytest.raises(ValueError, match=r"train.balance=logits needs train.loss=cross_entropy, got mse"):
        TrainConfig(loss="mse", balance="logits")


@pytest.mark.parametrize("num_classes", [2, 10])
def test_values_at_zero_logits(num_classes: int) -> None:
    logits, labels = torch.zeros(5, num_classes), torch.arange(5) % num_classes
    assert cross_entropy(logits, labels).item() == pytest.approx(math.log(num_classes))
    assert mean_squared_error(logits, labels).item() == 0.5


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_dot_regression_equals_a_loop(scale: float) -> None:
    terms = [(row[y] - scale) ** 2 / (2 * scale) for row, y in zip(LOGITS, LABELS, strict=True)]
    value = dot_regression(torch.tensor(LOGITS, dtype=torch.float64), torch.tensor(LABELS), scale)
    assert value.item() == pytest.approx(sum(terms) / 4, rel=1e-12)


def test_dot_regression_pulls_and_never_pushes() -> None:
    """The gradient in features of norm one is -(1 - cos) times the class's row, over B; zero where they are aligned."""
    rows = FixedETFHead(6, 3, seed=0).classifier.weight.double()
    labels = torch.tensor([0, 1, 2, 1])
    features = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double())
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(dot_regression(features @ rows.T, labels), features)
    cosines = (features * rows[labels]).sum(dim=1, keepdim=True).detach()
    assert torch.allclose(gradient, -(1 - cosines) * rows[labels] / 4, atol=1e-14)
    aligned = rows[labels].requires_grad_()
    value = dot_regression(aligned @ rows.T, labels)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, aligned)[0].abs().max() < 1e-6


def test_names() -> None:
    assert LOSSES == {"cross_entropy": cross_entropy, "mse": mean_squared_error, "dot_regression": dot_regression}
