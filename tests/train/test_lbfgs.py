"""L-BFGS: the minimum of the regularized objective that another solver finds, and what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ncollapse.data import LabeledData, gaussian_mixture
from ncollapse.train import TrainConfig, train, weight_decay_time

CONFIG = TrainConfig(
    epochs=8, batch_size=1000, learning_rate=1.0, weight_decay=0.03, clip_norm=None, optimizer="lbfgs", milestones=()
)
MIXTURE = gaussian_mixture(num_classes=3, dim=4, per_class=10)
DATA = LabeledData(MIXTURE.inputs.double(), MIXTURE.labels, 3, "double")


def objective(flat: np.ndarray, decay_bias: bool) -> float:
    """Softmax regression with weight decay, written out."""
    weight, bias = flat[:12].reshape(3, 4), flat[12:]
    logits = DATA.inputs.numpy() @ weight.T + bias
    true = logits[np.arange(30), DATA.labels.numpy()]
    squares = (weight**2).sum() + ((bias**2).sum() if decay_bias else 0)
    return float((np.log(np.exp(logits).sum(1)) - true).mean() + 0.015 * squares)


@pytest.mark.parametrize("decay", ["weights", "all"])
def test_it_finds_the_minimum_of_loss_and_decay(decay: str) -> None:
    network = torch.nn.Linear(4, 3).double()
    start = torch.nn.functional.cross_entropy(network(DATA.inputs), DATA.labels).item()
    records = list(train(network, DATA, replace(CONFIG, decay=decay), seed=0))
    found = torch.cat([network.weight.flatten(), network.bias]).detach().numpy()
    best = minimize(lambda flat: objective(flat, decay == "all"), np.zeros(15), options={"gtol": 1e-9})
    assert objective(found, decay == "all") == pytest.approx(best.fun, rel=1e-9)
    np.testing.assert_allclose(found[:12], best.x[:12], atol=1e-5)
    # What is recorded is the loss before the step, without decay.
    assert records[0].loss == pytest.approx(start, rel=1e-12)
    assert records[-1].loss < start
    assert math.isnan(weight_decay_time(CONFIG, 1))


@pytest.mark.parametrize("start", range(3))
def test_it_does_not_stall_where_losses_differ_by_the_rounding_of_float32(start: int) -> None:
    torch.manual_seed(start)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    data = replace(DATA, inputs=DATA.inputs.float())
    list(train(network, data, replace(CONFIG, epochs=20, weight_decay=1e-5, decay="all"), seed=0))
    network.double()
    loss = torch.nn.functional.cross_entropy(network(DATA.inputs), DATA.labels)
    penalty = 0.5e-5 * sum(parameter.square().sum() for parameter in network.parameters())
    parts = [torch.autograd.grad(part, list(network.parameters())) for part in (loss, penalty)]
    gradient, decay = (torch.cat([part.flatten() for part in each]) for each in parts)
    # Of 24 starts at most 0.032; with losses in float32 at least 0.084.
    assert (gradient + decay).norm() / (gradient.norm() + decay.norm()) < 0.05


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"lbfgs needs train.clip_norm=null, got 1.0"):
        TrainConfig(optimizer="lbfgs")
    with pytest.raises(ValueError, match=r"all samples in one batch, got a batch_size of 28 for 30 samples"):
        train(torch.nn.Linear(4, 3), DATA, replace(CONFIG, batch_size=28), seed=0)
