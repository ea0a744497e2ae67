"""Decisions by the nearest class center and by the classifier, and the within-class covariance on the means' span."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from cases import CASES, classifier_of, tensors_of
from ncollapse.statistics import ClassCenters, ClassDecisions, ClassifierChoices, ClassMoments, LinearClassifier
from ncollapse.statistics.nearest import nearest_centers


def centers_of(features, labels, num_classes):
    return ClassCenters.from_moments(ClassMoments.from_batch(features, labels, num_classes))


def prepared(case):
    features, labels = case.features.flatten(1), case.labels.long()
    centers = centers_of(features, labels, case.num_classes)
    return features, labels, centers, ClassDecisions.from_batch(features, labels, centers, classifier_of(case))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_basis_is_orthonormal_and_spans_the_centered_means(case):
    _, _, centers, _ = prepared(case)
    rank = min(case.num_classes - 1, centers.moments.dim)
    assert centers.basis.shape == (centers.moments.dim, rank)
    assert torch.allclose(centers.basis.T @ centers.basis, torch.eye(rank, dtype=torch.float64), atol=1e-13)
    means = centers.moments.centered_means()
    assert torch.allclose(centers.coordinates @ centers.basis.T, means, rtol=0, atol=1e-13 * float(means.abs().max()))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sums_by_class_equal_the_oracle(case):
    H, y, K = reference.rows_of(case.features), case.labels.long().numpy(), case.num_classes
    W, b = case.weight.numpy(), case.bias.numpy()
    features, labels, _, decisions = prepared(case)
    choices = ClassifierChoices.from_batch(classifier_of(case).choices(features), labels, K)
    nearest, decided = reference.nearest(H, reference.means(H, y, K)), (H @ W.T + b).argmax(axis=1)
    cosine = (H * W[y]).sum(axis=1) / ((H**2).sum(axis=1) * (W[y] ** 2).sum(axis=1)) ** 0.5
    for k in range(K):
        of_class = y == k
        assert decisions.counts[k] == of_class.sum()
        assert decisions.ncc_correct[k] == (nearest == y)[of_class].sum()
        assert choices.counts[k] == of_class.sum()
        assert choices.correct[k] == (decided == y)[of_class].sum()
        assert decisions.agree[k] == (decided == nearest)[of_class].sum()
        assert float(decisions.cosine_sums[k]) == pytest.approx(cosine[of_class].sum(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_within_covariance_on_the_span_equals_the_oracle(case, weights):
    H, y, K = reference.rows_of(case.features), case.labels.long().numpy(), case.num_classes
    _, _, centers, decisions = prepared(case)
    U = centers.basis.numpy()
    expected = U.T @ reference.within_covariance(H, y, K, weights) @ U
    atol = case.rtol * float(abs(expected).max())
    assert decisions.within_on_span(weights).numpy() == pytest.approx(expected, rel=case.rtol, abs=atol)


@pytest.mark.parametrize("noise", [1e-9, 1e-12])
def test_residuals_near_collapse_keep_their_digits(noise):
    # Subtracting projections of size one would leave 1e-16 / noise of a residual.
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(3).repeat(200)
    features = means[labels] + noise * torch.randn(600, 6, generator=generator, dtype=torch.float64)
    centers = centers_of(features, labels, 3)
    decisions = ClassDecisions.from_batch(features, labels, centers)
    U = centers.basis.numpy()
    expected = U.T @ reference.within_covariance(features.numpy(), labels.numpy(), 3) @ U
    assert decisions.within_class.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-7 * abs(expected).max())


def test_residual_sums_vanish_on_the_data_that_gave_the_means_and_nowhere_else():
    case = CASES["imbalanced"]
    features, labels, centers, decisions = prepared(case)
    assert torch.allclose(decisions.residual_sums, torch.zeros_like(decisions.residual_sums), atol=1e-12)
    moved = ClassDecisions.from_batch(features + 1.0, labels, centers)
    expected = torch.ones(6, dtype=torch.float64) @ centers.basis * decisions.counts[:, None]
    assert torch.allclose(moved.residual_sums, expected, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (3, 4), (2, 3, 4), (3, 0), (4, 3, 0)])
def test_many_classes_of_equal_two_or_more_sizes_are_weighed_by_their_own(sizes):
    counts = torch.tensor(sizes).repeat(40)[:40]
    labels = torch.arange(40).repeat_interleave(counts)
    features = torch.randn(len(labels), 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    means = torch.randn(40, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centers = centers_of(means, torch.arange(40), 40)
    found = ClassDecisions.from_batch(features, labels, centers, counts=counts)
    residual = (features - means[labels]) @ centers.basis
    assert torch.allclose(found.within_sample, residual.T @ residual / len(labels), rtol=1e-12, atol=1e-12)
    weighted = residual / (40 * counts[labels]).unsqueeze(1)
    assert torch.allclose(found.within_class, weighted.T @ residual, rtol=1e-12, atol=1e-12)
    nothing = ClassDecisions.from_batch(features[:0], labels[:0], centers, counts=counts)
    assert not any(tensor.any() for tensor in tensors_of(nothing).values())


def test_some_classes_keep_their_sums_and_the_covariance_of_all():
    _, _, _, decisions = prepared(CASES["imbalanced"])
    chosen = decisions.select(torch.tensor([2, 0]))
    for name, tensor in tensors_of(decisions).items():
        expected = tensor if name in {"within_class", "within_sample"} else tensor[[2, 0]]
        assert torch.equal(tensors_of(chosen)[name], expected), name


def test_counts_of_the_whole_set_weigh_a_batch():
    case = CASES["imbalanced"]
    features, labels, centers, whole = prepared(case)
    halves = [ClassDecisions.from_batch(features[part], labels[part], centers) for part in (slice(0, 9), slice(9, None))]
    merged = halves[0].merge(halves[1])
    assert torch.allclose(merged.within_class, whole.within_class, rtol=1e-12)
    assert torch.allclose(merged.within_sample, whole.within_sample, rtol=1e-12)
    counts = torch.tensor([10, 20, 30, 40])
    other = ClassDecisions.from_batch(features, labels, centers, counts=counts)
    residual = (features - centers.moments.means[labels]) @ centers.basis
    assert torch.allclose(other.within_sample, residual.T @ residual / 100, rtol=1e-12)
    by_class = (residual / (4 * counts[labels])[:, None]).T @ residual
    assert torch.allclose(other.within_class, by_class, rtol=1e-12)


def test_decisions_by_the_other_samples_are_counted_only_if_they_were_asked_for():
    case = CASES["imbalanced"]
    features, labels, centers, plain = prepared(case)
    asked = ClassDecisions.from_batch(features, labels, centers, squares=True)
    assert torch.equal(asked.left_out, asked.counts)
    assert bool((asked.left_out_correct <= asked.ncc_correct).all())
    assert asked.left_out_correct.any()
    assert not plain.left_out.any()
    assert not plain.left_out_correct.any()


def test_without_a_classifier_its_sums_are_zero():
    case = CASES["balanced"]
    centers = centers_of(case.features, case.labels, 4)
    decisions = ClassDecisions.from_batch(case.features, case.labels, centers)
    for sums in (decisions.agree, decisions.cosine_sums):
        assert not sums.any()
    assert decisions.ncc_correct.any()


def test_a_sample_between_two_centers_goes_to_the_smaller_index():
    # Class means (-1, 0) and (1, 0); the sample at the origin belongs once to each class.
    features = torch.tensor([[0.0, 0.0], [-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    for labels, correct in (([0, 0, 1, 1], [2, 1]), ([1, 1, 0, 0], [2, 1])):
        labels = torch.tensor(labels)
        decisions = ClassDecisions.from_batch(features, labels, centers_of(features, labels, 2))
        assert decisions.ncc_correct.tolist() == correct


def test_a_sample_between_three_centers_goes_to_the_smallest_index():
    means = torch.tensor([[3.0, 4.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, -5.0]])
    spread = torch.tensor([[3.0, 4.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
    features = torch.cat([means - spread, means + spread])
    features[2], features[5] = torch.zeros(3), torch.tensor([0.0, 0.0, -10.0])
    labels = torch.arange(3).repeat(2)
    # The first three samples lie at the origin, at distance 5 of every mean.
    assert not features[:3].any()
    decisions = ClassDecisions.from_batch(features, labels, centers_of(features, labels, 3))
    assert decisions.ncc_correct.tolist() == [2, 1, 1]


@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 2**32))
def test_ties_on_a_lattice_go_to_the_smallest_index(num_classes, dim, seed):
    # Symmetric samples around integer means: means, distances and ties are exact in the oracle.
    generator = torch.Generator().manual_seed(seed)
    means = torch.randint(-2, 3, (num_classes, dim), generator=generator).double().repeat_interleave(2, dim=0)
    steps = torch.randint(-2, 3, (2 * num_classes, dim), generator=generator).double()
    features = torch.cat([means + steps, means - steps])
    labels = torch.arange(num_classes).repeat_interleave(2).repeat(2)
    nearest = reference.nearest(features.numpy(), means[::2].numpy())
    decisions = ClassDecisions.from_batch(features, labels, centers_of(features, labels, num_classes))
    expected = [int((nearest[labels == k] == k).sum()) for k in range(num_classes)]
    assert decisions.ncc_correct.tolist() == expected


@given(st.integers(2, 5), st.integers(0, 2**32))
def test_ties_far_from_all_centers_go_to_the_smallest_index(dim, seed):
    # The origin and the unit vectors: their span is the whole space, so that far samples have far projections.
    generator = torch.Generator().manual_seed(seed)
    num_classes = dim + 1
    means = torch.eye(num_classes, dim, dtype=torch.float64)[torch.randperm(num_classes, generator=generator)]
    centers = centers_of(means, torch.arange(num_classes), num_classes)
    labels = torch.randint(0, num_classes, (60,), generator=generator)
    features = 1000.0 * torch.randint(-3, 4, (60, dim), generator=generator).double()
    nearest = torch.from_numpy(reference.nearest(features.numpy(), means.numpy()))
    decisions = ClassDecisions.from_batch(features, labels, centers)
    expected = torch.bincount(labels[nearest == labels], minlength=num_classes)
    assert decisions.ncc_correct.tolist() == expected.tolist()


@pytest.mark.parametrize("gap", [1e-5, 1e-9])
def test_two_near_centers_far_from_a_third_are_told_apart(gap):
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[1.0, 0.0, 0.0], [1.0, gap, 0.0], [-1.0, 0.0, 2.0]], dtype=torch.float64)
    labels = torch.arange(3).repeat(50)
    features = means[labels] + 0.2 * gap * torch.randn(150, 3, generator=generator, dtype=torch.float64)
    decisions = ClassDecisions.from_batch(features, labels, centers_of(features, labels, 3))
    nearest = reference.nearest(features.numpy(), reference.means(features.numpy(), labels.numpy(), 3))
    assert int(decisions.ncc_correct.sum()) == int((nearest == labels.numpy()).sum())


@pytest.mark.parametrize("num_classes", [4000, 5000])
def test_thousands_of_classes_are_decided_as_by_explicit_distances(num_classes):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, 8, generator=generator, dtype=torch.float64)
    centers = centers_of(means, torch.arange(num_classes), num_classes)
    labels = torch.randint(0, num_classes, (300,), generator=generator)
    features = means[labels] + 0.5 * torch.randn(300, 8, generator=generator, dtype=torch.float64)
    decisions = ClassDecisions.from_batch(features, labels, centers)
    correct = reference.nearest(features.numpy(), means.numpy()) == labels.numpy()
    assert 30 < correct.sum() < 270
    expected = torch.bincount(labels, weights=torch.from_numpy(correct).double(), minlength=num_classes)
    assert torch.equal(decisions.ncc_correct, expected)


def test_held_out_samples_at_a_distance_of_many_spreads_are_decided_as_by_explicit_distances():
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    centers = centers_of(means, torch.arange(6), 6)
    labels = torch.randint(0, 6, (500,), generator=generator)
    features = 30 * torch.randn(500, 3, generator=generator, dtype=torch.float64)
    nearest = reference.nearest(features.numpy(), means.numpy())
    # The classifier that is the nearest-center rule itself must be found in agreement on every sample.
    rule = LinearClassifier.from_parameters(means, -0.5 * means.square().sum(dim=1))
    decisions = ClassDecisions.from_batch(features, labels, centers, rule)
    assert int(decisions.agree.sum()) == 500
    assert int(decisions.ncc_correct.sum()) == int((nearest == labels.numpy()).sum())


def test_ties_of_the_classifier_go_to_the_smallest_index():
    constant = LinearClassifier.from_parameters(torch.ones(4, 6))
    assert not constant.choices(CASES["balanced"].features).any()


def test_logits_that_are_nan_decide_for_no_class():
    broken = LinearClassifier.from_parameters(torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, math.inf]]))
    assert broken.choices(torch.tensor([[1.0, 1.0], [2.0, 0.0]])).tolist() == [-1, -1]
    infinite = LinearClassifier.from_parameters(torch.tensor([[1.0, 0.0], [-math.inf, 0.0], [2.0, 0.0]]))
    assert infinite.choices(torch.ones(1, 2, dtype=torch.float64) * torch.tensor([[1.0, 1.0]])).tolist() == [2]


def test_given_choices_decide_the_agreement_in_place_of_the_classifiers():
    features, labels, centers, decisions = prepared(CASES["imbalanced"])
    nearest = nearest_centers(centers, (features - centers.moments.means[labels]) @ centers.basis, labels)[0]
    for classifier in (None, classifier_of(CASES["imbalanced"])):
        same = ClassDecisions.from_batch(features, labels, centers, classifier, choices=nearest.int())
        assert torch.equal(same.agree, same.counts)
    assert not torch.equal(decisions.agree, decisions.counts)


def test_the_bias_decides():
    case = CASES["balanced"]
    biased = LinearClassifier.from_parameters(case.weight, torch.tensor([0.0, 0.0, 1e3, 0.0]))
    choices = ClassifierChoices.from_batch(biased.choices(case.features), case.labels, 4)
    assert choices.correct.tolist() == [0, 0, 8, 0]


def test_a_classifier_is_a_copy_in_float64():
    weight, bias = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float64)), torch.nn.Parameter(torch.ones(3))
    classifier = LinearClassifier.from_parameters(weight, bias)
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
    assert classifier.weight.eq(1).all()
    assert classifier.bias.eq(1).all()
    assert {t.dtype for t in classifier} == {torch.float64}
    assert not any(t.requires_grad for t in classifier)


def test_a_layer_without_bias_has_bias_zero():
    assert LinearClassifier.from_parameters(torch.ones(3, 4)).bias.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("weight", "bias", "got"), [
    ((3,), None, r"got \(\(3,\), None\)"),
    ((3, 4), (4,), r"got \(\(3, 4\), \(4,\)\)"),
    ((3, 4), (3, 1), r"got \(\(3, 4\), \(3, 1\)\)"),
])  # fmt: skip
def test_a_classifier_of_wrong_shapes_is_an_error(weight, bias, got):
    text = r"weight of shape \(K, d\) and a bias of shape \(K,\) or None, " + got
    with pytest.raises(ValueError, match=text):
        LinearClassifier.from_parameters(torch.zeros(weight), None if bias is None else torch.zeros(bias))


class Sharded:
    """A stand-in for a DTensor, which no single process can make."""

    ndim, shape = 1, (3,)

    def full_tensor(self):
        raise NotImplementedError


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_classifier_in_parts_is_refused(name):
    parameters = {"weight": torch.ones(3, 4), "bias": torch.ones(3)} | {name: Sharded()}
    with pytest.raises(TypeError, match=f"{name} must be whole on every process"):
        LinearClassifier.from_parameters(**parameters)


def test_rows_and_choices_of_some_classes():
    classifier = LinearClassifier.from_parameters(torch.arange(12.0).view(3, 4), torch.arange(3.0))
    chosen = classifier.select(torch.tensor([2, 0]))
    assert chosen.weight.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert chosen.bias.tolist() == [2, 0]
    assert classifier.choices(torch.ones(0, 4)).tolist() == []
    counts = ClassifierChoices.from_batch(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 3)
    some = counts.select(torch.tensor([2, 0]))
    assert some.counts.tolist() == [2, 1]
    assert some.correct.tolist() == [1, 1]


def test_means_of_more_classes_than_dimensions_span_the_whole_space():
    case = CASES["balanced"]
    assert not centers_of(case.features, case.labels, 4).spans_all
    assert centers_of(case.features[:, :3], case.labels, 4).spans_all


def test_moving_keeps_the_values():
    _, _, centers, decisions = prepared(CASES["imbalanced"])
    for value in (centers, decisions):
        moved = tensors_of(value.to("cpu"))
        assert all(torch.equal(tensor, moved[name]) for name, tensor in tensors_of(value).items())
        assert {tensor.device.type for tensor in tensors_of(value.to("meta")).values()} == {"meta"}
    classifier = LinearClassifier.from_parameters(torch.ones(3, 4), torch.ones(3))
    assert all(torch.equal(moved, tensor) for moved, tensor in zip(classifier.to("cpu"), classifier, strict=True))
    assert {tensor.device.type for tensor in classifier.to("meta")} == {"meta"}


def test_float32_features_far_from_the_origin_are_projected_as_exactly_as_float64_ones():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    spread = 1e-3 * torch.randn(90, 20, generator=generator)
    features = (1e3 + torch.randn(3, 20, generator=generator)[labels] + spread).float()
    centers = centers_of(features, labels, 3)
    coarse, fine = (ClassDecisions.from_batch(h, labels, centers) for h in (features, features.double()))
    assert torch.equal(coarse.ncc_correct, fine.ncc_correct)
    assert torch.allclose(coarse.within_class, fine.within_class, rtol=1e-9, atol=0)
    assert torch.allclose(coarse.residual_sums, fine.residual_sums, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_classes", [4, 35])
def test_features_of_many_columns_are_projected_in_tiles(dtype, num_classes, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(70, 50, generator=generator).to(dtype), torch.arange(70) % num_classes
    centers = centers_of(features, labels, num_classes)
    whole = ClassDecisions.from_batch(features, labels, centers)
    residual = (features.double() - centers.moments.means[labels]) @ centers.basis
    assert torch.allclose(whole.within_sample, residual.T @ residual / 70, rtol=1e-12)
    # Tiles of 32 rows and 7 columns, neither of which divides the features.
    monkeypatch.setattr("ncollapse.statistics.batch._BLOCK_ELEMENTS_CPU", 7 * 32)
    tiled = ClassDecisions.from_batch(features, labels, centers)
    assert torch.allclose(tiled.within_sample, whole.within_sample, rtol=1e-12)
    assert torch.equal(tiled.ncc_correct, whole.ncc_correct)
