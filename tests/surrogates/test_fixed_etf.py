"""Features before a fixed frame: the minimum at any imbalance, and the forces of the cross-entropy."""

import math

import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.surrogates import FixedETF, feature_forces, weight_forces


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("loss", ["dot_regression", "cross_entropy"])
@pytest.mark.parametrize("counts", [(4, 4, 4), (50, 5, 1)])
def test_collapse_at_any_imbalance(loss, counts):
    model = FixedETF(counts, 4, loss=loss, energy_w=2.0, energy_h=3.0)
    closed, solved = model.closed_form(), model.solve(seed=1)
    expected = 0 if loss == "dot_regression" else math.log(1 + 2 * math.exp(-math.sqrt(6) * 3 / 2))
    assert closed.value == pytest.approx(expected, abs=1e-14)
    assert solved.value == pytest.approx(expected, abs=1e-11)
    assert closed.certified
    assert solved.certified
    assert closed.gap == pytest.approx(0, abs=1e-14)
    features = solved.variables["features"]
    # Dot regression is flat, of the fourth order in the angle: a value of 1e-12 is an angle of 1e-3.
    assert torch.allclose(
        features, math.sqrt(3 / 2) * model.weight[model.labels], atol=1e-4 if loss == "cross_entropy" else 0.02
    )
    assert torch.linalg.vector_norm(features, dim=1).tolist() == pytest.approx([math.sqrt(3)] * sum(counts))
    for seed in range(20):
        assert float(model.objective(model.start(seed))) > model.minimum


def test_forces_are_the_parts_of_the_gradient():
    weight, features, labels = normal(0, 3, 4), normal(1, 7, 4), torch.tensor([0, 1, 2, 0, 0, 1, 0])
    leaves = [tensor.clone().requires_grad_() for tensor in (weight, features)]
    loss = torch.nn.functional.cross_entropy(leaves[1] @ leaves[0].T, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, leaves)
    for forces, gradient in zip((weight_forces, feature_forces), gradients, strict=True):
        pull, push = forces(weight, features, labels)
        assert torch.allclose(pull + push, -gradient, atol=1e-13)
    probabilities = torch.softmax(features @ weight.T, dim=1)
    pull, push = feature_forces(weight, features, labels)
    assert torch.allclose(pull[1], (1 - probabilities[1, 1]) * weight[1])
    assert torch.allclose(push[1], -probabilities[1, 0] * weight[0] - probabilities[1, 2] * weight[2])


@pytest.mark.parametrize("counts", [(6, 6, 6), (30, 5, 1)])
def test_minorities_are_pushed_more_than_pulled(counts):
    """With equal logits: by (N - n_k) / ((K-1) n_k), if all features have one direction and norm."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    pull, push = weight_forces(torch.zeros(3, 4).double(), torch.ones(len(labels), 4).double(), labels)
    ratio = torch.linalg.vector_norm(push, dim=1) / torch.linalg.vector_norm(pull, dim=1)
    assert ratio.tolist() == pytest.approx([(sum(counts) - n) / (2 * n) for n in counts], rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FixedETF((4, 4, 4), 1), r"A frame of 3 classes needs dim >= 2, got 1\."),
        (lambda: FixedETF((4, 0), 3), r"counts must be positive integers"),
        (lambda: FixedETF((4, 4), 3, loss="mse"), r"loss must be 'dot_regression' or 'cross_entropy', got 'mse'\."),
        (lambda: FixedETF((4, 4), 3, energy_w=-1.0), r"energy_w must be finite and positive, got -1\.0\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_frame():
    model = FixedETF((1, 1, 1), 5, energy_w=4.0)
    assert torch.allclose(model.weight, 2 * simplex_etf(3, 5))
