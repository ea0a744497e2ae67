"""CDNV of a population and its interval: coverage on known populations, the extreme of the region, and limits."""

import math

import numpy as np
import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.metrics import cdnv as plain_cdnv
from ncollapse.metrics import distance_estimates
from ncollapse.metrics.distance_estimates import cdnv, cdnv_high, cdnv_low
from ncollapse.metrics.population import Population
from ncollapse.probe import measure_features
from ncollapse.statistics import ClassMoments, ClassParts


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def population(features, labels, num_classes):
    parts = ClassParts.from_batch(features, labels, num_classes)
    return Population.from_parts(ClassMoments.from_batch(features, labels, num_classes), parts)


def draw(means, n, seed):
    labels = torch.arange(n * len(means)) % len(means)
    return population(means[labels] + normal(seed, len(labels), means.shape[1]), labels, len(means))


def true_cdnv(means):
    exact = ClassMoments(torch.ones(len(means), dtype=torch.int64), means, torch.full((len(means),), float(means.shape[1])))
    return float(plain_cdnv(exact))


def class_means(kind):
    if kind == "frame":
        return 0.9 * simplex_etf(6, 60) * math.sqrt(6)
    means = 0.3 * normal(7, 6, 60)
    if kind == "close":
        means[1] = means[0] + 0.05 * normal(8, 60)
    return means


# Of the close pair no number of samples here tells that it is apart. Of the others 100 per class do.
@pytest.mark.parametrize(("n", "kind"), [(20, "frame"), (20, "any"), (20, "close"), (100, "any"), (100, "close")])
def test_the_interval_covers(n, kind):
    means, covered, bounded = class_means(kind), 0, 0
    truth = true_cdnv(means)
    for seed in range(100):
        p = draw(means, n, 1000 * n + seed)
        low, high = cdnv_low(p), cdnv_high(p)
        covered += float(low.value) <= truth <= float(high.value)
        bounded += math.isfinite(high.value)
        assert math.isinf(high.value) == ("unbounded" in high.flags)
    assert covered >= 90
    assert bounded <= 10 if kind == "close" else bounded >= (90 if n == 100 else 20)


def largest_of_many(p, directions):
    """The largest CDNV over random points of the region, from jackknife replicates written out pair by pair."""
    K = p.num_classes
    pairs = [(k, j) for k in range(K) for j in range(k)]
    gram = p.gram.numpy()
    squares = np.array([gram[k, k] + gram[j, j] - 2 * gram[k, j] for k, j in pairs])
    replicates, overlap = np.zeros((4, K, len(pairs) + K)), p.noise_overlap.numpy()
    for part in range(4):
        for k in range(K):
            for i, pair in enumerate(pairs):
                if k in pair:
                    other = pair[0] + pair[1] - k
                    step = 2 * (p.means[k] - p.means[other]) @ p.shifts[part, k]
                    replicates[part, k, i] = step + p.shifts[part, k].square().sum() - p.noise_shifts[part, k]
            replicates[part, k, len(pairs) + k] = p.variance_shifts[part, k]
    replicates -= replicates.mean(axis=0)
    for i, (k, j) in enumerate(pairs):
        variance = 0.75 * np.sum(replicates[:, :, i] ** 2)
        noise = variance - 2 * (overlap[k, k] + overlap[j, j] + 2 * overlap[k, j])
        replicates[:, :, i] *= np.sqrt(max(noise, variance / 2) / variance)
    best = -math.inf
    for direction in directions:
        along = replicates @ direction
        by_class = 0.75 * np.sum(along**2, axis=0)
        freedom = 3 * by_class.sum() ** 2 / np.sum(by_class**2)
        # Student's quantile to the second order of 1/freedom.
        quantile = 1.96 + 2.372 / freedom + 2.823 / freedom**2
        point = 0.75 * quantile / np.sqrt(by_class.sum()) * np.einsum("pk,pki->i", along, replicates)
        distances, variances = squares + point[: len(pairs)], p.variances.numpy() + point[len(pairs) :]
        value = math.inf if distances.min() <= 0 else np.mean([
            (variances[k] + variances[j]) / 2 / distance for (k, j), distance in zip(pairs, distances, strict=True)
        ])  # fmt: skip
        best = max(best, value)
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_upper_end_is_the_largest_value_of_the_region(seed):
    p = draw(1.2 * normal(seed, 3, 12), 40, seed)
    directions = np.random.default_rng(seed).normal(size=(4000, 6)) * np.array([1, 1, 1, 0.3, 0.3, 0.3])
    assert float(cdnv_high(p).value) == pytest.approx(largest_of_many(p, directions), rel=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_many_samples_give_an_interval_of_two_standard_errors_each_way(seed):
    p = draw(2 * normal(seed, 5, 30), 4000, seed)
    estimate, low, high = cdnv(p), float(cdnv_low(p).value), float(cdnv_high(p).value)
    error = float(estimate.standard_error)
    assert (high - float(estimate.value)) / error == pytest.approx(2.1, abs=0.2)
    assert (float(estimate.value) - low) / error == pytest.approx(2.1, abs=0.2)


def test_without_noise_the_interval_is_a_point():
    labels = torch.arange(24) % 3
    p = population(normal(0, 3, 4)[labels], labels, 3)
    assert [float(f(p).value) for f in (cdnv_low, cdnv, cdnv_high)] == [0.0] * 3


def test_two_means_that_coincide_leave_no_error_and_no_upper_bound():
    means = 2 * normal(4, 6, 60)
    means[3] = means[0]
    labels = torch.arange(180) % 6
    for seed in range(20):
        m = measure_features(
            means[labels] + normal(seed, 180, 60), labels, num_classes=6, metrics=["cdnv.population", "cdnv.low", "cdnv.high"]
        )
        estimate, low, high = m.rows
        assert (estimate.standard_error, estimate.flags) == (None, ("unresolved",))
        assert 0 < low.value < math.inf == high.value
        assert high.flags == ("unbounded",)


def test_noise_alone_has_no_interval():
    labels, undefined = torch.arange(50) % 10, 0
    for seed in range(20):
        m = measure_features(normal(seed, 50, 200), labels, num_classes=10, metrics=["cdnv.low", "cdnv.high"])
        low, high = m.rows
        undefined += low.flags == high.flags == ("noise_only",)
        assert math.isnan(low.value) == math.isnan(high.value)
        assert math.isnan(high.value) or math.isinf(high.value)
    assert undefined >= 5


def test_features_at_one_point_have_no_interval():
    p = population(torch.ones(40, 3), torch.arange(40) % 5, 5)
    assert all(ends(p).flags == ("noise_only",) for ends in (cdnv_low, cdnv, cdnv_high))


@pytest.mark.parametrize("scale", [0.3, 0.8])
def test_the_lower_end_is_a_tangent_less_what_its_place_owes_to_the_same_noise(scale, monkeypatch):
    monkeypatch.setattr(distance_estimates, "_quantile", lambda by_class: torch.zeros(()))
    p = draw(scale * normal(0, 6, 60), 30, 5)
    k, j = np.triu_indices(6, 1)
    gram, variances = p.gram.numpy(), p.variances.numpy()
    squares, noise = gram[k, k] + gram[j, j] - 2 * gram[k, j], distance_estimates._distance_noise(p).numpy()[k, j]
    kept = max(0, 1 - noise.mean() / squares.var())

    def place(squares):
        # Where the tangent touches: 1/D̂ without noise, and never negative.
        near = squares.mean() * (1 - kept) + kept * squares
        return 2 / (near + np.sqrt(near**2 + 4 * kept * noise))

    def moved(by):
        return np.array([place(squares + by * (np.arange(15) == pair) - by / 15)[pair] for pair in range(15)])

    a, step = place(squares), 1e-6
    # Of one distance alone, the mean of all held where it is.
    slope = (moved(step) - moved(-step)) / (2 * step * 14 / 15)
    expected = ((variances[k] + variances[j]) / 2 * (2 * a - a**2 * squares + 2 * noise * a * slope)).mean()
    assert 0.2 < kept < 1
    assert float(cdnv_low(p).value) == pytest.approx(expected, rel=1e-7)
