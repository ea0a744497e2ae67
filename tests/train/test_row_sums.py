"""The law of NC0: the sum of the classifier's rows, trained against its recursion, and where it fails."""

import math

import pytest
import torch
from torch import nn

from ncollapse.data import LabeledData
from ncollapse.metrics import row_sum
from ncollapse.train import TrainConfig, row_sum_factor, train


def trained_factor(seed, decay_biases=False, with_bias=True, num_classes=4, **options):
    """s after training over s before, of a small network on random labels in float64; and how far s left its direction."""
    rng = torch.Generator().manual_seed(seed)
    dim, width = (int(torch.randint(2, 6, (), generator=rng)) for _ in range(2))
    inputs = torch.randn(23, dim, generator=rng, dtype=torch.float64)
    data = LabeledData(inputs, torch.randint(num_classes, (23,), generator=rng), num_classes, "random")
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, num_classes, bias=with_bias)).double()
    config = TrainConfig(decay="all" if decay_biases else "weights", batch_size=8, epochs=6, **options)
    before = model[2].weight.detach().sum(dim=0)
    list(train(model, data, config, seed=seed))
    after = model[2].weight.detach().sum(dim=0)
    factor = float(after @ before / before.square().sum())
    return factor, float(torch.linalg.norm(after - factor * before) / torch.linalg.norm(before)), row_sum_factor(config, 3)


@pytest.mark.parametrize("optimizer", ["sgd", "sgdw"])
@pytest.mark.parametrize("seed", range(4))
def test_training_multiplies_the_sum_of_rows_by_the_factor_of_the_law(optimizer, seed):
    rng = torch.Generator().manual_seed(100 + seed)
    rate, momentum, decay = (float(x) for x in torch.rand(3, generator=rng))
    found, bend, law = trained_factor(
        seed, decay_biases=seed == 1, with_bias=seed != 2, optimizer=optimizer, learning_rate=0.02 + rate / 4,
        num_classes=2 + seed, momentum=0.95 * momentum, weight_decay=0.05 + 0.3 * decay,
        clip_norm=0.05 if seed == 3 else None, schedule="cosine",
    )  # fmt: skip
    assert abs(law - 1) > 1e-2
    assert found == pytest.approx(law, rel=1e-12)
    assert bend < 1e-13


def test_the_law_by_hand():
    config = TrainConfig(epochs=2, learning_rate=0.5, momentum=0.5, weight_decay=0.4, milestones=())
    # v = .4, s = .8; v = .2 + .32 = .52, s = .54.
    assert row_sum_factor(config, 1) == pytest.approx(0.54, rel=1e-14)
    decoupled = TrainConfig(epochs=2, learning_rate=0.5, momentum=0.5, weight_decay=0.4, milestones=(), optimizer="sgdw")
    assert row_sum_factor(decoupled, 3, 1) == pytest.approx(0.8**3, rel=1e-14)
    assert row_sum_factor(config, 5, 0) == 1


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_steps_scaled_by_coordinate_break_the_law(optimizer):
    _, bend, law = trained_factor(0, optimizer=optimizer, learning_rate=0.05, weight_decay=0.02)
    # Whatever factor is meant, s leaves its direction.
    assert bend > 1e-3
    assert math.isnan(law)


def test_with_two_classes_the_rows_of_adamw_move_oppositely():
    """Scaling by coordinate needs a third class to break the law of decoupled decay: of two, the gradients are opposite."""
    found, bend, _ = trained_factor(0, num_classes=2, optimizer="adamw", learning_rate=0.05, weight_decay=0.02)
    _, coupled, _ = trained_factor(0, num_classes=2, optimizer="adam", learning_rate=0.05, weight_decay=0.02)
    same = row_sum_factor(TrainConfig(batch_size=8, epochs=6, optimizer="sgdw", learning_rate=0.05, weight_decay=0.02), 3)
    assert found == pytest.approx(same, rel=1e-12)
    assert bend < 1e-13
    assert coupled > 1e-3


def polar(momentum):
    """The step of Muon: the polar factor, on the span of the matrix."""
    left, values, right = torch.linalg.svd(momentum, full_matrices=False)
    rank = int((values > 1e-12 * values[0]).sum())
    return left[:, :rank] @ right[:rank]


@pytest.mark.parametrize(
    ("step", "num_classes", "coupled", "holds"),
    [
        (polar, 4, False, True),
        (polar, 4, True, False),
        (torch.sign, 4, False, False),
        (torch.sign, 2, False, True),
        (torch.sign, 2, True, False),
    ],
    ids=["Muon", "Muon, coupled", "sign descent", "sign descent, two classes", "sign descent, two classes, coupled"],
)
def test_orthogonalized_steps_and_signs(step, num_classes, coupled, holds):
    """By hand: polar factors of rows that sum to zero do so too, and signs only where there are two classes."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn(12, 5, generator=rng, dtype=torch.float64)
    labels = torch.arange(12) % num_classes
    weight = torch.randn(num_classes, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    start, momentum = weight.detach().sum(dim=0), torch.zeros_like(weight)
    for _ in range(10):
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(inputs @ weight.T, labels), weight)
        with torch.no_grad():
            momentum = 0.9 * momentum + gradient + (0.1 * weight if coupled else 0)
            weight.mul_(1 if coupled else 1 - 0.05 * 0.1).sub_(0.05 * step(momentum))
    bend = torch.linalg.norm(weight.detach().sum(dim=0) - (1 - 0.05 * 0.1) ** 10 * start) / torch.linalg.norm(start)
    assert bool(bend < 1e-13) if holds else bool(bend > 0.02)


def test_the_squared_loss_breaks_the_law():
    _, bend, law = trained_factor(0, loss="mse", learning_rate=0.1, weight_decay=0.02)
    assert bend > 1e-3
    assert math.isnan(law)


def test_row_sum_in_closed_form():
    ones = torch.ones(5, 3, dtype=torch.float64)
    assert float(row_sum(ones)) == pytest.approx(math.sqrt(5), rel=1e-14)
    assert float(row_sum(1e200 * ones)) == pytest.approx(math.sqrt(5), rel=1e-14)
    assert float(row_sum(torch.eye(4, dtype=torch.float64))) == pytest.approx(1, rel=1e-14)
    assert float(row_sum(torch.eye(4, dtype=torch.float64) - 0.25)) < 1e-15
    assert math.isnan(float(row_sum(torch.zeros(2, 2))))
