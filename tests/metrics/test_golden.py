"""Golden numbers: deterministic features, values printed to ten digits by an independent program."""

import math

import pytest
import torch

from cases import layer_statistics
from ncollapse.metrics import METRICS, equinorm, evaluate_metrics, within_between_ratio
from ncollapse.statistics import ClassScatter, LinearClassifier, PairedMoments

COUNTS = {"bal": (4, 4, 4), "imb": (6, 4, 2)}


def golden_features(counts):
    """H0, H1 and the labels of the deterministic data: d = 5, K = 3, labels sorted."""
    y = [k for k, n in enumerate(counts) for _ in range(n)]
    h0 = [[math.sin(1 + i + 2 * j + 0.5 * i * j) + 0.8 * (j == y[i]) for j in range(5)] for i in range(len(y))]
    h1 = [
        [0.3 * math.cos(0.5 + 2 * i + j + 0.3 * i * j) + 2 * ((j == y[i]) - (j < 3) / 3) for j in range(5)]
        for i in range(len(y))
    ]
    return torch.tensor(h0, dtype=torch.float64), torch.tensor(h1, dtype=torch.float64), torch.tensor(y)


def golden_classifier():
    weight = [[0.2 * math.sin(2 + 3 * k + j) + (j == k) for j in range(5)] for k in range(3)]
    bias = [0.1 * k for k in range(3)]
    return LinearClassifier(torch.tensor(weight, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64))


def golden_statistics(counts, layer, convention="class"):
    h0, h1, y = golden_features(COUNTS[counts])
    return layer_statistics((h0, h1)[layer], y, 3, golden_classifier(), convention=convention)


def metric(id, convention="class", factor=1.0):
    def value(statistics):
        (result,) = evaluate_metrics(statistics(convention), [METRICS[id]])
        return factor * result.value

    return value


# (quantity, how it is computed, balanced H0, balanced H1, imbalanced H0, imbalanced H1)
TABLE = [
    (
        "tr within, class weights", lambda s: s().moments.within_trace(),
        2.5233728786, 0.1771125627, 2.3491281894, 0.1629010276,
    ),
    (
        "tr between, class weights", lambda s: s().moments.between_trace(),
        0.8480738092, 2.8136558879, 1.0482665737, 2.5657843366,
    ),
    ("pfc1, class weights", metric("pfc1"), 2.9754165865, 0.0629474853, 2.2409645107, 0.0634897584),
    ("pfc1, sample weights", metric("pfc1", "sample"), 2.9754165865, 0.0629474853, 3.2277778012, 0.0728593058),
    (
        "pfc1, he_su", lambda s: within_between_ratio(s().moments, "he_su"),
        2.9754165865, 0.0629474853, 3.2277778012, 0.0728593058,
    ),
    # tr(Σ_W Σ_B⁺) itself, without 1/K.
    ("K nc1, class weights", metric("nc1", factor=3), 2.5600000740, 0.0863068959, 2.0679797857, 0.0905114039),
    ("K nc1, sample weights", metric("nc1", "sample", 3), 2.5600000740, 0.0863068959, 2.4855779654, 0.1127785904),
    ("separation", metric("separation"), 2.5600000740, 0.0863068959, 2.4855779654, 0.1127785904),
    ("pfc2", metric("pfc2"), 0.4448997512, 0.0655777999, 0.5514911825, 0.1343945469),
    ("equinorm", metric("nc2_equinorm"), 0.1888680621, 0.0231944418, 0.2174284886, 0.0487105757),
    (
        "equinorm, ddof 1", lambda s: equinorm(s().centered_means, ddof=1),
        0.2313151904, 0.0284072736, 0.2662944263, 0.0596580278,
    ),
    ("equiangularity", metric("nc2_equiangularity"), 0.2205891076, 0.0350778359, 0.4418288478, 0.0688009859),
    ("max angle", metric("nc2_max_angle"), 0.2148140950, 0.0300472314, 0.3999095295, 0.0643890953),
    ("nc2_etf of the weights", metric("nc2_etf_weights"), 0.6649172399, 0.6649172399, 0.6649172399, 0.6649172399),
    ("nc3 of Zhu", metric("nc3_etf"), 0.5728176552, 0.2874050484, 0.7862732179, 0.3258022606),
    ("nc3 of Papyan, squared", metric("nc3"), 0.6829011364, 0.4633551330, 0.9161468741, 0.4783687779),
    ("nc3 cosine", metric("nc3_cosine"), 0.5803665490, 0.2525578880, 0.6269559959, 0.2235165041),
    ("nearest-center accuracy", metric("pfc3"), 0.75, 1.0, 0.8333333333, 1.0),
    ("nearest-center error", metric("pfc3_error"), 0.25, 0.0, 0.1666666667, 0.0),
    ("nc4, with bias", metric("nc4"), 0.9166666667, 1.0, 0.6666666667, 1.0),
    ("nc4 mismatch", metric("nc4_mismatch"), 0.0833333333, 0.0, 0.3333333333, 0.0),
    ("linear accuracy", metric("accuracy"), 0.6666666667, 1.0, 0.5833333333, 1.0),
    ("cdnv", metric("cdnv"), 1.0987528494, 0.0209863564, 1.0902923847, 0.0211784484),
    ("stable rank", metric("stable_rank_total"), 3.2010772847, 1.9336512935, 3.7310994396, 1.5542063686),
    ("participation ratio", metric("participation_ratio_total"), 4.5139952368, 2.0719351629, 4.7036992143, 1.9020210469),
    ("entropy rank", metric("entropy_rank_total"), 4.7455225998, 2.1878171309, 4.8400141106, 2.1112423192),
]  # fmt: skip


@pytest.mark.parametrize("column", range(4), ids=["bal-H0", "bal-H1", "imb-H0", "imb-H1"])
@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_single_layer_value(row, column):
    _, compute, *expected = row
    counts, layer = ("bal", "imb")[column // 2], column % 2

    def statistics(convention="class"):
        return golden_statistics(counts, layer, convention)

    # Printed with ten decimals.
    assert float(compute(statistics)) == pytest.approx(expected[column], abs=6e-11, rel=0)


@pytest.mark.parametrize(("counts", "cross", "between"), [
    ("bal", 0.0994960436, 1.4377210672),
    ("imb", 0.1152822764, 1.4386236622),
])  # fmt: skip
def test_cross_traces_of_two_layers(counts, cross, between):
    h0, h1, y = golden_features(COUNTS[counts])
    paired = PairedMoments.from_batch(h0, h1, y, 3)
    assert float(paired.within_cross_trace()) == pytest.approx(cross, abs=6e-11, rel=0)
    # The cross covariance of the class means follows from the means of both layers (b_1).
    product = (paired.first.centered_means() * paired.last.centered_means()).sum() / 3
    assert float(product) == pytest.approx(between, abs=6e-11, rel=0)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("counts", COUNTS)
def test_total_is_within_plus_between(counts, weights):
    h0, _, y = golden_features(COUNTS[counts])
    scatter = ClassScatter.from_batch(h0, y, 3)
    total = scatter.total_covariance(weights)
    alpha = scatter.moments.class_weights(weights)
    center = scatter.moments.global_mean(weights)
    share = (alpha / scatter.moments.counts)[y]
    explicit = ((h0 - center) * share[:, None]).T @ (h0 - center)
    assert torch.allclose(total, explicit, rtol=0, atol=1e-14)
    trace = scatter.moments.within_trace(weights) + scatter.moments.between_trace(weights)
    assert float(total.trace()) == pytest.approx(float(trace), rel=1e-14)
