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


def relative_gradient(start: int) -> float:
    """Of a float32 network trained from one start at tiny decay, where losses are small and their differences smaller."""
    torch.manual_seed(start)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    data = replace(DATA, inputs=DATA.inputs.float())
    list(train(network, data, replace(CONFIG, epochs=3, iterations=200, weight_decay=1e-5, decay="all"), seed=0))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    network.double()
    loss = torch.nn.functional.cross_entropy(network(DATA.inputs), DATA.labels)
    penalty = 0.5e-5 * sum(parameter.square().sum() for parameter in network.parameters())
    parts = [torch.autograd.grad(part, list(network.parameters())) for part in (loss, penalty)]
    gradient, decay = (torch.cat([part.flatten() for part in each]) for each in parts)
    return float((gradient + decay).norm() / (gradient.norm() + decay.norm()))


def test_it_does_not_stall_where_losses_and_gradients_are_rounding_in_float32() -> None:
    found = [relative_gradient(start) for start in range(6)]
    # With losses alone in float64 it is 2e-3 (torch 2.13) or 3e-3 (torch 2.6), with nothing in float64 0.1.
    assert math.exp(sum(map(math.log, found)) / len(found)) < 1e-3


@pytest.mark.parametrize(("iterations", "steepest"), [(1, True), (5, False)])
def test_its_memory_is_empty_after_its_iterations(iterations: int, steepest: bool) -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 3, bias=False).double()
    config = replace(CONFIG, epochs=3, iterations=iterations, weight_decay=0.0)
    before = network.weight.detach().clone().requires_grad_()
    for _ in train(network, DATA, config, seed=0):
        torch.nn.functional.cross_entropy(DATA.inputs @ before.T, DATA.labels).backward()
        assert before.grad is not None
        step = network.weight.detach() - before.detach()
        along = torch.nn.functional.cosine_similarity(step.flatten(), -before.grad.flatten(), dim=0)
        assert (float(along) == pytest.approx(1, abs=1e-9)) is steepest
        before = network.weight.detach().clone().requires_grad_()


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"lbfgs computes in float64, got train\.precision=bfloat16"):
        replace(CONFIG, precision="bfloat16")
    with pytest.raises(ValueError, match=r"train\.iterations must be an integer of 1 or more, got 0"):
        TrainConfig(iterations=0)
    with pytest.raises(ValueError, match=r"lbfgs needs train.clip_norm=null, got 1.0"):
        TrainConfig(optimizer="lbfgs")
    with pytest.raises(ValueError, match=r"all samples in one batch, got a batch_size of 28 for 30 samples"):
        train(torch.nn.Linear(4, 3), DATA, replace(CONFIG, batch_size=28), seed=0)
