"""Estimates for a population: against plain NumPy on the same samples, and against the truth over many draws."""

import math

import numpy as np
import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.metrics import population_metrics
from ncollapse.metrics.population import Population, jackknife
from ncollapse.metrics.population_metrics import within_between
from ncollapse.probe import measure_features
from ncollapse.statistics import ClassMoments, ClassParts
from ncollapse.statistics.conventions import CONVENTIONS


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(seed, counts, dim, spread=2.0):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    return spread * normal(99, len(counts), dim)[labels] + normal(seed, len(labels), dim), labels


def population(features, labels, num_classes, convention="class"):
    moments = ClassMoments.from_batch(features, labels, num_classes)
    return Population.from_parts(moments, ClassParts.from_batch(features, labels, num_classes), convention)


def unbiased(H, y, K, convention="class"):
    """tr Σ_W and tr Σ_B by definition: variances over n-1, and the noise of the means subtracted term by term."""
    parts = CONVENTIONS[convention]
    n = np.array([np.sum(y == k) for k in range(K)])

    def weights(name):
        return n / n.sum() if name == "sample" else np.full(K, 1 / K)

    alpha, beta, omega = weights(parts.between), weights(parts.center), weights(parts.within)
    means = np.stack([H[y == k].mean(axis=0) for k in range(K)])
    variances = np.array([np.sum((H[y == k] - means[k]) ** 2) / (n[k] - 1) for k in range(K)])
    between = 0.0
    for k in range(K):
        offset = means[k] - beta @ means
        noise = sum(((j == k) - beta[j]) ** 2 * variances[j] / n[j] for j in range(K))
        between += alpha[k] * (offset @ offset - noise)
    return omega @ variances, between


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("counts", [(6, 6, 6, 6), (2, 9, 5, 14)])
def test_pfc1_is_the_ratio_of_unbiased_traces(convention, counts):
    features, labels = data(0, counts, 7)
    within, between = unbiased(features.numpy(), labels.numpy(), 4, convention)
    m = measure_features(features, labels, num_classes=4, convention=convention, metrics=["pfc1.population"])
    assert m.value("pfc1.population") == pytest.approx(within / between, rel=1e-12)


@pytest.mark.parametrize("counts", [(8, 8, 8), (4, 9, 13)])
def test_the_squared_norm_is_the_mean_of_products_of_four_parts(counts):
    features, labels = data(1, counts, 5)
    H, y, K = features.numpy(), labels.numpy(), len(counts)
    parts = np.stack([np.stack([H[y == k][p::4].mean(axis=0) for k in range(K)]) for p in range(4)])
    parts = parts - parts.mean(axis=1, keepdims=True)
    products = []
    for a, b, c, d in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2)):
        left, right = parts[a] @ parts[b].T, parts[c] @ parts[d].T
        products.append(np.sum((left + left.T) / 2 * (right + right.T) / 2))
    p = population(features, labels, K)
    assert float(p.squared_norm(p.centering)[0]) == pytest.approx(np.mean(products), rel=1e-11)


@pytest.mark.parametrize("counts", [(8, 8, 8), (3, 9, 13)])
def test_the_error_of_a_trace_is_that_of_real_deletions(counts):
    features, labels = data(2, counts, 5)
    K, changes = len(counts), np.zeros((4, len(counts)))
    whole = unbiased(features.numpy(), labels.numpy(), K)[1]
    for k in range(K):
        mine = (labels == k).nonzero().flatten()
        for part in range(4):
            kept = torch.ones(len(labels), dtype=torch.bool)
            kept[mine[part::4]] = False
            changes[part, k] = unbiased(features[kept].numpy(), labels[kept].numpy(), K)[1] - whole
    p = population(features, labels, K)
    estimate = p.estimate(lambda gram, _: p.between(gram))
    assert float(estimate.value) == pytest.approx(whole, rel=1e-12)
    assert float(estimate.standard_error) == pytest.approx(float(jackknife(torch.tensor(changes))), rel=1e-10)


def draws(means, n, number):
    labels = torch.arange(n * len(means)) % len(means)
    for seed in range(number):
        yield means[labels] + normal(seed, len(labels), means.shape[1]), labels


@pytest.mark.parametrize("n", [5, 20])
def test_traces_and_norm_have_the_right_mean(n):
    means = 0.25 * normal(5, 6, 3) @ torch.linalg.qr(normal(6, 60, 3))[0].T * math.sqrt(60)
    means = means - means.mean(dim=0)
    exact = {"within": 60.0, "between": float(means.square().sum() / 6), "norm": float((means @ means.T).square().sum())}
    found = {name: [] for name in exact}
    for features, labels in draws(means, n, 300):
        p = population(features, labels, 6)
        found["within"].append(float(p.within(p.variances)))
        found["between"].append(float(p.between(p.gram)))
        found["norm"].append(float(p.squared_norm(p.centering)[0]))
    for name, values in found.items():
        error = np.std(values, ddof=1) / math.sqrt(300)
        assert np.mean(values) == pytest.approx(exact[name], abs=3 * error), name


@pytest.mark.parametrize(("n", "kind"), [(20, "frame"), (100, "any")])
def test_the_interval_of_pfc1_covers(n, kind):
    means = 0.9 * simplex_etf(6, 60) * math.sqrt(6) if kind == "frame" else 0.3 * normal(7, 6, 60)
    means, covered = means - means.mean(dim=0), 0
    truth = 60.0 / float(means.square().sum() / 6)
    for features, labels in draws(means, n, 200):
        p = population(features, labels, 6)
        estimate = within_between(p)
        covered += abs(float(estimate.value) - truth) <= 1.96 * float(estimate.standard_error)
    assert covered >= 180


def test_pure_noise_has_no_signal_to_estimate():
    undefined, bounded = 0, 0
    for features, labels in draws(torch.zeros(10, 200).double(), 5, 20):
        rows = {row.metric: row for row in measure_features(features, labels, num_classes=10, metrics="population").rows}
        pfc1 = rows["pfc1.population"]
        undefined += pfc1.flags == ("noise_only",)
        bounded += not math.isnan(pfc1.value) and pfc1.value - 1.96 * pfc1.standard_error > 20
        assert rows["rank_between.population"].value <= 2
    assert undefined >= 5
    assert bounded <= 2


def test_a_trace_or_a_norm_below_zero_is_noise_alone():
    seen = set()
    for features, labels in draws(0.15 * normal(8, 6, 30), 8, 60):
        p = population(features, labels, 6)
        signs = float((p.centering * p.gram).sum()) > 0, float(p.squared_norm(p.centering)[0]) > 0
        rows = measure_features(features, labels, num_classes=6, metrics="population").rows
        flags = {row.metric: row.flags for row in rows}
        for name in ("pfc2.population", "participation_ratio_between.population"):
            assert (flags[name] == ("noise_only",)) == (signs != (True, True)), signs
        seen.add(signs)
    assert seen >= {(True, True), (True, False), (False, True)}


def test_nc1_tells_of_every_direction_that_noise_hides():
    flat = 5 * normal(3, 4, 2) @ torch.eye(2, 12, dtype=torch.float64)
    for means, flags in ((5 * normal(3, 4, 12), ()), (flat, ("unresolved",))):
        ((features, labels),) = draws(means, 200, 1)
        (row,) = measure_features(features, labels, num_classes=4, metrics=["nc1.population"]).rows
        assert row.flags == flags


@pytest.mark.parametrize("convention", ["class", "papyan_notebook"])
def test_large_samples_give_the_plain_values(convention):
    means = 5 * normal(3, 5, 12)
    ((features, labels),) = draws(means, 20000, 1)
    m = measure_features(features, labels, num_classes=5, metrics=["all", "population"], convention=convention)
    rows = {row.metric: row for row in m.rows}
    for name in ("pfc1", "pfc2", "nc1", "cdnv", "nc2_equinorm", "nc2_equiangularity", "participation_ratio_between"):
        row = rows[f"{name}.population"]
        assert row.value == pytest.approx(rows[name].value, rel=2e-2), name
        assert 0 < row.standard_error < 0.1 * row.value, name
    assert rows["rank_between.population"].value == rows["rank_between"].value == 4


def test_few_samples_and_many_classes_are_refused_with_a_flag():
    features, labels = data(0, (3, 5, 5), 6)
    rows = {row.metric: row for row in measure_features(features, labels, num_classes=3, metrics="population").rows}
    assert rows["pfc2.population"].flags == rows["participation_ratio_between.population"].flags == ("few_samples",)
    assert not math.isnan(rows["pfc1.population"].value)
    single = measure_features(*data(0, (1, 5, 5), 6), num_classes=3, metrics=["pfc1.population"]).rows[0]
    assert math.isnan(single.value)
    assert single.flags == ("single_samples",)
    many = measure_features(normal(0, 2200, 2), torch.arange(2200) % 1100, num_classes=1100, metrics=["cdnv.population"]).rows[
        0
    ]
    assert (math.isnan(many.value), many.flags) == (True, ("many_classes",))


def test_a_standard_error_is_a_column_of_the_table():
    m = measure_features(*data(0, (9, 9, 9), 6), num_classes=3, metrics=["pfc1", "pfc1.population"])
    errors = {row.metric: row.standard_error for row in m.rows}
    assert errors["pfc1"] is None
    assert errors["pfc1.population"] > 0


def test_standard_errors_are_the_spread_over_draws():
    # That of NC1 leaves out the error of Σ_W, which is most of it here.
    names = ["pfc1", "pfc2", "cdnv", "nc2_equinorm", "nc2_equiangularity", "participation_ratio_between"]
    names = [f"{name}.population" for name in names]
    means, labels = 4 * normal(0, 5, 8), torch.arange(400) % 5
    draws = [
        measure_features(means[labels] + normal(seed, 400, 8), labels, num_classes=5, metrics=names) for seed in range(1, 101)
    ]
    for name in names:
        rows = [next(row for row in m.rows if row.metric == name) for m in draws]
        spread = torch.tensor([row.value for row in rows]).std()
        # Of a hundred draws it is known to 7 percent, and an error from four parts of five classes to a fifth.
        assert sum(row.standard_error for row in rows) / len(rows) == pytest.approx(float(spread), rel=0.25), name


def test_directions_are_counted_by_the_jackknife_of_their_eigenvalues(monkeypatch):
    features, labels = data(3, (80, 90, 100, 110), 6)
    p = population(features, labels, 4)

    def eigenvalues(means, noise):
        return torch.linalg.eigvalsh(p.weighting @ (means @ means.T - torch.diag(noise)) @ p.weighting.T)

    noise, changes = p.variances / p.counts, torch.zeros(4, 4, 4, dtype=torch.float64)
    whole = eigenvalues(p.means, noise)
    for part in range(4):
        for k in range(4):
            is_left_out = (torch.arange(4) == k).double()
            moved = p.means + is_left_out.unsqueeze(1) * p.shifts[part]
            changes[part, k] = eigenvalues(moved, noise + is_left_out * p.noise_shifts[part]) - whole
    errors = jackknife(changes)
    for index in (1, 2, 3):
        for share in (0.9, 1.1):
            monkeypatch.setattr(population_metrics, "RESOLVED", share * float(whole[index] / errors[index]))
            counted = float(population_metrics.resolved_rank(p).value)
            expected = int((whole[1:] > share * whole[index] / errors[index] * errors[1:]).sum())
            assert counted == expected, (index, share)
