"""Tight frames with thresholds: the Parseval step, Fisher ratios against Gaussian moments, signs that only abs separates."""

import math

import pytest
import torch

from ncollapse.metrics import fisher_ratios
from ncollapse.models import TightFrameBlock, parseval_step
from ncollapse.probe import measure_features
from ncollapse.statistics import ClassScatter


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_parseval_steps_end_in_a_tight_frame():
    frame = normal(0, 64, 32)
    frame = math.sqrt(0.5) * torch.nn.functional.normalize(frame, dim=1)
    errors = []
    for _ in range(3):
        for _ in range(400):
            frame = parseval_step(frame, rate=0.05)
        errors.append(float(torch.linalg.norm(frame.T @ frame - torch.eye(32))))
    assert errors[-1] < 1e-12 < errors[0]
    assert torch.linalg.vector_norm(frame, dim=1).tolist() == pytest.approx([math.sqrt(0.5)] * 64, rel=1e-12)
    one = parseval_step(frame + 0.01, rate=0.1)
    expected = 1.1 * (frame + 0.01) - 0.1 * (frame + 0.01) @ (frame + 0.01).T @ (frame + 0.01)
    assert torch.allclose(one, expected * math.sqrt(0.5) / torch.linalg.vector_norm(expected, dim=1, keepdim=True), rtol=1e-12)


SIZE, POSITIVE = 256, 14


def sparse_mixture(per_class, symmetric=False, seed=0):
    """Five classes, means ±5 on four coordinates of their own, 14 of 20 signs positive, in a random orthonormal basis."""
    means = torch.zeros(5, SIZE, dtype=torch.float64)
    for spot in range(20):
        means[spot // 4, spot] = 5 if spot % 10 < 7 else -5
    assert int((means > 0).sum()) == POSITIVE
    basis = torch.linalg.qr(normal(7, SIZE, SIZE)).Q
    labels = torch.arange(5).repeat_interleave(per_class)
    signs = normal(seed + 1, len(labels), 1).sign() if symmetric else 1.0
    return (signs * means[labels] + normal(seed, len(labels), SIZE)) @ basis, labels, basis


def moments(rule, mean):
    """Mean and variance of a rule of N(mean, 1), by quadrature."""
    grid = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    values = rule(grid + mean)
    first = float((density * values).sum())
    return first, float((density * values.square()).sum()) - first**2


RULES = {
    "softshrink": lambda level: lambda u: u.sign() * (u.abs() - level).clamp(min=0),
    "relu": lambda level: lambda u: (u - level).clamp(min=0),
}


@pytest.mark.parametrize(
    ("activation", "level", "printed"),
    [("softshrink", 0.0, 3.20), ("softshrink", 1.0, 0.83), ("softshrink", 1.5, 0.40), ("relu", 1.0, 0.59), ("relu", 1.5, 0.31)],
)
def test_fisher_ratios(activation, level, printed):
    """tr Σ_W / tr Σ_B of a sparse mixture against Gaussian moments and the printed values."""
    inputs, labels, basis = sparse_mixture(per_class=1000)
    features = TightFrameBlock(basis, activation, level)(inputs).detach()
    found = measure_features(features, labels, num_classes=5, metrics=["pfc1", "nc1"])
    idle, plus, minus = (moments(RULES[activation](level), mean) for mean in (0.0, 5.0, -5.0))
    active = [plus] * POSITIVE + [minus] * (20 - POSITIVE)
    within = (SIZE - 20) * idle[1] + sum(0.2 * variance + 0.8 * idle[1] for _, variance in active)
    between = sum(0.16 * (mean - idle[0]) ** 2 for mean, _ in active)
    # Means of 1,000 samples: tr Σ_B is larger by about 4/5,000 of tr Σ_W.
    assert found.value("pfc1") == pytest.approx(within / (between + 0.0008 * within), rel=0.02)
    assert found.value("pfc1") == pytest.approx(printed, rel=0.04)
    after = fisher_ratios(ClassScatter.from_batch(features, labels, 5))
    assert after.within_over_between == pytest.approx(found.value("pfc1"), rel=1e-12)
    if level:
        before = measure_features(inputs, labels, num_classes=5, metrics=["pfc1", "nc1"])
        assert after.discriminant > fisher_ratios(ClassScatter.from_batch(inputs, labels, 5)).discriminant
        assert found.value("nc1") < before.value("nc1")


def test_only_absolute_values_separate_signs():
    """Classes ±μ_k have one mean, zero: nearest-center accuracy on other samples."""
    (inputs, labels, basis), (others, other_labels, _) = (sparse_mixture(200, symmetric=True, seed=seed) for seed in (0, 10))
    accuracies = []
    for change in (None, TightFrameBlock(basis, "abs"), TightFrameBlock(basis, "softshrink", 1.5)):
        train, test = (part if change is None else change(part).detach() for part in (inputs, others))
        centers = torch.stack([train[labels == k].mean(dim=0) for k in range(5)])
        accuracies.append(float((torch.cdist(test, centers).argmin(dim=1) == other_labels).double().mean()))
    assert accuracies[0] < 0.6
    assert accuracies[1] == 1.0
    assert accuracies[2] < 0.6


@pytest.mark.parametrize(("activation", "factor"), [("relu", 1.0), ("softshrink", 1.5), ("abs", 0.0)])
def test_default_thresholds(activation, factor):
    assert TightFrameBlock(torch.eye(16), activation).threshold == factor / 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.zeros(3, 4), "relu"), r"a frame of shape \(M, d\) with M >= d, got \(3, 4\)\."),
        ((torch.eye(4), "tanh"), r"activation must be one of relu, softshrink, abs, got 'tanh'\."),
        ((torch.eye(4), "relu", -1.0), r"threshold must be 0 or more, got -1\.0\."),
    ],
)
def test_errors_name_the_condition(arguments, words):
    with pytest.raises(ValueError, match=words):
        TightFrameBlock(*arguments)
