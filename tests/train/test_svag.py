"""Amplified gradients: weights, mean and covariance, the stationary variance, curves of a small network."""

import math

import pytest
import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.train import SVAG, ou_variance
from ncollapse.train.losses import cross_entropy


@pytest.mark.parametrize("splits", [1, 2, 3.5, 8])
def test_weights_keep_the_mean_and_amplify_the_covariance(splits):
    first, second = SVAG(splits).weights
    assert first + second == pytest.approx(1, rel=1e-14)
    assert first**2 + second**2 == pytest.approx(splits, rel=1e-14)
    assert SVAG(splits).learning_rate(0.3) == 0.3 / splits
    assert SVAG(splits).num_steps(10) == round(10 * splits)


def test_gradients_over_all_pairs_of_batches():
    """Exactly: every ordered pair of five batches is as likely."""
    generator = torch.Generator().manual_seed(0)
    batches, labels = torch.randn(5, 4, 3, generator=generator).double(), torch.randint(3, (5, 4), generator=generator)
    weight = torch.randn(3, 3, generator=generator).double().requires_grad_()

    def loss(inputs, labels):
        return cross_entropy(inputs @ weight.T, labels)

    def gradient(value):
        return torch.autograd.grad(value, weight)[0].flatten()

    plain = torch.stack([gradient(loss(batches[i], labels[i])) for i in range(5)])
    svag = SVAG(3)
    pairs = torch.stack(
        [
            gradient(svag.loss(loss, torch.cat([batches[i], batches[j]]), torch.cat([labels[i], labels[j]])))
            for i in range(5)
            for j in range(5)
        ]
    )
    assert torch.allclose(pairs.mean(dim=0), plain.mean(dim=0), atol=1e-14)
    assert torch.allclose(torch.cov(pairs.T, correction=0), 3 * torch.cov(plain.T, correction=0), atol=1e-14)


@pytest.mark.parametrize(("splits", "printed"), [(1, 0.17647), (2, 0.16216), (4, 0.15584), (1e9, 0.15)])
def test_stationary_variance(splits, printed):
    assert ou_variance(0.3, 1.0, splits) == pytest.approx(printed, abs=5e-6)
    assert ou_variance(0.3, 2.0, splits) == pytest.approx(4 * printed, abs=2e-5)


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_simulated_variance(splits):
    """40,000 chains on ½x² long enough to forget their start."""
    svag, generator = SVAG(splits), torch.Generator().manual_seed(1)
    (first, second), rate = svag.weights, svag.learning_rate(0.3)
    state = torch.zeros(40_000, dtype=torch.float64)
    for _ in range(svag.num_steps(40)):
        noise = torch.randn(2, len(state), generator=generator, dtype=torch.float64)
        state = state - rate * (first * (state + noise[0]) + second * (state + noise[1]))
    # Three standard deviations of a variance of 40,000 draws: 2.1 %.
    assert float(state.var()) == pytest.approx(ou_variance(0.3, 1.0, splits), rel=0.021)


def test_curves_of_a_small_network_agree_at_equal_time():
    data = gaussian_mixture(3, 6, 40, noise=0.8, seed=1)

    def final_loss(splits, seed):
        svag, generator = SVAG(splits), torch.Generator().manual_seed(seed)
        layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)]
        for layer in (layers[0], layers[2]):
            nn.init.normal_(layer.weight, std=0.4, generator=torch.Generator().manual_seed(0))
            nn.init.zeros_(layer.bias)
        model = nn.Sequential(*layers)
        optimizer = torch.optim.SGD(model.parameters(), lr=svag.learning_rate(0.1))
        for _ in range(svag.num_steps(40)):
            drawn = torch.randint(120, (16,), generator=generator)
            optimizer.zero_grad()
            svag.loss(lambda x, y: cross_entropy(model(x), y), data.inputs[drawn], data.labels[drawn]).backward()
            optimizer.step()
        return float(cross_entropy(model(data.inputs), data.labels).detach())

    means, errors = {}, {}
    for splits in (1, 2, 4):
        values = torch.tensor([final_loss(splits, seed) for seed in range(5)], dtype=torch.float64)
        means[splits], errors[splits] = float(values.mean()), float(values.std() / math.sqrt(5))
    for splits in (2, 4):
        assert abs(means[splits] - means[1]) < 3 * math.hypot(errors[splits], errors[1])
    # The comparison can fail: a tenth of the loss would be seen.
    assert max(errors.values()) < 0.1 * means[1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SVAG(0.5), r"SVAG needs splits of 1 or more, got 0\.5\."),
        (lambda: SVAG(2).loss(cross_entropy, torch.zeros(3, 2), torch.zeros(3)), r"two batches of one size, got 3 samples\."),
        (lambda: ou_variance(4.0, 1.0, 2), r"a learning rate in \(0, 4\), got 4\.0: steps diverge beyond\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
