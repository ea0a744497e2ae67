"""NC3, NC4 and strong collapse in closed form."""

import math

import pytest
import torch

from cases import CASES, layer_statistics, statistics_of
from ncollapse import metrics as m
from ncollapse.etf import helmert_basis, simplex_etf
from ncollapse.metrics import METRICS, evaluate_metrics, geometry
from ncollapse.statistics import ClassMoments, LinearClassifier


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values_of(features, labels, num_classes, classifier):
    statistics = layer_statistics(features, labels, num_classes, classifier)
    return {v.metric: v for v in evaluate_metrics(statistics, list(METRICS.values()))}


@pytest.mark.parametrize(("factor", "papyan", "zhu", "cosine"), [(2.5, 0.0, 0.0, 0.0), (-0.4, 4.0, 2.0, 2.0)])
def test_classifier_along_or_against_the_means(factor, papyan, zhu, cosine):
    frame = simplex_etf(5, 7, generator=torch.Generator().manual_seed(0))
    classifier = LinearClassifier.from_parameters(factor * frame)
    values = values_of(3.0 * frame.repeat(2, 1), torch.arange(5).repeat(2), 5, classifier)
    assert values["nc3"].value == pytest.approx(papyan, abs=1e-13)
    assert values["nc3_etf"].value == pytest.approx(zhu, abs=1e-13)
    assert values["nc3_cosine"].value == pytest.approx(cosine, abs=1e-13)


def test_classifier_orthogonal_to_the_means():
    means = torch.nn.functional.pad(simplex_etf(3, 2), (0, 2))
    weight = torch.nn.functional.pad(simplex_etf(3, 2), (2, 0))
    assert float(m.self_duality(weight, means)) == pytest.approx(2, rel=1e-14)
    assert float(m.self_duality(weight, means, squared=False)) == pytest.approx(math.sqrt(2), rel=1e-14)
    assert math.isnan(float(m.self_duality_etf(weight, means)))
    values = values_of(means, torch.arange(3), 3, LinearClassifier.from_parameters(weight))
    assert values["nc3_cosine"].value == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("angle", [0.3, 1.2, 2.9])
def test_features_at_one_angle_to_their_rows(angle):
    weight = torch.eye(3, 4, dtype=torch.float64) * torch.tensor([[1.0], [20.0], [0.3]])
    lengths = torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64)[:, None]
    features = lengths * (math.cos(angle) * torch.eye(3, 4) + math.sin(angle) * torch.eye(4)[3]).double()
    values = values_of(features, torch.arange(3), 3, LinearClassifier.from_parameters(weight))
    assert values["nc3_cosine"].value == pytest.approx(1 - math.cos(angle), rel=1e-7)


@pytest.mark.parametrize("center", ["class", "sample"])
def test_bias_collapse_is_zero_exactly_when_the_bias_cancels_the_mean(center):
    statistics = statistics_of(CASES["imbalanced"])
    weight = CASES["imbalanced"].weight
    mean = statistics.moments.global_mean(center)
    cancels = LinearClassifier.from_parameters(weight, -weight @ mean)
    assert float(m.bias_collapse(statistics.moments, cancels, center)) == pytest.approx(0, abs=1e-14)
    shifted = LinearClassifier.from_parameters(weight, -weight @ mean + torch.tensor([3.0, 0.0, -4.0, 0.0]))
    assert float(m.bias_collapse(statistics.moments, shifted, center)) == pytest.approx(5, rel=1e-13)


@pytest.mark.parametrize("name", ["balanced", "imbalanced", "overlapping", "low_dimension", "one_sample_class"])
def test_nearest_center_as_a_linear_classifier_agrees_on_any_data(name):
    case = CASES[name]
    means = ClassMoments.from_batch(case.features, case.labels, case.num_classes).class_means
    classifier = LinearClassifier.from_parameters(1.7 * means, -0.85 * means.square().sum(dim=1))
    statistics = layer_statistics(case.features, case.labels, case.num_classes, classifier)
    assert float(m.ncc_agreement(statistics.decisions)) == 1
    assert float(m.ncc_mismatch(statistics.decisions)) == 0
    assert float(m.classifier_accuracy(statistics.choices)) == float(m.ncc_accuracy(statistics.decisions))


def strong_collapse(num_classes=4, per_class=5, dim=6):
    orientation = torch.linalg.qr(normal(2, dim, num_classes - 1))[0]
    weight = per_class**0.25 * helmert_basis(num_classes).T @ orientation.T
    features = (weight / math.sqrt(per_class)).repeat(per_class, 1)
    bias = torch.full((num_classes,), 1 / num_classes, dtype=torch.float64)
    return features, torch.arange(num_classes).repeat(per_class), LinearClassifier(weight, bias)


def test_strong_collapse_is_zero_at_its_optimum_and_fits_the_labels():
    features, labels, classifier = strong_collapse()
    logits = features @ classifier.weight.T + classifier.bias
    assert torch.allclose(logits, torch.nn.functional.one_hot(labels, 4).double(), atol=1e-14)
    values = values_of(features, labels, 4, classifier)
    assert [values[id].value for id in ("snc1", "snc2", "snc3")] == pytest.approx([0, 0, 0], abs=1e-13)


def test_strong_collapse_away_from_its_optimum():
    features, labels, classifier = strong_collapse()
    noise = normal(4, *features.shape)
    values = values_of(features + noise, labels, 4, LinearClassifier(2 * classifier.weight, 0 * classifier.bias))
    # W W^T grows from √n Π to 4 √n Π.
    assert values["snc1"].value == pytest.approx(3 * math.sqrt(5) * math.sqrt(3), rel=1e-12)
    target = 2 * classifier.weight[labels] / math.sqrt(5)
    assert values["snc2"].value == pytest.approx(float((features + noise - target).norm()), rel=1e-12)
    assert values["snc3"].value == pytest.approx(math.sqrt(4 / 16), rel=1e-14)


def test_strong_collapse_asks_for_equal_counts():
    features, labels, classifier = strong_collapse()
    values = values_of(features[:-1], labels[:-1], 4, classifier)
    for id in ("snc1", "snc2", "snc3"):
        assert math.isnan(values[id].value)
        assert values[id].flags == ("imbalanced",)
    moments = ClassMoments.from_batch(features[:-1], labels[:-1], 4)
    for function in (m.strong_collapse_weights, m.strong_collapse_features, m.strong_collapse_bias):
        assert math.isnan(float(function(moments, classifier)))


def test_the_norm_of_a_product_of_many_rows_that_hardly_meet_keeps_its_digits():
    # In the axes the two meet in the last two columns alone; turned, the sum over the 4×4 products nearly cancels.
    K, generator = 8000, torch.Generator().manual_seed(0)
    left, right = 0.5 * torch.rand(2, K, 4, generator=generator, dtype=torch.float64)
    left[:, 2:] *= 1e-3
    right[:, :2] = 0
    expected = ((left[:, 2:].T @ left[:, 2:]) * (right[:, 2:].T @ right[:, 2:])).sum().sqrt()
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    rows = [geometry.GramRows(side @ turn) for side in (left, right)]
    scaled = [geometry.unit_scale(side.rows) for side in rows]
    unit = [float(small[0, 0] / side.rows[0, 0]) for small, side in zip(scaled, rows, strict=True)]
    found = float(geometry._product_norm(*scaled, *rows)) / unit[0] / unit[1]
    assert found == pytest.approx(float(expected), rel=1e-12)
