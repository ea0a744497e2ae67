"""Local elasticity: exact on the linear model, networks left to the bit as they were, aggregates."""

import math

import pytest
import torch
from torch import nn

from ncollapse.analysis import Elasticity, local_elasticity
from ncollapse.train.losses import cross_entropy


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, LABELS = normal(0, 6, 4), torch.tensor([0, 1, 0, 1, 2, 0])


def half_square(outputs, targets):
    return 0.5 * (outputs.flatten() - targets).square().sum()


def linear():
    model = nn.Linear(4, 1, bias=False).double()
    model.weight.data = normal(1, 1, 4)
    return model


@pytest.mark.parametrize("learning_rate", [1e-3, 0.5, 20.0])
def test_a_linear_model_gives_inner_products_at_any_learning_rate(learning_rate):
    found = local_elasticity(linear(), X, LABELS, loss=half_square, learning_rate=learning_rate, targets=normal(2, 6))
    gram = X @ X.T
    assert torch.allclose(found.kernel, gram, rtol=1e-9, atol=1e-9)
    assert torch.allclose(found.relative, gram.abs() / gram.diagonal().unsqueeze(1), rtol=1e-9, atol=1e-9)


def test_vector_outputs_by_hand():
    model = nn.Linear(4, 3).double()
    found = local_elasticity(model, X, LABELS, loss=cross_entropy, learning_rate=0.1)
    assert found.kernel is None
    for i in range(6):
        error = torch.softmax(model(X[i]), 0) - torch.eye(3)[LABELS[i]]
        moves = [torch.linalg.vector_norm(0.1 * (X[i] @ x + 1) * error).item() for x in X]
        assert found.relative[i].tolist() == pytest.approx([move / moves[i] for move in moves], rel=1e-9)


class Counting(nn.Module):
    """Counts its calls in one buffer, replaces another, normalizes, and can fail at a call."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(4))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.fail_at = fail_at
        self.double()

    def forward(self, inputs):
        assert not self.training
        self.calls += 1
        self.seen = inputs[0].detach().clone()
        if self.fail_at is not None and self.calls >= self.fail_at:
            raise RuntimeError("on purpose")
        return self.last(torch.relu(self.norm(self.first(inputs)))) * self.frozen


@pytest.mark.parametrize("fail_at", [None, 1, 2, 3])
def test_the_network_is_left_as_it_was(fail_at):
    model = Counting(fail_at)
    model.train()
    model.norm.eval()
    model.first.weight.grad = torch.ones(5, 4, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tensors = {name: tensor.data_ptr() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    if fail_at is None:
        found = local_elasticity(model, X, LABELS, loss=half_square, learning_rate=0.3, targets=LABELS.double())
        assert found.relative.diagonal().tolist() == [1] * 6
        assert not torch.allclose(found.relative, torch.ones(6, 6).double())
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            local_elasticity(model, X, LABELS, loss=half_square, learning_rate=0.3, targets=LABELS.double())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert tensors == {name: tensor.data_ptr() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    assert [module.training for module in (model, model.first, model.norm, model.last)] == [True, True, False, True]
    assert torch.equal(model.first.weight.grad, torch.ones(5, 4).double())
    assert model.last.weight.grad is None


def test_an_error_after_the_step_restores_too():
    # Call 1 looks before, call 2 takes the gradient, call 3 looks after the step.
    model = Counting(fail_at=3)
    before = model.first.weight.detach().clone()
    with pytest.raises(RuntimeError, match="on purpose"):
        local_elasticity(model, X, LABELS, loss=half_square, learning_rate=5.0, targets=LABELS.double())
    assert torch.equal(model.first.weight, before)


def test_aggregates_leave_a_sample_and_itself_out():
    values = torch.tensor([[9.0, 2.0, 1.0], [4.0, 9.0, 3.0], [0.5, 1.5, 9.0]])
    found = Elasticity(values, 2 * values, torch.tensor([0, 0, 1]))
    assert found.aggregate() == (3.0, 1.5, 2.0)
    assert found.aggregate(found.kernel) == (6.0, 3.0, 2.0)
    assert math.isnan(Elasticity(values, None, torch.tensor([0, 1, 2])).aggregate().intra)


def test_a_step_that_changes_nothing_is_undefined():
    model = linear()
    found = local_elasticity(model, X, LABELS, loss=half_square, learning_rate=0.1, targets=model(X).detach().flatten())
    assert bool(found.relative.isnan().all())


def test_a_trained_network_is_locally_elastic_and_a_linear_model_is_not():
    """Two clusters: a step moves its own class more than the other, and more so than in a linear model."""
    labels = torch.arange(2).repeat_interleave(20)
    inputs = normal(5, 40, 4) * 0.5 + torch.tensor([[1.0, 0.5, 0.2, 1.0], [0.5, 1.0, 1.0, 0.2]]).double()[labels]
    torch.manual_seed(0)
    ratios = {}
    for name, layers in (
        ("linear", [nn.Linear(4, 1, bias=False)]),
        ("network", [nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 1)]),
    ):
        model = nn.Sequential(*layers).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(500):
            optimizer.zero_grad()
            (half_square(model(inputs), 2.0 * labels - 1) / 40).backward()
            optimizer.step()
        found = local_elasticity(model, inputs, labels, loss=half_square, learning_rate=1e-3, targets=2.0 * labels - 1)
        ratios[name] = found.aggregate().ratio
    assert ratios["network"] > 1.1
    assert ratios["network"] > ratios["linear"] + 0.05


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"positive learning_rate .* got 0\.0 and 6 inputs, 6 labels, 6 targets"):
        local_elasticity(linear(), X, LABELS, loss=half_square, learning_rate=0.0)
    with pytest.raises(ValueError, match=r"one label and target per input, got 0\.1 and 6 inputs, 5 labels, 5 targets"):
        local_elasticity(linear(), X, LABELS[1:], loss=half_square, learning_rate=0.1)
    frozen = linear().requires_grad_(False)
    with pytest.raises(ValueError, match=r"trainable parameters, got one whose output depends on none\. Set requires_grad"):
        local_elasticity(frozen, X, LABELS, loss=half_square, learning_rate=0.1)
