"""Minima of models with random parameters against brute force: SciPy and NumPy on the definitions alone."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from ncollapse.surrogates import FixedETF, NearCollapse, NormalizedFeatures


def cross_entropy(logits, labels):
    return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]))


def class_parts(features, labels, num_classes):
    means = np.stack([features[labels == k].mean(axis=0) for k in range(num_classes)])
    return means - means.mean(axis=0), features - means[labels]


def on_spheres(objective, shapes, starts, rng):
    """The least value of a function of matrices with unit rows over several starts: rows are normalized before."""
    cuts = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def value(flat):
        parts = [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]
        return objective(*(part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts))

    sizes = sum(math.prod(shape) for shape in shapes)
    runs = [minimize(value, rng.normal(size=sizes), method="L-BFGS-B", options={"gtol": 1e-9}) for _ in range(starts)]
    return min(float(run.fun) for run in runs)


@pytest.mark.parametrize("loss", ["dot_regression", "cross_entropy"])
def test_the_minimum_before_a_random_fixed_frame(loss):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        counts = tuple(int(n) for n in rng.integers(1, 4, size=rng.integers(2, 5)))
        dim, energies = int(rng.integers(len(counts) - 1, 5)), rng.uniform(0.3, 4, size=2)
        model = FixedETF(counts, dim, loss=loss, energy_w=energies[0], energy_h=energies[1])
        frame, labels = model.weight.numpy(), np.repeat(np.arange(len(counts)), counts)
        # The frame is an ETF of the energy asked for.
        cosines = np.full((len(counts),) * 2, -1 / (len(counts) - 1)) + np.eye(len(counts)) * len(counts) / (len(counts) - 1)
        assert frame @ frame.T == pytest.approx(energies[0] * cosines, abs=1e-12)
        scale = math.sqrt(energies.prod())

        def objective(unit, frame=frame, labels=labels, size=energies[1] ** 0.5, scale=scale):
            logits = size * unit @ frame.T
            if loss == "cross_entropy":
                return cross_entropy(logits, labels)
            return ((logits[np.arange(len(labels)), labels] - scale) ** 2).mean() / (2 * scale)

        # On a line the sphere is two points, and nothing descends from one to the other: all are tried.
        if dim == 1:
            signs = 2 * np.array(list(np.ndindex(*(2,) * len(labels)))) - 1
            found = min(objective(column[:, None]) for column in signs)
        else:
            found = on_spheres(objective, [(len(labels), dim)], 3, rng)
        assert found == pytest.approx(model.closed_form().value, abs=1e-7)
        assert found >= model.minimum - 1e-12


def test_near_collapse_at_random_parameters():
    """PFC1 of the multilayer model's minimum, by SciPy, against the formula, which errs by the square of the noise."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        num_classes, per_class = int(rng.integers(2, 4)), int(rng.integers(2, 5))
        decay, cost = 10 ** rng.uniform(-3, -1), 10 ** rng.uniform(-3, 0)
        model = NearCollapse((per_class,) * num_classes, scale=rng.uniform(0.5, 2), lambda_w=decay, lambda_h=cost)
        dim, errors = num_classes + int(rng.integers(0, 3)), []
        for noise in (0.02, 0.01):
            inputs, labels = (part.numpy() for part in model.inputs(dim, noise, seed))
            targets, samples = np.eye(num_classes)[labels], len(labels)

            def objective(flat, inputs=inputs, targets=targets, decay=decay, cost=cost, samples=samples, K=num_classes, d=dim):
                weight, features = flat[: K * d].reshape(K, d), flat[K * d :].reshape(samples, d)
                errors, moved = (features @ weight.T - targets) / samples, features - inputs
                value = samples / 2 * (errors**2).sum() + decay / 2 * (weight**2).sum() + cost / 2 * (moved**2).sum()
                by_weight, by_features = errors.T @ features + decay * weight, errors @ weight + cost * moved
                return value, np.concatenate([by_weight.ravel(), by_features.ravel()])

            start = np.concatenate([np.eye(num_classes, dim).ravel(), inputs.ravel()])
            options = {"maxiter": 5000, "maxfun": 20_000, "gtol": 1e-12, "ftol": 0}
            found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
            features = found[num_classes * dim :].reshape(samples, dim)
            ratios = []
            for layer in (inputs, features):
                means, deviations = class_parts(layer, labels, num_classes)
                ratios.append((deviations**2).sum() / (means**2).sum())
            errors.append(abs(ratios[1] / ratios[0] - model.ratio(*model.spread(torch.tensor(inputs)))))
        assert errors[0] < 20 * 0.02**2
        assert errors[1] < 0.3 * errors[0] + 1e-7


def too_few_dimensions(cases):
    """d < K-1: the best of several descents equals the best of SciPy's, above the bound, which no point reaches."""
    for num_classes, dim, seed in cases:
        rng = np.random.default_rng(seed)
        temperature = rng.uniform(1, 6)
        model = NormalizedFeatures((1,) * num_classes, dim, temperature=temperature)

        def objective(weight, features, temperature=temperature):
            return cross_entropy(temperature * features @ weight.T, np.arange(len(weight)))

        expected = on_spheres(objective, [(num_classes, dim)] * 2, 3, rng)
        found = min((model.solve(seed=start) for start in range(3)), key=lambda solution: solution.value)
        assert found.value == pytest.approx(expected, rel=1e-6)
        assert found.value > model.minimum * (1 + 1e-3)
        assert not found.certified
        if dim == 2:
            corners = np.exp(temperature * (np.cos(2 * np.pi * np.arange(num_classes) / num_classes) - 1))
            assert found.value == pytest.approx(math.log(corners.sum()), rel=1e-7)


def test_normalized_features_with_too_few_dimensions():
    too_few_dimensions([(4, 2, 0)])


@pytest.mark.slow
def test_normalized_features_with_too_few_dimensions_at_more_parameters():
    too_few_dimensions([(5, 2, 1), (5, 3, 2), (6, 3, 3), (4, 2, 4), (5, 3, 5)])
