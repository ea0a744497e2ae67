"""Flows and simulations with random parameters against brute force: SciPy and NumPy on the definitions alone."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import eigh
from scipy.special import ndtr

from ncollapse.surrogates import (
    CentralPath,
    LocallyElasticSDE,
    UnregularizedUFM,
    collapsed_bias,
    collapsed_eigenvalue,
    pairwise_separability,
    signal_after,
)


def class_labels(num_classes, per_class):
    return np.repeat(np.arange(num_classes), per_class)


# Locally elastic equations.


def plain_drift(kind, means, alpha, beta):
    """(1/K) Σ_l E_kl T_kl X_l, class by class."""
    num_classes = len(means)
    drift = np.zeros_like(means)
    for k in range(num_classes):
        for other in range(num_classes):
            moved = means[other]
            if kind == "L":
                direction = np.eye(num_classes)[other] - 1 / num_classes
                moved = direction * (direction @ moved) / (direction @ direction)
            drift[k] += (alpha if k == other else beta) / num_classes * moved
    return drift


def random_sde(seed, kind):
    rng = np.random.default_rng(seed)
    num_classes = int(rng.integers(2, 6))
    (a, b), (r, s) = rng.normal(size=2), rng.uniform(0, 1.5, size=2)
    rates = {"alpha": lambda t: a * t**-r, "beta": lambda t: b * t**-s}
    initial = rng.normal(size=(num_classes, num_classes if kind == "L" else int(rng.integers(1, 5))))
    return LocallyElasticSDE(num_classes, kind=kind, **rates, start_time=1.0), initial


@pytest.mark.parametrize("kind", ["I", "L"])
def test_class_means_solve_the_equation(kind):
    for seed in range(4):
        sde, initial = random_sde(seed, kind)

        def slope(time, flat, sde=sde, shape=initial.shape):
            return plain_drift(sde.kind, flat.reshape(shape), sde.alpha(time), sde.beta(time)).ravel()

        expected = solve_ivp(slope, (1.0, 4.0), initial.ravel(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
        found = sde.class_means(torch.tensor(initial), 4.0).numpy()
        assert found == pytest.approx(expected.reshape(initial.shape), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("kind", ["I", "L"])
def test_the_separation_rate_is_that_of_differences(kind):
    """The slope of the logarithm of each difference of class means with constant rates: in the L-model, late."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        num_classes, (alpha, beta) = int(rng.integers(2, 6)), rng.uniform(-1, 1, size=2)
        sde = LocallyElasticSDE(num_classes, kind=kind, alpha=alpha, beta=beta)
        rate = sde.separation_rate(1.0)
        gamma = min(alpha - beta, alpha + (num_classes - 1) * beta)
        assert gamma <= rate + 1e-15
        if kind == "L" and (min(abs(beta), abs(alpha - beta), rate) < 0.2):
            continue  # both modes count for long, or the start does, which stays where it is
        initial = torch.tensor(rng.normal(size=(num_classes, num_classes)))
        late = [sde.class_means(initial, time).numpy() for time in ((3.0, 4.0) if kind == "I" else (400.0, 401.0))]
        gaps = [np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(num_classes, 1)] for means in late]
        assert num_classes * np.log(gaps[1] / gaps[0]) == pytest.approx(rate, rel=1e-6, abs=1e-9)


def test_the_second_mode_separates_no_two_classes_and_none_that_move_alike():
    """Hypotheses of the L-model's rate: three classes, and α ≠ β. Otherwise the second mode grows and differences do not."""
    three = LocallyElasticSDE(3, kind="L", alpha=0.1, beta=0.5)
    assert three.separation_rate(0.0) == pytest.approx(0.35)
    for sde in (LocallyElasticSDE(2, kind="L", alpha=0.1, beta=0.5), LocallyElasticSDE(3, kind="L", alpha=0.5, beta=0.5)):
        assert sde.separation_rate(0.0) == sde.alpha - 0.5
        initial = torch.tensor(np.random.default_rng(0).normal(size=(sde.num_classes,) * 2))
        late = sde.class_means(initial, 40.0)
        assert float(late.abs().max()) > 100
        assert float((late[0] - late[1]).abs().max()) < 10


@pytest.mark.parametrize("kind", ["I", "L"])
def test_classes_separate_though_the_papers_rate_is_small(kind):
    """Three classes, α - β = 1 and α + (K-1) β = t^-2: the paper's γ is o(1/t), and all classes separate."""

    def beta(time):
        return (time**-2 - 1) / 3

    sde = LocallyElasticSDE(3, kind=kind, alpha=lambda time: 1 + beta(time), beta=beta, start_time=1.0)
    assert min(1.0, sde.alpha(40.0) + 2 * sde.beta(40.0)) == pytest.approx(40**-2)
    assert sde.separation_rate(40.0) == pytest.approx(1.0)
    initial, times = torch.eye(3, dtype=torch.float64), torch.linspace(1, 25, 241, dtype=torch.float64)
    path = sde.simulate(initial, times, counts=(50,) * 3, noise=1.0, seed=0)
    assert pairwise_separability(path) > 0.99
    found = sde.solution(path).certificate.inequality
    assert found.holds
    assert "γ" not in str(found)


def test_separability_of_random_simulations():
    """Against Φ(distance / (2 σ √t)) at the means of a plain Euler scheme, over pairs of classes."""
    for seed in range(4):
        sde, initial = random_sde(seed, "I")
        times = np.linspace(1.0, 3.0, 101)
        path = sde.simulate(
            torch.tensor(3 * initial), torch.tensor(times), counts=(2000,) * sde.num_classes, noise=1.0, seed=seed
        )
        means = 3 * initial
        for before, after in itertools.pairwise(times):
            means = means + (after - before) * plain_drift("I", means, sde.alpha(before), sde.beta(before))
        assert path.means[-1].numpy() == pytest.approx(means, rel=1e-9, abs=1e-12)
        gaps = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(len(means), 1)]
        assert pairwise_separability(path) == pytest.approx(ndtr(gaps / (2 * math.sqrt(2))).mean(), abs=0.02)


# The central path.


def least_squares_loss(features, labels, num_classes):
    extended, targets = np.column_stack([features, np.ones(len(features))]), np.eye(num_classes)[labels]
    weight = np.linalg.lstsq(extended, targets, rcond=None)[0]
    return ((extended @ weight - targets) ** 2).sum() / (2 * len(features))


def class_parts(features, labels, num_classes):
    means = np.stack([features[labels == k].mean(axis=0) for k in range(num_classes)])
    return means - means.mean(axis=0), features - means[labels]


def test_signals_and_loss_of_random_central_paths():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        num_classes, per_class = int(rng.integers(2, 6)), int(rng.integers(3, 8))
        dim = int(rng.integers(1, num_classes * (per_class - 1) + 1))
        labels = class_labels(num_classes, per_class)
        features = rng.normal(size=(len(labels), dim)) + 3 * rng.normal(size=(num_classes, dim))[labels]
        model = CentralPath((per_class,) * num_classes, dim)
        means, deviations = class_parts(features, labels, num_classes)
        sizes = eigh(means.T @ means / num_classes, deviations.T @ deviations / len(labels), eigvals_only=True)
        expected = np.sqrt(np.clip(sizes[::-1], 0, None))[: min(num_classes - 1, dim)]
        signals = model.signals(torch.tensor(features)).numpy()
        assert signals == pytest.approx(expected, rel=1e-6)
        loss = least_squares_loss(features, labels, num_classes)
        assert float(model.objective({"features": torch.tensor(features)})) == pytest.approx(loss, rel=1e-9)
        missing = num_classes - 1 - len(signals)
        assert (missing + (1 / (1 + signals**2)).sum()) / (2 * num_classes) == pytest.approx(loss, rel=1e-9)
        assert model.certificate({}).lower_bound <= loss


def test_the_law_of_random_signals():
    """ω(t) against the integrated equation, and its first step against differences of the loss of least squares."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        num_classes, per_class, dim = int(rng.integers(2, 5)), int(rng.integers(3, 6)), int(rng.integers(1, 4))
        start, units, labels = rng.uniform(0.05, 3), num_classes**2 * per_class, class_labels(num_classes, per_class)
        counts = (per_class,) * num_classes
        law = solve_ivp(lambda _, w, u=units: w / (1 + w**2) ** 2 / u, (0, 500), [start], rtol=1e-11, atol=1e-12).y[0, -1]
        assert signal_after(start, 500.0, counts=counts) == pytest.approx(law, rel=1e-8)
        model = CentralPath(counts, dim)
        features = model.start(seed)["features"].numpy()
        gradient = np.zeros_like(features)
        for place in np.ndindex(*features.shape):
            step = np.zeros_like(features)
            step[place] = 1e-5
            up, down = (least_squares_loss(features + sign * step, labels, num_classes) for sign in (1, -1))
            gradient[place] = (up - down) / 2e-5
        _, deviations = class_parts(features, labels, num_classes)
        normals = []
        for i in range(dim):
            for j in range(i + 1):
                turn = np.zeros((dim, dim))
                turn[i, j] = turn[j, i] = 1
                normals.append((deviations @ turn).ravel())
        basis = np.array(normals).T
        tangent = gradient.ravel() - basis @ np.linalg.lstsq(basis, gradient.ravel(), rcond=None)[0]
        moved = features - 1e-3 * tangent.reshape(features.shape)
        before, after = (
            np.linalg.svd(class_parts(f, labels, num_classes)[0], compute_uv=False)[: min(num_classes - 1, dim)]
            / math.sqrt(num_classes)
            for f in (features, moved)
        )
        assert (after - before) / 1e-3 == pytest.approx(before / (1 + before**2) ** 2 / units, rel=1e-3)


# Gradient flow without decay.


def plain_flow(weight, features, bias, labels, times):
    """W, H, b along the gradient flow of the summed squared error, by SciPy."""
    (num_classes, dim), num_samples = weight.shape, len(labels)
    targets, cuts = np.eye(num_classes)[labels], [weight.size, weight.size + features.size]

    def parts(flat):
        first, second, third = np.split(flat, cuts)
        return first.reshape(num_classes, dim), second.reshape(num_samples, dim), third

    def slope(_, flat):
        w, h, b = parts(flat)
        residual = h @ w.T + b - targets
        return -np.concatenate([(residual.T @ h).ravel(), (residual @ w).ravel(), residual.sum(axis=0)])

    start = np.concatenate([weight.ravel(), features.ravel(), bias])
    found = solve_ivp(slope, (0, times[-1]), start, method="DOP853", t_eval=times, rtol=1e-10, atol=1e-11)
    return [parts(flat) for flat in found.y.T]


def test_the_flow_from_random_starts():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        num_classes, per_class = int(rng.integers(2, 5)), int(rng.integers(1, 5))
        dim = int(rng.integers(num_classes - 1, num_classes + 3))
        model = UnregularizedUFM((per_class,) * num_classes, dim)
        labels = class_labels(num_classes, per_class)
        size = 10 ** rng.uniform(-2, 0)
        start = {name: size * part for name, part in model.start(seed).items()}
        end = model.flow(start, duration=2.0, num_steps=600)
        weight, features, bias = plain_flow(*(start[name].numpy() for name in ("weight", "features", "bias")), labels, [2.0])[0]
        assert end.variables["weight"].numpy() == pytest.approx(weight, abs=1e-5)
        assert end.variables["features"].numpy() == pytest.approx(features, abs=1e-5)
        assert end.variables["bias"].numpy() == pytest.approx(bias, abs=1e-5)
        # On the invariant set every eigenvalue has the law, equal or not.
        turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:, : num_classes - 1]
        axes = np.linalg.qr(np.column_stack([np.ones(num_classes), rng.normal(size=(num_classes, num_classes - 1))]))[0][:, 1:]
        sizes, height = rng.uniform(0.01, 3, size=num_classes - 1), rng.normal()
        weight = (axes * np.sqrt(sizes)) @ turned.T
        inside = weight, weight[labels] / math.sqrt(per_class), np.full(num_classes, height)
        (weight, features, bias) = plain_flow(*inside, labels, [0.4])[0]
        expected = sorted(collapsed_eigenvalue(q, 0.4, counts=model.counts) for q in sizes)
        assert np.linalg.eigvalsh(weight @ weight.T)[1:] == pytest.approx(expected, rel=1e-6)
        assert bias == pytest.approx(np.full(num_classes, collapsed_bias(height, 0.4, counts=model.counts)), abs=1e-8)
        assert features == pytest.approx(weight[labels] / math.sqrt(per_class), abs=1e-8)
