"""Frames other than the simplex, in closed form: tight frames, the orthoplex, SELI, softmax codes, and frames of one's own."""

import math

import pytest
import torch

from ncollapse import metrics as m
from ncollapse.etf import simplex_etf
from ncollapse.metrics import FLAGS, METRICS, LayerStatistics, evaluate_metrics
from ncollapse.statistics import ClassMoments
from ncollapse.surrogates import seli_geometry

FRAMES = ["pfc2_tight_frame", "pfc2_orthoplex", "pfc2_seli", "softmax_code"]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def values_of(means, counts=None):
    """The metrics of collapsed classes with these means, moved, turned, scaled and in another order."""
    num_classes, dim = means.shape
    order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(num_classes).repeat_interleave(torch.tensor(counts or [2] * num_classes))
    turned = 3.7 * means @ torch.linalg.qr(normal(1, dim, dim))[0] + normal(2, dim)
    statistics = LayerStatistics(ClassMoments.from_batch(turned[labels], order[labels], num_classes))
    return {v.metric: v for v in evaluate_metrics(statistics, [METRICS[id] for id in ["pfc2", *FRAMES]])}


def orthoplex(num_classes, dim):
    half = torch.eye(num_classes // 2, dim, dtype=torch.float64)
    return torch.cat([half, -half])


def polygon(num_classes):
    angles = 2 * math.pi * torch.arange(num_classes).double() / num_classes
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def simplices(size, number):
    """Simplices in orthogonal subspaces, as many as there are."""
    return torch.block_diag(*[simplex_etf(size, size - 1)] * number)


@pytest.mark.parametrize(("num_classes", "dim"), [(4, 2), (6, 3), (16, 8), (8, 6), (8, 9), (600, 300)])
def test_an_orthoplex(num_classes, dim):
    values = values_of(orthoplex(num_classes, dim))
    assert values["pfc2_orthoplex"].value == pytest.approx(0, abs=1e-13)
    assert values["pfc2_orthoplex"].flags == ()
    if num_classes == 2 * dim:
        assert values["pfc2_tight_frame"].value == pytest.approx(0, abs=1e-13)
        assert values["pfc2"].value == pytest.approx(math.sqrt(2 - 2 * math.sqrt(dim / (num_classes - 1))), rel=1e-12)
        assert values["pfc2"].flags == ("low_dimension",)
    if dim + 1 < num_classes <= 256:
        assert values["softmax_code"].value == pytest.approx(0, abs=1e-13)


@pytest.mark.parametrize("num_classes", [4, 10, 40])
def test_a_simplex_is_no_orthoplex_and_all_that_the_others_want(num_classes):
    values = values_of(simplex_etf(num_classes, num_classes - 1))
    ratio = num_classes / (num_classes - 1)
    assert values["pfc2_orthoplex"].value == pytest.approx(math.sqrt(2 - math.sqrt(2 * ratio)), rel=1e-12)
    assert [values[id].value for id in ("pfc2_tight_frame", "pfc2_seli", "softmax_code")] == pytest.approx([0, 0, 0], abs=1e-13)


@pytest.mark.parametrize("num_classes", [3, 4, 5, 7, 40, 256])
def test_a_regular_polygon(num_classes):
    values = values_of(polygon(num_classes))
    assert values["softmax_code"].value == pytest.approx(0, abs=1e-9 if num_classes > 40 else 1e-12)
    assert values["pfc2_tight_frame"].value == pytest.approx(0, abs=1e-13)
    sheared = values_of(polygon(num_classes) @ torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double())
    assert min(sheared[id].value for id in ("softmax_code", "pfc2_tight_frame")) > 0.003
    # The eigenvalues of a stretched polygon are as the squares of its axes.
    stretched = values_of(polygon(num_classes) * torch.tensor([1.0, 1.1]).double())
    square = float(torch.tensor(1.1)) ** 2
    expected = math.hypot(1 / math.hypot(1, square) - math.sqrt(0.5), square / math.hypot(1, square) - math.sqrt(0.5))
    assert stretched["pfc2_tight_frame"].value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("size", "number"), [(3, 2), (3, 4), (5, 3)])
def test_orthogonal_simplices_are_softmax_codes_and_no_orthoplex(size, number):
    values = values_of(simplices(size, number))
    assert values["softmax_code"].value == pytest.approx(0, abs=1e-12)
    assert values["pfc2_tight_frame"].value == pytest.approx(0, abs=1e-13)
    if size * number % 2 == 0:
        # <G, T> = K + 2 (size // 2)/(size - 1) number, and G has the norm of a projection times size/(size-1).
        inner = size * number + 2 * number * (size // 2) / (size - 1)
        norms = math.sqrt(2 * size * number) * math.sqrt((size - 1) * number) * size / (size - 1)
        assert values["pfc2_orthoplex"].value == pytest.approx(math.sqrt(2 - 2 * inner / norms), rel=1e-12)


def test_forty_classes_in_eight_dimensions_can_reach_zero():
    # The example of many classes: the columns of a Fourier matrix are a tight frame, random means are none.
    angles = 2 * math.pi * torch.outer(torch.arange(40).double(), torch.arange(1.0, 5).double()) / 40
    frame = torch.cat([angles.cos(), angles.sin()], dim=1)
    values = values_of(frame)
    assert values["pfc2"].value == pytest.approx(math.sqrt(2 * (1 - math.sqrt(8 / 39))), rel=1e-12)
    assert values["pfc2"].flags == ("low_dimension",)
    assert "pfc2_tight_frame" in FLAGS["low_dimension"]
    assert values["pfc2_tight_frame"].value == pytest.approx(0, abs=1e-13)
    assert values["pfc2_tight_frame"].flags == ()
    assert values_of(normal(0, 40, 8))["pfc2_tight_frame"].value > 0.2
    assert values["softmax_code"].flags == ("no_softmax_code",)
    assert values["pfc2_orthoplex"].flags == ("no_orthoplex",)
    assert "low_dimension" in values["pfc2_seli"].flags
    assert all(math.isnan(values[id].value) for id in ("softmax_code", "pfc2_orthoplex", "pfc2_seli"))


def test_a_tight_frame_with_room_for_a_simplex_is_pfc2():
    means = normal(5, 7, 6)
    values = values_of(means)
    assert values["pfc2_tight_frame"].value == pytest.approx(values["pfc2"].value, rel=1e-11)
    assert values["pfc2_seli"].value == pytest.approx(values["pfc2"].value, rel=1e-11)


def test_the_least_of_the_squared_loss_in_few_dimensions_is_a_tight_frame():
    # Gradient descent on the unconstrained features model: 6 classes of equal counts in 3 dimensions, and a bias.
    weight, means, bias = (part.requires_grad_() for part in (normal(0, 6, 3), normal(1, 6, 3), normal(2, 6)))
    optimizer = torch.optim.LBFGS(
        [weight, means, bias], max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        logits = means @ weight.T + bias
        value = (logits - torch.eye(6).double()).square().sum() + 0.05 * (weight.square().sum() + means.square().sum())
        value.backward()
        return value

    optimizer.step(loss)
    centered = (means - means.mean(dim=0)).detach()
    assert float(m.tight_frame_distance(centered)) < 1e-5
    assert float(m.etf_distance(centered)) > 0.5


@pytest.mark.parametrize("counts", [(9, 9, 9, 9), (40, 9, 5, 2), (100, 100, 1, 1)])
def test_the_class_means_of_simplex_encoded_labels(counts):
    gram = seli_geometry(counts)[1]
    values, vectors = torch.linalg.eigh(gram)
    means = vectors[:, 1:] * values[1:].sqrt()
    order = torch.randperm(4, generator=torch.Generator().manual_seed(3))
    found = values_of(means, list(counts))
    assert found["pfc2_seli"].value == pytest.approx(0, abs=1e-13)
    assert (found["pfc2"].value < 1e-13) == (len(set(counts)) == 1)
    # The counts of other classes do not fit.
    assert values_of(means, [counts[i] for i in order])["pfc2_seli"].value > 0.1 or len(set(counts)) == 1


def test_a_margin_in_closed_form():
    # The third direction is 45 degrees from each of two orthogonal ones: its distance from their segment is 1 - sqrt(1/2).
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 3.0]], dtype=torch.float64)
    assert float(m.one_vs_rest_distance(rows)) == pytest.approx(1 - math.sqrt(0.5), rel=1e-12)
    assert float(m.softmax_code_gap(rows)) == pytest.approx(1 - (1 - math.sqrt(0.5)) / 1.5, rel=1e-12)
    assert float(m.one_vs_rest_distance(torch.nn.functional.pad(rows, (0, 9)))) == pytest.approx(1 - math.sqrt(0.5), rel=1e-12)
    assert math.isnan(float(m.one_vs_rest_distance(rows[:1])))
    assert math.isnan(float(m.one_vs_rest_distance(rows * torch.tensor([[1.0], [0.0], [1.0]]))))


@pytest.mark.parametrize("num_classes", [5, 300])
def test_a_frame_of_ones_own(num_classes):
    rows, other = normal(0, num_classes, 4), normal(1, num_classes, 4)
    gram, target = rows @ rows.T, other @ other.T
    expected = float((gram / gram.norm() - target / target.norm()).norm())
    assert float(m.etf_distance(rows, target=target)) == pytest.approx(expected, rel=1e-12)
    assert float(m.etf_distance(1e200 * rows, target=1e-200 * target)) == pytest.approx(expected, rel=1e-12)
    assert float(m.etf_distance(rows, target=7 * gram)) == pytest.approx(0, abs=1e-13)
    product = rows @ other.T
    expected = float((product / product.norm() - target / target.norm()).norm())
    assert float(m.gram_distance(rows, other, target=target.float().double())) == pytest.approx(expected, rel=1e-6)
    frame = torch.eye(num_classes).double() - 1 / num_classes
    assert float(m.etf_distance(rows, target=frame)) == pytest.approx(float(m.etf_distance(rows)), rel=1e-12)


def test_a_gram_matrix_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"target must have shape \(3, 3\) for 3 rows, got \(4, 4\)\. Pass the inner products"):
        m.etf_distance(torch.eye(3).double(), target=torch.eye(4).double())
    assert math.isnan(float(m.etf_distance(torch.ones(1, 3).double(), target=torch.ones(1, 1).double())))
    assert math.isnan(float(m.etf_distance(torch.eye(3).double(), target=torch.zeros(3, 3).double())))


def test_functions_of_means_without_frame_are_nan():
    line, zero = torch.arange(3.0).double()[:, None] - 1, torch.zeros(4, 3).double()
    for function in (m.orthoplex_distance, m.softmax_code_gap, lambda rows: m.seli_distance(rows, torch.tensor([2, 2, 2]))):
        assert math.isnan(float(function(line)))
    for function in (m.orthoplex_distance, m.softmax_code_gap, m.tight_frame_distance):
        assert math.isnan(float(function(zero)))
    assert math.isnan(float(m.tight_frame_distance(torch.ones(1, 3).double())))
    assert math.isnan(float(m.orthoplex_distance(torch.eye(5).double())))
    assert float(m.tight_frame_distance(line)) == 0


def test_too_many_classes_for_what_is_held_are_flagged():
    found = values_of(normal(0, 1026, 3))
    assert set(found["pfc2_seli"].flags) == {"low_dimension", "many_classes"}
    assert found["pfc2_tight_frame"].value > 0
    means = torch.eye(1026).double()
    assert values_of(means)["pfc2_orthoplex"].flags == ("many_classes",)
    assert "no_softmax_code" in values_of(polygon(258))["softmax_code"].flags
