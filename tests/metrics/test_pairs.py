"""Sums over pairs in tiles, and layers that are evaluated together: the same numbers as pair by pair and one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import CASES, statistics_of
from ncollapse.etf import simplex_etf
from ncollapse.metrics import METRICS, equiangularity, etf_distance, evaluate_metrics, gram_distance, max_angle, pairs
from ncollapse.metrics.entry import evaluate_layers
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.metrics.pairs import CosineSums, add_pairs, cosine_spread, pair_tiles
from ncollapse.metrics.variability import CdnvSums, cdnv, cdnv_matrix
from ncollapse.probe import measure_features
from ncollapse.statistics import ClassMoments

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tile", [1, 2, 5, 11, 12])
def test_tiles_hold_every_pair_once(tile):
    rows = normal(0, 11, 3)
    products = torch.cat([part.pairs(part.products) for part in pair_tiles(rows, tile)])
    i, j = torch.triu_indices(11, 11, 1)
    assert torch.allclose(products.sort().values, (rows[i] * rows[j]).sum(1).sort().values, rtol=1e-14)


@given(st.integers(2, 30), st.integers(1, 6), st.floats(-14, 0), SEEDS)
def test_distances_of_near_rows_keep_their_digits(num_rows, dim, exponent, seed):
    # Two rows 10**exponent apart: the products alone would leave 1e-16 / 10**(2 exponent) of their distance.
    rows = normal(seed, num_rows, dim)
    rows[-1] = rows[0] + 10**exponent * normal(seed + 1, dim)
    (tile,) = pair_tiles(rows)
    found = tile.pairs(tile.squared_distances(rows.square().sum(1), rows, 1 / 16))
    i, j = torch.triu_indices(num_rows, num_rows, 1)
    assert torch.allclose(found, (rows[i] - rows[j]).square().sum(1), rtol=2e-14, atol=0)


@given(st.integers(2, 12), st.integers(1, 6), SEEDS)
def test_cdnv_is_the_mean_of_its_matrix(num_classes, dim, seed):
    labels = torch.arange(3 * num_classes) % num_classes
    moments = ClassMoments.from_batch(normal(seed, len(labels), dim) + 1e6, labels, num_classes)
    off_diagonal = cdnv_matrix(moments)[~torch.eye(num_classes, dtype=torch.bool)]
    assert float(cdnv(moments)) == pytest.approx(float(off_diagonal.mean()), rel=1e-10)
    assert CdnvSums(moments, normal(0, num_classes)).noise is None


@pytest.mark.parametrize("num_classes", [300, 700])
@pytest.mark.parametrize("dim", [20, 800])
def test_gram_distances_of_many_classes_equal_those_entry_by_entry(num_classes, dim):
    left, right = normal(1, num_classes, dim), normal(2, num_classes, dim)
    frame = (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes) / math.sqrt(num_classes - 1)
    orthogonal = torch.eye(num_classes, dtype=torch.float64) / math.sqrt(num_classes)
    for a, b in ((left, left), (left, right), (left, left + 0.1 * right), (left, 0.1 * right - left)):
        product = a @ b.T
        for target, goal in (("etf", frame), ("orthogonal_frame", orthogonal)):
            expected = torch.linalg.norm(product / torch.linalg.norm(product) - goal)
            assert float(gram_distance(a, b, target=target)) == pytest.approx(float(expected), rel=2e-14)


def test_gram_distances_of_many_classes_keep_their_digits_near_a_frame():
    frame = simplex_etf(300, 320)
    assert float(etf_distance(frame)) < 1e-13
    assert float(equiangularity(frame)) < 1e-14
    assert float(max_angle(frame)) < 1e-14
    near = frame + 1e-9 * normal(3, 300, 320)
    product = near @ near.T
    target = (torch.eye(300, dtype=torch.float64) - 1 / 300) / math.sqrt(299)
    expected = torch.linalg.norm(product / torch.linalg.norm(product) - target)
    assert float(etf_distance(near)) == pytest.approx(float(expected), rel=1e-6)


def spread_of_pairs(rows):
    """The definition: the standard deviation over pairs of cosines that are computed from longer numbers."""
    exact = rows.numpy().astype("longdouble")
    exact = exact / (exact**2).sum(axis=1, keepdims=True) ** 0.5
    i, j = torch.triu_indices(len(rows), len(rows), 1).numpy()
    # 1 - cos keeps the digits of near directions.
    return float(((exact[i] - exact[j]) ** 2).sum(axis=1).std() / 2)


@given(st.integers(1, 5), st.integers(1, 40), st.floats(-9, 0), SEEDS)
def test_the_spread_of_many_cosines_is_that_over_pairs(dim, more, exponent, seed):
    """Down to rows that are 1e-9 from parallel, where sums of squared cosines would have no digit left."""
    num_rows, generator = 2 * dim + more, torch.Generator().manual_seed(seed)
    rows = normal(seed + 1, 1, dim) + 10**exponent * normal(seed, num_rows, dim)
    rows *= 10.0 ** torch.randint(-3, 4, (num_rows, 1), generator=generator)
    # The rounding of a unit vector, relative to the distance between rows.
    lost = 1e-15 / 10**exponent
    assert float(cosine_spread(rows)) == pytest.approx(spread_of_pairs(rows), rel=1e-13 + 50 * lost, abs=1e-16)


def test_the_spread_of_many_cosines_at_exact_collapse():
    # All rows are parallel; a simplex has no room for more than d + 1.
    same = normal(0, 1, 4).repeat(50, 1) * torch.linspace(1, 9, 50, dtype=torch.float64).unsqueeze(1)
    assert float(equiangularity(same)) < 1e-30
    # A cross-polytope: each cosine is 0 but that of opposite rows, which is -1.
    axes = torch.cat([torch.eye(4, dtype=torch.float64), -torch.eye(4, dtype=torch.float64)])
    twice = torch.cat([axes, axes])
    assert float(equiangularity(twice)) == pytest.approx(spread_of_pairs(twice), rel=1e-15)
    assert math.isnan(float(equiangularity(torch.cat([twice, torch.zeros(1, 4, dtype=torch.float64)]))))


def test_the_spread_of_many_cosines_walks_over_no_pairs(monkeypatch):
    rows, layers = normal(0, 30, 5), normal(1, 3, 30, 5)
    each = torch.stack([equiangularity(layer) for layer in layers])
    expected = max_angle(rows)

    def refuse(*_):
        raise AssertionError("walked over pairs")

    monkeypatch.setattr(pairs, "pair_tiles", refuse)
    sums = CosineSums(rows)
    assert float(sums.equiangularity) == pytest.approx(spread_of_pairs(rows), rel=1e-14)
    assert torch.allclose(equiangularity(layers), each, rtol=1e-14)
    with pytest.raises(AssertionError, match="walked"):
        _ = sums.max_angle
    monkeypatch.undo()
    add_pairs(rows, [sums])
    monkeypatch.setattr(pairs, "pair_tiles", refuse)
    assert float(sums.max_angle) == float(expected)


def test_a_measurement_walks_over_pairs_only_for_metrics_that_need_them(monkeypatch):
    labels = torch.arange(60) % 12
    features, head = normal(0, 60, 4), (normal(1, 12, 4), torch.zeros(12))
    walks = []

    def counted(rows, tile=pairs.TILE):
        walks.append(len(rows))
        return pair_tiles(rows, tile)

    monkeypatch.setattr(pairs, "pair_tiles", counted)
    for metrics, number in (
        (["nc2_equiangularity", "nc2_equiangularity_weights"], 0),
        (["nc2_max_angle", "nc2_max_angle_weights"], 2),
    ):
        walks.clear()
        measure_features(features, labels, num_classes=12, classifier=head, metrics=metrics)
        assert walks == [12] * number


def test_a_product_of_different_directions_keeps_its_norm():
    # tr(AᵀA BᵀB) would cancel to the rounding of its terms.
    left, right = torch.zeros(300, 4, dtype=torch.float64), torch.zeros(300, 4, dtype=torch.float64)
    left[:, :2], right[:, 2:] = normal(4, 300, 2), normal(5, 300, 2)
    right[:, 0] = 1e-10 * left[:, 0]
    product = left @ right.T
    target = (torch.eye(300, dtype=torch.float64) - 1 / 300) / math.sqrt(299)
    expected = torch.linalg.norm(product / torch.linalg.norm(product) - target)
    assert float(gram_distance(left, right)) == pytest.approx(float(expected), rel=1e-12)
    # Along the axes nothing would: in turned ones it does.
    turn = torch.linalg.qr(normal(6, 4, 4))[0]
    assert float(gram_distance(left @ turn, right @ turn)) == pytest.approx(float(expected), rel=1e-4)


def test_layers_evaluated_together_have_the_values_and_flags_of_each_alone():
    labels = torch.arange(40) % 5
    layers = {f"{i}": normal(i, 40, 6) + (3 * normal(9, 5, 6))[labels] for i in range(4)}
    layers |= {"collapsed": normal(7, 5, 6)[labels], "same": torch.ones(40, 6, dtype=torch.float64), "wide": normal(8, 40, 9)}
    together = measure_features(layers, labels, num_classes=5, metrics=["all", "population"])
    for name, layer in layers.items():
        alone = measure_features({name: layer}, labels, num_classes=5, metrics=["all", "population"])
        rows = [row for row in together.rows if row.layer == name]
        assert [row.metric for row in rows] == [row.metric for row in alone.rows]
        for row, own in zip(rows, alone.rows, strict=True):
            assert row.value == pytest.approx(own.value, rel=1e-13, abs=1e-14, nan_ok=True), (name, row.metric)
            assert row.flags == own.flags, (name, row.metric)


def test_held_out_layers_evaluated_together_have_the_values_of_each_alone():
    labels, means = torch.arange(40) % 5, 2 * normal(9, 5, 6)
    sets = [{f"{i}": means[labels] + normal(10 * shift + i, 40, 6) for i in range(3)} for shift in (1, 2)]

    def measured(names):
        train, test = ({name: layers[name] for name in names} for layers in sets)
        reference = measure_features(train, labels, num_classes=5, metrics="all")
        return measure_features(test, labels, num_classes=5, split="test", reference=reference, metrics="all").rows

    together = measured("012")
    for name in "012":
        rows = [row for row in together if row.layer == name]
        for row, own in zip(rows, measured(name), strict=True):
            assert row.value == pytest.approx(own.value, rel=1e-13, abs=1e-14, nan_ok=True), (name, row.metric)
            assert row.flags == own.flags, (name, row.metric)


def test_every_metric_of_means_and_decisions_takes_several_layers():
    assert {id for id, metric in METRICS.items() if not metric.stacks} == {
        id for id, metric in METRICS.items() if not metric.needs <= {"centers"}
    }


def test_only_small_layers_of_one_size_are_stacked():
    small, wide = statistics_of(CASES["balanced"]), statistics_of(CASES["imbalanced"])
    assert small.size == statistics_of(CASES["balanced"]).size != wide.size
    assert LayerStatistics(ClassMoments.empty(4, 2**15)).size is None
    assert LayerStatistics(ClassMoments.empty(200, 4)).size is None


def test_an_own_metric_sees_one_layer_at_a_time():
    seen = []

    def shape(statistics):
        seen.append(statistics.moments.means.ndim)
        return statistics.moments.means.sum()

    own = METRICS["pfc1"].__class__("own", "own", shape, frozenset(), None, (-math.inf, math.inf), "none", "none")
    layers = [statistics_of(CASES["balanced"])] * 2
    assert len(evaluate_layers(layers, [own, METRICS["pfc1"]])[1]) == 2
    assert seen == [2, 2]
    assert evaluate_metrics(layers[0], [own])[0].value == float(layers[0].moments.means.sum())
