"""The theory of progressive collapse as experiments: what they compute themselves, beside plain numpy."""

import numpy as np
import pytest
import torch

from ncollapse.experiments import EXPERIMENTS, Work, pfc_theory
from ncollapse.experiments.pfc_theory import _ordered, pfc1_of, solve_layers
from ncollapse.surrogates import MUFM


def drawn():
    labels = torch.tensor([0, 1, 2]).repeat_interleave(4)
    inputs = torch.nn.functional.one_hot(labels, 5).double() + 0.3 * torch.randn(12, 5, generator=torch.manual_seed(0)).double()
    return inputs, labels


def test_the_problem_in_all_layers_is_that_of_the_paper():
    inputs, labels = drawn()
    costs = (3e-3, 1e-3)
    value, found = solve_layers(inputs, labels, lambda_w=0.05, costs=costs, seed=1)
    weight, first, last = (found[name].numpy() for name in ("weight", "layer1", "layer2"))
    errors = last @ weight.T - np.eye(3)[labels.numpy()]
    moved = 3e-3 * np.sum((first - inputs.numpy()) ** 2) + 1e-3 * np.sum((last - first) ** 2)
    assert value == pytest.approx((np.sum(errors**2) / 12 + 0.05 * np.sum(weight**2) + moved) / 2, rel=1e-9)
    # Theorem 3: the dear gap is a third of the cheap one.
    np.testing.assert_allclose(first, inputs.numpy() + 0.25 * (last - inputs.numpy()), atol=1e-5)


def test_pfc1_is_within_over_between():
    inputs, labels = drawn()
    rows, classes = inputs.numpy(), labels.numpy()
    means = np.array([rows[classes == k].mean(axis=0) for k in range(3)])
    within = np.mean(np.sum((rows - means[classes]) ** 2, axis=1))
    between = np.mean(np.sum((means - means.mean(axis=0)) ** 2, axis=1))
    assert pfc1_of(inputs, labels) == pytest.approx(within / between, rel=1e-12)


def test_levels_are_in_order_only_if_all_three_are():
    low, high = {"pfc1": 1.0, "pfc2": 1.0, "pfc3_error": 0.0}, {"pfc1": 2.0, "pfc2": 2.0, "pfc3_error": 0.0}
    assert _ordered(low, high)
    assert not _ordered(high, low)
    assert not _ordered(low, {**high, "pfc2": 1.0})
    assert not _ordered({**low, "pfc3_error": 0.1}, high)


def test_the_flow_of_lemma_1_starts_at_the_data(tmp_path):
    found = EXPERIMENTS["pfc:lemma1"].measure(Work(3, False, tmp_path, print))
    assert found.value is True
    first = {point.panel: point.y for point in found.points if point.x == 0}
    assert first["PFC1"] == pytest.approx(first["tr Σ_W"] / first["tr Σ_B"], rel=1e-12)


def test_the_trade_off_is_that_of_the_loss_it_names(tmp_path, monkeypatch):
    """Each optimum has the value of the model with that loss, written out in numpy."""
    monkeypatch.setattr(pfc_theory, "_COSTS", (1e-2, 1e-1))
    solved = []
    solve = MUFM.solve

    def kept(model, **options):
        solved.append((model, solve(model, **options)))
        return solved[-1][1]

    monkeypatch.setattr(MUFM, "solve", kept)
    for name in ("pfc:fig5", "pfc:fig5-ce"):
        assert EXPERIMENTS[name].measure(Work(0, False, tmp_path, print)).value is True
    assert [model.loss for model, _ in solved] == ["mse", "mse", "cross_entropy", "cross_entropy"]
    model, found = solved[-1]
    weight, features = (found.variables[name].numpy() for name in ("weight", "features"))
    logits, classes = features @ weight.T, model.labels.numpy()
    loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(classes)), classes])
    moved = np.sum((features - model.inputs.numpy()) ** 2)
    assert found.value == pytest.approx(loss + (5e-3 * np.sum(weight**2) + 1e-1 * moved) / 2, rel=1e-9)
    assert found.certified
