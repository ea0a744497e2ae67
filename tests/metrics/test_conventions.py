"""What papers and their codes compute on classes of unequal size, against the convention of that name."""

import numpy as np
import pytest
import torch

from cases import CASES, PLAIN, layer_statistics, statistics_of
from ncollapse.metrics import METRICS, evaluate_metrics
from ncollapse.statistics import LinearClassifier
from ncollapse.statistics.conventions import CONVENTIONS

COUNTS = (9, 4, 2, 6)
K, D = len(COUNTS), 7


def data():
    generator = np.random.default_rng(7)
    y = np.repeat(np.arange(K), COUNTS)
    means = generator.normal(size=(K, D)) * 2 + 1
    H = means[y] + generator.normal(size=(len(y), D)) * 0.7
    return H, y, means + generator.normal(size=(K, D)), generator.normal(size=K)


H, Y, W, B = data()
N = len(Y)
M = np.stack([H[Y == c].mean(axis=0) for c in range(K)])


def ours(convention, features=H, labels=Y, bias=B):
    head = LinearClassifier(torch.tensor(W), torch.tensor(bias))
    statistics = layer_statistics(torch.tensor(features), torch.tensor(labels), K, head, convention=convention)
    return {value.metric: value.value for value in evaluate_metrics(statistics, PLAIN)}


def sum_of_squares_within():
    """Σ over samples of (h - μ)(h - μ)ᵀ."""
    return sum(np.outer(h - M[c], h - M[c]) for h, c in zip(H, Y, strict=True))


def coherence(V):
    """Mean of |G_kl| over pairs after 1/(C-1) was added, as the notebook sums it."""
    G = V @ V.T + np.ones((K, K)) / (K - 1)
    G = G - np.diag(np.diag(G))
    return np.abs(G).sum() / (K * (K - 1))


def notebook():
    """Papyan, Han & Donoho's notebook: Σ_W over all samples, the mean of class means, torch.std, no 1/C, squared NC3."""
    Sw = sum_of_squares_within() / N
    muG = M.mean(axis=0)
    M_ = M - muG
    Sb = M_.T @ M_ / K
    vectors, values, _ = np.linalg.svd(Sb)
    inverse = sum(np.outer(vectors[:, j], vectors[:, j]) / values[j] for j in range(K - 1))
    M_norms, W_norms = np.linalg.norm(M_, axis=1), np.linalg.norm(W, axis=1)
    net = (H @ W.T + B).argmax(axis=1)
    ncc = np.array([np.linalg.norm(h - M, axis=1).argmin() for h in H])
    return {
        "nc1": np.trace(Sw @ inverse),
        "nc2_equinorm": M_norms.std(ddof=1) / M_norms.mean(),
        "nc2_equinorm_weights": W_norms.std(ddof=1) / W_norms.mean(),
        "nc2_max_angle": coherence(M_ / M_norms[:, None]),
        "nc2_max_angle_weights": coherence(W / W_norms[:, None]),
        "nc3": np.linalg.norm(W / np.linalg.norm(W) - M_ / np.linalg.norm(M_)) ** 2,
        "nc4_mismatch": 1 - np.mean(net == ncc),
        "accuracy": np.mean(net == Y),
    }


def zhu():
    """Zhu et al.'s code: the global mean is that of all samples, also in NC3; Σ_B with 1/K; W is not centered."""
    mu_G = H.mean(axis=0)
    Sigma_W = sum_of_squares_within() / N
    Sigma_B = sum(np.outer(mu - mu_G, mu - mu_G) for mu in M) / K
    frame = (np.eye(K) - np.ones((K, K)) / K) / np.sqrt(K - 1)
    WWT, WH = W @ W.T, W @ (M - mu_G).T
    return {
        "nc1": np.trace(Sigma_W @ np.linalg.pinv(Sigma_B, rcond=1e-12)) / K,
        "nc2_etf_weights": np.linalg.norm(WWT / np.linalg.norm(WWT) - frame),
        "nc3_etf": np.linalg.norm(WH / np.linalg.norm(WH) - frame),
        "nc3_bias": np.linalg.norm(W @ mu_G + B),
    }


def accumulating_library():
    """The library with ``accumulate``: mean of class means, covariance over samples; its kernel statistics are squared."""
    m_G = sum(M) / K
    V_intra = sum_of_squares_within() / N
    centered = M - m_G
    V_inter = centered.T @ centered / K
    frame = np.eye(K) / np.sqrt(K - 1) - np.ones((K, K)) / K / np.sqrt(K - 1)
    outer, cross = centered @ centered.T, W @ centered.T
    units = centered / np.linalg.norm(centered, axis=1)[:, None]
    kernel = np.array([-np.log(np.linalg.norm(units[i] - units[j])) for i in range(K) for j in range(i + 1, K)])
    cosines = [w @ u / np.linalg.norm(w) for w, u in zip(W, units, strict=True)]
    variances = [sum(np.sum((h - M[c]) ** 2) for h in H[Y == c]) / COUNTS[c] for c in range(K)]
    pairs = [(i, j) for i in range(K) for j in range(i + 1, K)]
    return {
        "nc1": np.trace(np.linalg.pinv(V_inter, rcond=1e-12) @ V_intra) / K,
        "pfc1": np.trace(V_intra) / np.trace(V_inter),
        "cdnv": np.mean([(variances[i] + variances[j]) / 2 / np.sum((M[i] - M[j]) ** 2) for i, j in pairs]),
        "pfc2": np.linalg.norm(outer / np.linalg.norm(outer) - frame),
        "nc3_etf": np.linalg.norm(cross / np.linalg.norm(cross) - frame),
        "gnc2": np.sqrt(np.mean((kernel - kernel.mean()) ** 2)),
        "hyperspherical_energy": kernel.mean(),
        "unc3": np.std(cosines),
    }


def galanti():
    """Galanti's code: E h² - |E h|² by class, half the sum of two variances over the squared distance, mean over pairs."""
    variances = [np.sum(H[Y == c] ** 2) / COUNTS[c] - np.sum(M[c] ** 2) for c in range(K)]
    pairs = [(i, j) for i in range(K) for j in range(i + 1, K)]
    return {"cdnv": sum((variances[i] + variances[j]) / 2 / np.linalg.norm(M[i] - M[j]) ** 2 for i, j in pairs) / len(pairs)}


def text_of_papyan():
    """The text of Papyan et al.: Ave over samples i and classes c for μ_G and Σ_W, over classes for Σ_B and in NC2.

    Read from quotations of its formulas in public code, such as Σ_B = Ave_c (μ_c - μ_G)(μ_c - μ_G)ᵀ; not from the paper itself.
    """
    mu_G = np.mean(H, axis=0)
    centered = M - mu_G
    lengths = np.linalg.norm(centered, axis=1)
    Sigma_W = np.mean([np.outer(h - M[c], h - M[c]) for h, c in zip(H, Y, strict=True)], axis=0)
    Sigma_B = np.mean([np.outer(m, m) for m in centered], axis=0)
    cosines = [
        centered[c] @ centered[e] / (lengths[c] * lengths[e]) for c in range(K) for e in range(K) if c != e
    ]  # fmt: skip
    return {
        "nc1": np.trace(Sigma_W @ np.linalg.pinv(Sigma_B, rcond=1e-12)) / K,
        "nc2_equinorm": np.std(lengths) / np.mean(lengths),
        "nc2_equiangularity": np.std(cosines),
        "nc2_max_angle": np.mean([abs(cosine + 1 / (K - 1)) for cosine in cosines]),
        "nc3": np.sum((W / np.linalg.norm(W) - centered / np.linalg.norm(centered)) ** 2),
    }


def ratio_of_hui(center):
    """Hui et al., section 3.1: E |h - μ_y|² over samples, by E_i |μ_i - μ|² over classes, as quoted in public code.

    They have equal counts. What μ is on unequal ones is open: the mean of samples ("zhu") or of class means ("papyan").
    """
    within = np.mean([np.sum((h - M[c]) ** 2) for h, c in zip(H, Y, strict=True)])
    return {"pfc1": within / np.mean([np.sum((mu - center) ** 2) for mu in M])}


@pytest.mark.parametrize(("convention", "published"), [
    ("papyan_notebook", notebook), ("zhu", zhu), ("papyan", accumulating_library), ("zhu", text_of_papyan),
    ("zhu", lambda: ratio_of_hui(H.mean(axis=0))), ("papyan", lambda: ratio_of_hui(M.mean(axis=0))),
    *((name, galanti) for name in CONVENTIONS),
])  # fmt: skip
def test_a_convention_is_what_was_published(convention, published):
    found = ours(convention)
    for id, value in published().items():
        assert found[id] == pytest.approx(value, rel=1e-9), id


def test_the_librarys_agreement_leaves_the_bias_out():
    decided = (H @ W.T).argmax(axis=1)
    nearest = np.array([np.sum((h - M) ** 2, axis=1).argmin() for h in H])
    assert ours("papyan", bias=0 * B)["nc4"] == pytest.approx(np.mean(decided == nearest))


def test_what_each_convention_moves_on_unequal_counts():
    """Against the default; PFC2 and CDNV are the same in all, and rows of the classifier are never centered."""
    plain = ours("class")
    moved = {
        name: {id for id, value in ours(name).items() if value != pytest.approx(plain[id], rel=1e-9, nan_ok=True)}
        for name in CONVENTIONS
    }
    means = {"nc2_equinorm", "nc2_equiangularity", "nc2_max_angle", "gnc2", "hyperspherical_energy", "log_equinorm"}
    duality = {"nc3", "nc3_etf", "unc3", "nc3_bias"}
    within = {"pfc1", "nc1", "nc1_total", "strong_collapse", "weak_collapse"}
    spectrum = {"stable_rank_between", "participation_ratio_between", "entropy_rank_between"}
    assert moved["class"] == set()
    assert moved["papyan"] == within
    assert moved["papyan_notebook"] == within | {"nc2_equinorm", "nc2_equinorm_weights"}
    assert moved["zhu"] == moved["sample"] == moved["he_su"] == within | means | duality | spectrum


def on_equal_counts(convention):
    values = evaluate_metrics(statistics_of(CASES["balanced"], convention=convention), PLAIN)
    return {value.metric: value.value for value in values}


@pytest.mark.parametrize("convention", ["sample", "papyan", "zhu", "he_su"])
def test_all_agree_on_equal_counts(convention):
    assert on_equal_counts(convention) == pytest.approx(on_equal_counts("class"), rel=1e-12)


def test_the_notebook_differs_by_known_factors_on_equal_counts():
    factors = {"nc1": 4, "nc2_equinorm": np.sqrt(4 / 3), "nc2_equinorm_weights": np.sqrt(4 / 3)}
    expected = {id: value * factors.get(id, 1) for id, value in on_equal_counts("class").items()}
    assert on_equal_counts("papyan_notebook") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("convention", "flags"), [("class", ("odd_on_line",)), ("zhu", ())])
def test_means_on_a_line_can_balance_around_the_mean_of_samples(convention, flags):
    """Two classes of one sample at -1 and one of two at 1: equal norms around the mean of samples, not around the other."""
    statistics = layer_statistics(
        torch.tensor([[-1.0], [-1.0], [1.0], [1.0]]), torch.tensor([0, 1, 2, 2]), 3, convention=convention
    )
    (value,) = evaluate_metrics(statistics, [METRICS["nc2_equinorm"]])
    assert value.flags == flags
    assert (value.value == pytest.approx(0, abs=1e-15)) == (convention == "zhu")
