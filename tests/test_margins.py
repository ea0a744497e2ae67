"""Margins and the logarithm of the loss against plain loops, and where the loss itself is zero."""

import math

import pytest
import torch

from ncollapse.margins import log_loss, margins, normalized_margins, smoothed_margin

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-60.0, 1.0, 40.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])


def test_against_loops():
    rows = list(zip(LOGITS.tolist(), LABELS.tolist(), strict=True))
    assert margins(LOGITS, LABELS).tolist() == [row[y] - max(z for j, z in enumerate(row) if j != y) for row, y in rows]
    loss = sum(math.log1p(sum(math.exp(z - row[y]) for j, z in enumerate(row) if j != y)) for row, y in rows)
    assert float(log_loss(LOGITS, LABELS)) == pytest.approx(math.log(loss), rel=1e-14)
    assert float(smoothed_margin(LOGITS, LABELS)) == pytest.approx(-math.log(math.expm1(loss)), rel=1e-14)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 8.0, 9.0, 20.0, 300.0, 1e6])
def test_at_any_scale(scale):
    """The summed loss of samples of margin m with one rival is N log(1 + e^-m), in its logarithm at any m."""
    logits = scale * torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    tail = math.log(math.log1p(math.exp(-scale))) if scale < 700 else -scale
    assert float(log_loss(logits, torch.tensor([0, 1]))) == pytest.approx(math.log(2) + tail, rel=1e-13)
    # (1 + e^-m)² − 1 = e^-m (2 + e^-m).
    expected = scale - math.log(2 + math.exp(-scale))
    assert float(smoothed_margin(logits, torch.tensor([0, 1]))) == pytest.approx(expected, abs=1e-13 * max(1, scale))


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 2000.0])
def test_the_gradient_is_that_of_the_loss_over_the_loss(scale):
    logits = (scale * LOGITS / 10).requires_grad_()
    (found,) = torch.autograd.grad(log_loss(logits, LABELS), logits)
    assert bool(torch.isfinite(found).all())
    # A logarithm of a sum of decreasing exponentials: weights of the samples that sum to one where all margins are large.
    if scale == 2000.0:
        assert float(found[torch.arange(3), LABELS].sum()) == pytest.approx(-1, rel=1e-12)
    else:
        plain = logits.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(plain, LABELS, reduction="sum")
        (expected,) = torch.autograd.grad(loss.log(), plain)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_normalized_margins():
    exact, smoothed = normalized_margins(LOGITS, LABELS, norm=3.0, order=2)
    assert exact == pytest.approx(1.5 / 9, rel=1e-15)
    assert exact - math.log(3 * 3) / 9 <= smoothed <= exact
    # Parameters of a network of order 2 scaled by 10: the same exact margin, the smoothed one comes near it.
    scaled = normalized_margins(100 * LOGITS, LABELS, norm=30.0, order=2)
    assert scaled.exact == pytest.approx(exact, rel=1e-14)
    assert exact - scaled.smoothed < (exact - smoothed) / 50


def test_a_wrong_sample_has_a_negative_margin():
    assert float(margins(LOGITS, torch.tensor([1, 1, 2])).min()) == -3
    assert float(smoothed_margin(torch.tensor([[800.0, 0.0]]).double(), torch.tensor([1]))) == pytest.approx(-800, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: margins(LOGITS[:, :1], LABELS), r"logits of shape \(N, K\), K >= 2, and N labels, got \(3, 1\) and \(3,\)\."),
        (lambda: log_loss(LOGITS, LABELS[:2]), r"got \(3, 3\) and \(2,\)\."),
        (lambda: normalized_margins(LOGITS, LABELS, 0.0, 2), r"needs a positive norm and order, got 0\.0 and 2\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
