"""Class moments against the oracle, their weights and conventions, their cost for many classes, and every error text."""

import itertools
import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

import reference
from cases import CASES, tensors_of
from ncollapse.statistics import ClassMoments
from ncollapse.statistics.batch import LabelGroups
from ncollapse.statistics.moments import first_of_coincident


def moments_of(case):
    return ClassMoments.from_batch(case.features, case.labels, case.num_classes)


def as_numpy(case):
    return reference.rows_of(case.features), case.labels.long().numpy(), case.num_classes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_moments_equal_the_oracle(case):
    H, y, K = as_numpy(case)
    moments = moments_of(case)
    assert moments.counts.tolist() == reference.counts(y, K).tolist()
    assert moments.counts.dtype == torch.int64
    assert moments.means.dtype == moments.scatter_traces.dtype == torch.float64
    assert moments.class_means.numpy() == pytest.approx(reference.means(H, y, K), rel=1e-12, abs=1e-14 * abs(H).max())
    traces = reference.class_variances(H, y, K) * reference.counts(y, K)
    assert moments.scatter_traces.numpy() == pytest.approx(traces, rel=case.rtol, abs=0)
    assert moments.class_variances.numpy() == pytest.approx(reference.class_variances(H, y, K), rel=case.rtol, abs=0)
    assert (moments.num_classes, moments.dim, moments.num_samples) == (K, H.shape[1], len(H))


@pytest.mark.parametrize("weights", ["class", "sample"])
@pytest.mark.parametrize("name", ["balanced", "imbalanced", "one_sample_class", "far_mean_tiny_std"])
def test_weighted_values_equal_the_oracle(name, weights):
    case = CASES[name]
    H, y, K = as_numpy(case)
    moments = moments_of(case)
    mean = reference.global_mean(H, y, K, weights)
    assert moments.class_weights(weights).numpy() == pytest.approx(reference.weights(y, K, weights), rel=1e-15)
    assert moments.global_mean(weights).numpy() == pytest.approx(mean, rel=1e-12)
    assert moments.centered_means(weights).numpy() == pytest.approx(reference.means(H, y, K) - mean, rel=1e-9, abs=1e-12)
    assert float(moments.within_trace(weights)) == pytest.approx(
        reference.within_covariance(H, y, K, weights).trace(), rel=case.rtol
    )


def test_the_global_mean_by_sample_is_the_mean_of_all_samples():
    case = CASES["imbalanced"]
    assert torch.allclose(moments_of(case).global_mean("sample"), case.features.mean(dim=0), atol=1e-14)


@pytest.mark.parametrize("convention", reference.CONVENTIONS)
@pytest.mark.parametrize("name", ["balanced", "imbalanced"])
def test_between_trace_of_every_convention(name, convention):
    case = CASES[name]
    _, between, center = reference.CONVENTIONS[convention]
    expected = reference.between_covariance(*as_numpy(case), between, center).trace()
    assert float(moments_of(case).between_trace(convention)) == pytest.approx(expected, rel=1e-13)


def test_conventions_differ_on_imbalanced_and_agree_on_balanced_data():
    between = {c: float(moments_of(CASES["imbalanced"]).between_trace(c)) for c in reference.CONVENTIONS}
    assert between["class"] == between["papyan"]
    assert between["sample"] == between["he_su"]
    values = sorted(between[c] for c in ("class", "sample", "zhu"))
    assert all(b - a > 1e-3 * b for a, b in itertools.pairwise(values))
    balanced = [float(moments_of(CASES["balanced"]).between_trace(c)) for c in reference.CONVENTIONS]
    assert balanced == pytest.approx([balanced[0]] * 6, rel=1e-14)


def test_a_common_offset_cancels_before_the_weighted_sum():
    means = torch.tensor([[1e8, 1e8 + 1], [1e8 + 2, 1e8], [1e8, 1e8]], dtype=torch.float64)
    moments = ClassMoments.from_batch(means, torch.arange(3), 3)
    exact = torch.tensor([[-2 / 3, 2 / 3], [4 / 3, -1 / 3], [-2 / 3, -1 / 3]], dtype=torch.float64)
    assert torch.allclose(moments.centered_means(), exact, rtol=1e-15, atol=0)


def test_classes_without_samples_are_nan_and_never_zero():
    moments = ClassMoments.from_batch(torch.ones(4, 3), torch.tensor([0, 0, 2, 2]), 3)
    assert moments.counts.tolist() == [2, 0, 2]
    assert torch.isnan(moments.class_means).any(dim=1).tolist() == [False, True, False]
    assert torch.isnan(moments.class_variances).tolist() == [False, True, False]
    for value in (moments.global_mean(), moments.within_trace(), moments.between_trace(), moments.within_trace("sample")):
        assert bool(torch.isnan(value).all())
    assert moments.means[1].tolist() == [0.0, 0.0, 0.0]
    # The mean of all samples needs no class to be present.
    assert moments.global_mean("sample").tolist() == [1.0, 1.0, 1.0]


def test_empty_moments():
    moments = ClassMoments.empty(4, 3)
    assert (moments.num_classes, moments.dim, moments.num_samples) == (4, 3, 0)
    assert bool(torch.isnan(moments.class_means).all())
    batch = ClassMoments.from_batch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 4)
    assert all(torch.equal(a, b) for a, b in zip(vars(batch).values(), vars(moments).values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_features_are_exact_in_float64(dtype):
    case = CASES["imbalanced"]
    moments = ClassMoments.from_batch(case.features.to(dtype), case.labels, 4)
    again = ClassMoments.from_batch(case.features.to(dtype).double(), case.labels, 4)
    assert all(torch.equal(a, b) for a, b in zip(vars(moments).values(), vars(again).values(), strict=True))


def test_trailing_dimensions_are_flattened_and_column_labels_taken():
    case = CASES["spatial"]
    flat = ClassMoments.from_batch(case.features.reshape(len(case.labels), -1), case.labels, 3)
    shaped = ClassMoments.from_batch(case.features, case.labels[:, None].to(torch.uint8), 3)
    assert all(torch.equal(a, b) for a, b in zip(vars(flat).values(), vars(shaped).values(), strict=True))


def test_merging_in_place_equals_merging_and_returns_the_owner():
    case = CASES["imbalanced"]
    running = ClassMoments.empty(4, 6)
    total = ClassMoments.empty(4, 6)
    # Batches of 3 hold fewer samples than there are classes, those of 5 hold more.
    for start, stop in ((0, 3), (3, 6), (6, 11), (11, 12), (12, 23)):
        h, y = case.features[start:stop], case.labels[start:stop]
        assert running.merge_groups_(h, LabelGroups.from_labels(y, 4, running.counts)) is running
        total = total.merge(ClassMoments.from_batch(h, y, 4))
    for name, tensor in tensors_of(moments_of(case)).items():
        assert torch.allclose(tensors_of(running)[name], tensor, rtol=1e-13, atol=1e-14), name
        assert torch.allclose(tensors_of(total)[name], tensor, rtol=1e-13, atol=1e-14), name


def test_far_from_the_origin_a_class_that_begins_with_one_sample_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    features, labels = 1e9 + torch.randn(40, 3, generator=generator, dtype=torch.float64), torch.arange(40) % 4
    running = ClassMoments.empty(5, 3)
    # The last class never comes.
    for rows in torch.tensor([0, 1, 2, 7, 17, 40]).unfold(0, 2, 1).tolist():
        part = labels[slice(*rows)]
        running.merge_groups_(features[slice(*rows)], LabelGroups.from_labels(part, 5, running.counts))
    expected = ClassMoments.from_batch(features - 1e9, labels, 5)
    assert torch.allclose(running.scatter_traces, expected.scatter_traces, rtol=1e-6)
    assert running.means[4].tolist() == [0, 0, 0]


def test_merging_makes_a_new_value():
    case = CASES["balanced"]
    a = moments_of(case)
    before = {name: tensor.clone() for name, tensor in tensors_of(a).items()}
    merged = a.merge(a).merge(ClassMoments.empty(4, 6))
    merged.means.add_(1.0)
    merged.scatter_traces.add_(1.0)
    merged.counts.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors_of(a).items())


def test_moving_keeps_the_values():
    moments = moments_of(CASES["balanced"])
    moved = moments.to("cpu")
    assert all(torch.equal(a, b) for a, b in zip(vars(moments).values(), vars(moved).values(), strict=True))
    meta = moments.to("meta")
    assert {tensor.device.type for tensor in vars(meta).values()} == {"meta"}


class CountOperations(TorchFunctionMode):
    """Counts the tensor operations that run: a loop over classes shows as a number that grows with them."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_hundred_thousand_classes_need_no_loop():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 32, generator=generator)

    def operations(num_classes):
        labels = torch.randint(0, num_classes, (2000,), generator=generator)
        with CountOperations() as mode:
            moments = ClassMoments.from_batch(features, labels, num_classes)
            moments = moments.merge(moments)
            moments.centered_means("sample")
        return mode.count, moments, labels

    few, _, _ = operations(5_000)
    many, moments, labels = operations(100_000)
    assert many == few < 1000
    assert moments.num_samples == 4000
    k = int(labels[7])
    assert torch.allclose(moments.means[k], features[labels == k].double().mean(dim=0), atol=1e-14)


@pytest.mark.parametrize(("num_classes", "dim"), [(0, 3), (3, 0), (-1, 2)])
def test_sizes_must_be_positive(num_classes, dim):
    with pytest.raises(ValueError, match=rf"num_classes and dim must be at least 1, got {num_classes} and {dim}\."):
        ClassMoments.empty(num_classes, dim)


@pytest.mark.parametrize(("features", "text"), [
    (torch.zeros(4, 3, dtype=torch.int64), r"features must be a floating-point tensor, got torch\.int64\. Convert them"),
    (torch.eye(4).to_sparse(), r"features must be a dense tensor, got a sparse or nested one\. Convert it with \.to_dense"),
    ([[1.0, 2.0]], r"features must be a floating-point tensor, got list\. Convert them with torch\.as_tensor and \.float\(\)"),
])  # fmt: skip
def test_features_must_be_floating_point(features, text):
    with pytest.raises(TypeError, match=text):
        ClassMoments.from_batch(features, torch.zeros(4, dtype=torch.int64), 2)


def test_features_need_a_dimension():
    with pytest.raises(ValueError, match=r"must have shape \(N, d\), got \(4,\)\. Add a dimension with \[:, None\]"):
        ClassMoments.from_batch(torch.zeros(4), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(
        ValueError, match=r"features must have at least one number per sample, got shape \(4, 0\)\. Leave it out"
    ):
        ClassMoments.from_batch(torch.zeros(4, 0), torch.tensor([0, 1, 2, 0]), 3)


@pytest.mark.parametrize(("labels", "kind"), [
    (torch.zeros(4), r"torch\.float32"),
    (torch.zeros(4, dtype=torch.complex64), r"torch\.complex64"),
    ([0, 1, 0, 1], "list"),
])  # fmt: skip
def test_labels_must_be_integers(labels, kind):
    text = rf"labels must be an integer tensor of class indices, got {kind}\. Convert .*, one-hot rows with argmax"
    with pytest.raises(TypeError, match=text):
        ClassMoments.from_batch(torch.zeros(4, 3), labels, 2)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (4, 1, 1), ()])
def test_labels_must_be_one_a_sample(shape):
    text = r"one class index per sample, shape \(4,\), got \(" + ", ".join(map(str, shape)) + r",?\)\. Convert one-hot"
    with pytest.raises(ValueError, match=text):
        ClassMoments.from_batch(torch.zeros(4, 3), torch.zeros(shape, dtype=torch.int64), 2)


@pytest.mark.parametrize(("labels", "text"), [
    ([0, 1, 2, 10], r"labels must be in \[0, 10\), got 10 at position 3\. Pass num_classes of 11 or more, or shift labels"),
    ([0, -100, 2, 1], r"labels must be in \[0, 10\), got -100 at position 1\. For ignored samples pass ignore_index=-100\."),
])  # fmt: skip
def test_labels_out_of_range_are_named_with_their_position(labels, text):
    with pytest.raises(ValueError, match=text):
        ClassMoments.from_batch(torch.zeros(4, 3), torch.tensor(labels), 10)


@pytest.mark.parametrize("name", ["equal", "balanced"])
def test_unknown_weights_and_conventions_are_named(name):
    moments = moments_of(CASES["balanced"])
    with pytest.raises(ValueError, match=rf"weights must be 'class' or 'sample', got '{name}'"):
        moments.class_weights(name)
    with pytest.raises(ValueError, match=rf"one of class, sample, papyan, papyan_notebook, zhu, he_su, got '{name}'"):
        moments.between_trace(name)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (3, 1), (1, 4)])
def test_moments_of_other_shapes_do_not_merge(shape):
    text = rf"must have the same \(K, d\), got \(3, 4\) and \({shape[0]}, {shape[1]}\)"
    with pytest.raises(ValueError, match=text):
        ClassMoments.empty(3, 4).merge(ClassMoments.empty(*shape))


def test_variance_of_one_sample_is_zero_and_not_nan():
    moments = ClassMoments.from_batch(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), 1)
    assert moments.class_variances.tolist() == [0.0]
    assert not math.isnan(float(moments.within_trace()))


def test_means_that_differ_by_the_rounding_of_their_sums_coincide():
    means = torch.tensor([[1.0, 2.0], [1.0 + 5e-14, 2.0], [1.0 + 3e-13, 2.0]], dtype=torch.float64)
    # Up to 1e-13 of the largest norm, √5.
    assert first_of_coincident(ClassMoments.from_batch(means, torch.arange(3), 3)).tolist() == [0, 0, 2]


def test_the_mean_of_a_class_without_samples_does_not_reach_a_merged_one():
    full = moments_of(CASES["imbalanced"])
    empty = ClassMoments(
        torch.zeros_like(full.counts), torch.full_like(full.means, 1e100), torch.zeros_like(full.scatter_traces)
    )
    for merged in (full.merge(empty), empty.merge(full)):
        assert all(torch.equal(tensor, tensors_of(full)[name]) for name, tensor in tensors_of(merged).items())


def test_distances_at_the_end_of_the_range_of_float64_tell_no_means_apart():
    # Their squares have lost digits: 1e-155 squared is 1e-310, below the least normal number.
    means = torch.tensor([[1e-155, 0.0], [2e-155, 0.0], [1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.int64)
    near, apart = (ClassMoments(one, rows, torch.zeros(2, dtype=torch.float64)) for rows in means.split(2))
    assert first_of_coincident(near).tolist() == [0, 0]
    assert first_of_coincident(apart).tolist() == [0, 1]
