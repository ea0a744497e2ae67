"""The floor that knows depth and data: below descent on the sphere, below any network, tight, and what breaks it."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ncollapse.surrogates import GUFM, LBFGS, MUFM, balanced, block_cost, depth_floor, great_circle_blocks, layer_norm


def spherical(rng, count, dim):
    return layer_norm(torch.tensor(rng.normal(size=(count, dim)))).numpy()


def plain_norm(raw):
    centered = raw - raw.mean(axis=1, keepdims=True)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


def plain_loss(loss, logits, labels):
    """The mean loss and its gradient in the logits."""
    targets = np.eye(logits.shape[1])[labels]
    if loss == "mse":
        return 0.5 * ((logits - targets) ** 2).sum() / len(labels), (logits - targets) / len(labels)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    outputs = odds / odds.sum(axis=1, keepdims=True)
    return -np.log(outputs[targets == 1]).mean(), (outputs - targets) / len(labels)


def descend(inputs, labels, loss, lambda_w, lambda_h, rng):
    """The best value that SciPy finds on the sphere, from the data: an upper bound of the minimum."""
    (N, d), K = inputs.shape, labels.max() + 1

    def objective(flat):
        weight, raw, bias = flat[: K * d].reshape(K, d), flat[K * d : -K].reshape(N, d), flat[-K:]
        features, size = plain_norm(raw), np.linalg.norm(raw - raw.mean(axis=1, keepdims=True), axis=1, keepdims=True)
        value, slope = plain_loss(loss, features @ weight.T + bias, labels)
        value += lambda_w / 2 * (weight**2).sum() + lambda_h / 2 * ((features - inputs) ** 2).sum()
        pull = slope @ weight + lambda_h * (features - inputs)
        pull = (pull - (pull * features).sum(axis=1, keepdims=True) * features) / size
        pull = pull - pull.mean(axis=1, keepdims=True)
        return value, np.concatenate([(slope.T @ features + lambda_w * weight).ravel(), pull.ravel(), slope.sum(axis=0)])

    start = np.concatenate([rng.normal(size=K * d), inputs.ravel(), np.zeros(K)])
    return minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).fun


def check_floor(seeds, least=0.7):
    """The floor is below every point, above the floor without data, and covers most of the way between them."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        loss, K, per_class = ("mse", "cross_entropy")[seed % 2], int(rng.integers(2, 4)), int(rng.integers(2, 5))
        dim, decay, depth = K + int(rng.integers(1, 4)), 10 ** rng.uniform(-3, -1.5), int(rng.integers(1, 9))
        labels = np.repeat(np.arange(K), per_class)
        inputs = spherical(rng, len(labels), dim)
        cost = block_cost(decay, depth, len(labels), biases=bool(seed % 3))
        floor = depth_floor(torch.tensor(inputs), torch.tensor(labels), loss=loss, lambda_w=decay, lambda_h=cost)
        best = min(descend(inputs, labels, loss, decay, cost, rng) for _ in range(2))
        free = GUFM(balanced(K, per_class), dim=dim, loss=loss, bias="free", lambda_w=decay).minimum
        assert floor <= best * (1 + 1e-9)
        assert floor - free >= least * (best - free)


def test_the_floor_is_a_bound_and_near_what_descent_finds():
    check_floor([18])
    # Here the norms are right before the point is critical: it is gone on from there.
    check_floor([19], least=0.85)


@pytest.mark.slow
def test_the_floor_at_more_data():
    check_floor(range(2, 22))


@pytest.mark.parametrize(
    ("loss", "lambda_w", "lambda_h"),
    [("mse", 0.02, 2e-3), ("cross_entropy", 0.02, 5e-4), ("cross_entropy", 0.02, 0.05), ("cross_entropy", 0.2, 0.05)],
)
def test_the_floor_is_near_the_best_multiplier(loss, lambda_w, lambda_h):
    """Against a scan of multipliers of the norms, each with the minimum of the multilayer model on shrunken data."""
    rng = np.random.default_rng(4)
    inputs, labels = torch.tensor(spherical(rng, 6, 4)), torch.arange(2).repeat(3)
    bounds = []
    for multiplier in lambda_w * np.geomspace(5e-3, 1.5, 9):
        cost = multiplier + lambda_h
        model = MUFM(lambda_h / cost * inputs, labels, loss=loss, bias="free", lambda_w=lambda_w, lambda_h=float(cost))
        least = model.dual(LBFGS().run(model, model.start(0)).variables)[1]
        bounds.append(least + 3 * (lambda_h * multiplier / cost - multiplier))
    found = depth_floor(inputs, labels, loss=loss, lambda_w=lambda_w, lambda_h=lambda_h)
    # The scan itself misses the best multiplier a little.
    assert max(bounds) * (1 - 1e-4) <= found <= max(bounds) * 1.02
    assert bounds[0] < found > bounds[-1]


@pytest.mark.parametrize("wrong", [{"lambda_w": 0.0}, {"num_blocks": -1}, {"num_samples": 0}])
def test_costs_of_blocks_need_positive_numbers(wrong):
    with pytest.raises(ValueError, match="must be finite and positive"):
        block_cost(**{"lambda_w": 0.1, "num_blocks": 2, "num_samples": 3, "biases": True, **wrong})


def network(rng, inputs, depth, adversarial):
    """Features of a random bias-free L-RN1 and the squared norm of its blocks; adversarial: each turns one feature by a lot."""
    features, squared = inputs, 0.0
    for _ in range(depth):
        matrix = rng.normal(size=(inputs.shape[1],) * 2) * 10 ** rng.uniform(-3, 0.5) / inputs.shape[1]
        if adversarial:
            row = features[rng.integers(len(features))]
            matrix = np.outer(np.maximum(-row - row.min(), 0) + rng.uniform(0, 1), row) * 10 ** rng.uniform(-2, 0.5)
        features = plain_norm(features + np.maximum(features @ matrix.T, 0))
        squared += (matrix**2).sum()
    return features, squared


@pytest.mark.parametrize("cases", [200, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_network_moves_features_for_less(cases):
    """Every sample's own distance, which is more than the mean: 4 L Σ‖W‖² >= ‖h - x‖²."""
    largest = 0.0
    for seed in range(cases):
        rng = np.random.default_rng(seed)
        inputs, depth = spherical(rng, 6, int(rng.integers(2, 9))), int(rng.integers(1, 7))
        features, squared = network(rng, inputs, depth, adversarial=bool(seed % 2))
        moved = ((features - inputs) ** 2).sum(axis=1)
        assert moved.max() <= 4 * depth * squared * (1 + 1e-12)
        decay = 0.01
        cost = block_cost(decay, depth, 6, biases=False)
        assert decay / 2 * squared >= cost / 2 * moved.sum() * (1 - 1e-12)
        largest = max(largest, moved.max() / (4 * depth * squared))
    assert largest > 0.05


def test_whole_networks_stay_above_the_floor():
    rng = np.random.default_rng(4)
    labels, decay, depth = np.repeat([0, 1], 3), 0.02, 3
    inputs = spherical(rng, 6, 4)
    cost = block_cost(decay, depth, 6, biases=False)
    floor = depth_floor(torch.tensor(inputs), torch.tensor(labels), loss="cross_entropy", lambda_w=decay, lambda_h=cost)
    for seed in range(100):
        features, squared = network(rng, inputs, depth, adversarial=bool(seed % 2))
        weight = rng.normal(size=(2, 4)) * 10 ** rng.uniform(-1, 1)
        value, _ = plain_loss("cross_entropy", features @ weight.T, labels)
        assert value + decay / 2 * (squared + (weight**2).sum()) >= floor


def test_hypotheses_are_needed():
    """A trained stem brings features to the optimum for nothing: below the floor. A free bias moves them for nothing."""
    rng = np.random.default_rng(5)
    inputs, labels, decay = spherical(rng, 2, 4), np.array([0, 1]), 0.02
    cost = block_cost(decay, 1, 2, biases=False)
    floor = depth_floor(torch.tensor(inputs), torch.tensor(labels), loss="cross_entropy", lambda_w=decay, lambda_h=cost)
    optimal = GUFM((1, 1), dim=4, lambda_w=decay).closed_form().variables
    target, weight = optimal["features"].numpy(), optimal["weight"].numpy()
    # A stem of size 1e-6, normalized behind: its decay pays 1e-14.
    stem = 1e-6 * target.T @ np.linalg.pinv(inputs.T)
    value, _ = plain_loss("cross_entropy", plain_norm(inputs @ stem.T) @ weight.T, labels)
    assert value + decay / 2 * ((weight**2).sum() + (stem**2).sum()) < floor - 1e-4
    moved = plain_norm(inputs + np.array([50.0, 0.0, 0.0, 0.0])) - inputs
    assert cost / 2 * (moved**2).sum() > 0


def test_with_decayed_biases_the_cost_is_half():
    for seed in range(100):
        rng = np.random.default_rng(seed)
        inputs, depth = spherical(rng, 5, 5), int(rng.integers(1, 5))
        features, squared = inputs, 0.0
        for _ in range(depth):
            matrix, bias = rng.normal(size=(5, 5)) * 10 ** rng.uniform(-3, 0), rng.normal(size=5) * 10 ** rng.uniform(-3, 0)
            features = plain_norm(features + np.maximum(features @ matrix.T + bias, 0))
            squared += (matrix**2).sum() + (bias**2).sum()
        assert 0.5 * squared >= block_cost(1.0, depth, 5, biases=True) / 2 * ((features - inputs) ** 2).sum() * (1 - 1e-12)
    assert block_cost(1.0, 2, 10, biases=True) == 0.5 * block_cost(1.0, 2, 10, biases=False) == 1 / 160


def test_two_samples_come_together_at_most_exponentially():
    """δ_L >= δ_0 exp(-2.6 Σ‖W‖) for blocks of spectral norm up to 1/8: the step behind the order (log L)²/L."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        dim, spent = int(rng.integers(3, 8)), 0.0
        features = spherical(rng, 2, dim)
        if seed % 2:
            features = plain_norm(features[:1] + 1e-3 * rng.normal(size=(2, dim)))
        before = np.linalg.norm(features[0] - features[1])
        for _ in range(int(rng.integers(1, 9))):
            # Half of them pull both along their difference.
            apart = features[0] - features[1]
            matrix = -np.outer(apart, apart) if seed % 4 > 1 else rng.normal(size=(dim, dim))
            matrix *= rng.uniform(0, 0.125) / np.linalg.norm(matrix, 2)
            spent += np.linalg.norm(matrix, 2)
            features = plain_norm(features + np.maximum(features @ matrix.T, 0))
        assert np.linalg.norm(features[0] - features[1]) >= before * math.exp(-2.6 * spent)


def least_squares_value(features, labels, decay, bias):
    """The least MSE and decay over all classifiers, by ridge regression in NumPy."""
    targets, count = np.eye(labels.max() + 1)[labels], len(labels)
    if bias == "free":
        features, targets = features - features.mean(axis=0), targets - targets.mean(axis=0)
    return 0.5 / count * np.trace(targets.T @ np.linalg.solve(np.eye(count) + features @ features.T / (count * decay), targets))


def test_two_samples_of_a_class_that_differ_cost_a_square_under_the_squared_loss():
    """Excess over the minimum >= κ δ² on random spheres, near the bound at best; of two classes no distance costs anything."""
    least = math.inf
    for seed in range(300):
        rng = np.random.default_rng(seed)
        K, per_class, dim, bias = int(rng.integers(2, 5)), 2, int(rng.integers(3, 7)), ("none", "free")[seed % 2]
        decay, labels = 10 ** rng.uniform(-3, 0), np.repeat(np.arange(K), per_class)
        model = GUFM(balanced(K, per_class), dim=dim, loss="mse", lambda_w=decay, bias=bias)
        rank = min(K - (bias == "free"), dim - 1)
        growth = decay * rank**2 / (4 * K * 2 * K * (1 + rank * decay) ** 2)
        near = (
            model.frame.numpy()[labels]
            @ np.linalg.qr(np.column_stack([np.ones(dim), rng.normal(size=(dim, rank))]))[0][:, 1:].T
        )
        features = plain_norm(near + 10 ** rng.uniform(-3, 0) * rng.normal(size=near.shape))
        distance = max(np.linalg.norm(features[2 * k] - features[2 * k + 1]) for k in range(K))
        excess = least_squares_value(features, labels, decay, bias) - model.minimum
        assert excess >= growth * distance**2 * (1 - 1e-6) - 1e-14
        assert least_squares_value(plain_norm(near), labels, decay, bias) == pytest.approx(model.minimum, rel=1e-9)
        least = min(least, excess / (growth * distance**2))
    assert least < 10


def test_where_moving_is_dear_the_floor_is_the_loss_of_the_data():
    """Features that stay where they are: ridge regression on the data, from below."""
    rng = np.random.default_rng(8)
    inputs, labels = spherical(rng, 9, 4), np.repeat(np.arange(3), 3)
    stay = least_squares_value(inputs, labels, 0.02, "free")
    for cost, share in ((1.0, 0.8), (100.0, 0.999)):
        floor = depth_floor(torch.tensor(inputs), torch.tensor(labels), loss="mse", lambda_w=0.02, lambda_h=cost)
        assert share * stay <= floor <= stay * (1 + 1e-9)


def test_the_great_circle_moves_one_vector_at_a_cost_of_order_one_over_depth():
    """Above the floor's own cost, and within a constant of it: for one vector the order 1/L is attained."""
    rng = np.random.default_rng(6)
    start, end = torch.tensor(spherical(rng, 2, 6))
    for depth in (4, 16, 64):
        spent = sum(float(block.square().sum()) for block in great_circle_blocks(start, end, depth))
        least = float((end - start).square().sum()) / (4 * depth)
        assert least <= spent <= 60 * least


def test_rows_that_are_not_normalized_are_refused():
    with pytest.raises(ValueError, match=r"rows of norm one and mean zero, as a normalization makes them\. Use layer_norm\."):
        depth_floor(torch.ones(2, 3), torch.tensor([0, 1]), loss="mse", lambda_w=0.1, lambda_h=0.1)
