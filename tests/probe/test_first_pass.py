"""The passes over streams of layer batches: budget, checks, and sums that do not depend on the cut."""

from types import SimpleNamespace

import pytest
import torch

from cases import CASES, classifier_of, layer_statistics, tensors_of
from ncollapse.depth import LineDecisions, PathStatistics
from ncollapse.probe.first_pass import collect
from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.probe.memory import available_memory
from ncollapse.probe.request import Request
from ncollapse.statistics import ClassCenters, ClassMoments, PairedMoments

CASE = CASES["imbalanced"]
K = CASE.num_classes
PLENTY = 2**30


def layers_of(x):
    return {"a": x, "b": x.flip(1) * 0.5 + x, "c": x.square()}


def source(size=5, features=None, labels=None):
    """A pass over the case in batches; counts how often it was started."""
    features, labels = layers_of(CASE.features) if features is None else features, CASE.labels if labels is None else labels

    def start():
        start.passes += 1
        for i in range(0, len(labels), size):
            yield LayerBatch({name: h[i : i + size] for name, h in features.items()}, labels[i : i + size])

    start.passes = 0
    return start


def options(budget=PLENTY, centers=True, scatter=False, **changes):
    """A request and the bytes that kept features may take."""
    metrics = [*(["pfc3", "pfc3.leave_one_out"] if centers else ["pfc1"]), *(["rank_total"] if scatter else [])]
    return Request(**{"num_classes": K, "metrics": metrics, "where": "", **changes}), budget


def assert_same(a, b, **tolerance):
    """All statistics of two collections, exactly or nearly."""
    for name in ("moments", "within", "decisions"):
        for layer, value in getattr(a, name).items():
            for key, tensor in tensors_of(value).items():
                other = tensors_of(getattr(b, name)[layer])[key]
                same = torch.allclose(tensor, other, **tolerance) if tolerance else torch.equal(tensor, other)
                assert same, (name, layer, key)


def test_statistics_are_those_of_the_layers_one_by_one():
    classifier = classifier_of(CASE)
    collected = collect(source(), *options(scatter=True), lambda moments: {"a": classifier})
    assert list(collected.moments) == ["a", "b", "c"]
    for name, features in layers_of(CASE.features).items():
        alone = layer_statistics(features, CASE.labels, K, classifier if name == "a" else None, batch_size=5)
        for key, tensor in tensors_of(alone.within).items():
            assert torch.allclose(tensors_of(collected.within[name])[key], tensor, rtol=1e-9, atol=1e-11), (name, key)
        assert collected.decisions[name] is collected.within[name]
        assert torch.allclose(collected.scatters[name].scatters, alone.scatter.scatters, rtol=1e-12, atol=1e-12)
    assert float(collected.decisions["a"].cosine_sums.abs().sum()) > 0
    assert float(collected.decisions["b"].cosine_sums.abs().sum()) == 0


def test_kept_features_and_a_second_pass_give_identical_sums():
    runs = [source(), source()]
    kept = collect(runs[0], *options(), lambda moments: {"c": classifier_of(CASE)})
    again = collect(runs[1], *options(budget=0), lambda moments: {"c": classifier_of(CASE)})
    assert (runs[0].passes, runs[1].passes) == (1, 2)
    assert (kept.passes, again.passes) == (1, 2)
    assert (kept.kept_bytes, again.kept_bytes) == (3 * CASE.features.numel() * 8, 0)
    assert_same(kept, again)


def test_the_budget_is_a_bound():
    size = 3 * CASE.features.numel() * 8
    assert collect(source(), *options(budget=size)).passes == 1
    short = collect(source(), *options(budget=size - 1))
    assert (short.passes, short.kept_bytes) == (2, 0)


def test_kept_features_that_are_overwritten_are_noticed():
    buffer = torch.empty(5, CASE.features.shape[1], dtype=CASE.features.dtype)

    def start():
        for i in range(0, len(CASE.labels) - 4, 5):
            yield LayerBatch({"a": buffer.copy_(CASE.features[i : i + 5])}, CASE.labels[i : i + 5])

    with pytest.raises(ValueError, match=r"Kept features must not change, but those of layer 'a' did: .* memory_budget=0"):
        collect(start, *options())


def test_one_pass_is_enough_for_moments():
    run = source()
    collected = collect(run, *options(budget=0, centers=False))
    assert (run.passes, collected.passes, collected.kept_bytes) == (1, 1, 0)
    assert collected.within == {}
    assert list(collected.moments) == ["a", "b", "c"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_any_batch_size_gives_the_same_sums(size):
    assert_same(collect(source(5), *options()), collect(source(size), *options()), rtol=1e-11, atol=1e-11)


def test_a_stream_that_cannot_be_repeated_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"memory budget of 0 MiB, so a second pass is .* only once\. Pass a list or a DataLoader"
    ):
        collect(source(), *options(budget=0), repeatable=False)
    assert collect(source(), *options(), repeatable=False).passes == 1
    assert collect(source(), *options(budget=0, centers=False), repeatable=False).passes == 1


def second_pass_sees(change):
    """A source whose second pass is changed."""
    first = source()
    features, labels = change(CASE.features.clone(), CASE.labels.clone())
    second = source(features=layers_of(features), labels=labels)

    def start():
        start.passes += 1
        return first() if start.passes == 1 else second()

    start.passes = 0
    return start


def twice(x, y):
    return torch.cat([x, x]), torch.cat([y, y])


def noisy(x, y):
    return x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y


@pytest.mark.parametrize(
    "change", [noisy, lambda x, y: (x[:-1], y[:-1]), lambda x, y: (x, y.roll(1)), lambda x, y: (x.roll(1, 1), y), twice]
)
def test_a_second_pass_over_other_data_is_noticed(change):
    with pytest.raises(
        ValueError, match=r"must see the features of the first, but they differ at layer 'a'\. Turn off random augm"
    ):
        collect(second_pass_sees(change), *options(budget=0))


def test_a_second_pass_in_another_order_is_the_same_data():
    order = torch.randperm(len(CASE.labels), generator=torch.Generator().manual_seed(0))
    collected = collect(second_pass_sees(lambda x, y: (x[order], y[order])), *options(budget=0))
    assert_same(collected, collect(source(), *options()), rtol=1e-11, atol=1e-11)


def test_a_changed_second_pass_is_noticed_for_paths_alone():
    with pytest.raises(ValueError, match="must see the features of the first"):
        collect(second_pass_sees(noisy), *options(budget=0, centers=False, path=True))


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, [True, True]),
        ({"budget": 0}, [False, False, False, False]),
        ({"budget": 500}, [True, False, False, False]),
        ({"budget": 0, "path": True}, [True, True, True, True]),
        ({"centers": False}, [False, False]),
    ],
)
def test_features_are_held_only_where_they_are_needed_later(changes, holds):
    asked = []

    class Batch(LayerBatch):
        def stream(self, receive, hold):
            asked.append(hold)
            return super().stream(receive, hold)

    x, y = CASE.features, CASE.labels
    batches = [Batch(layers_of(x[part]), y[part]) for part in (slice(12), slice(12, None))]
    collect(lambda: iter(batches), *options(**changes))
    assert asked == holds


def test_a_layer_that_is_missing_in_the_second_pass_is_named():
    first, second = source(), source(features={"a": CASE.features})
    starts = iter([first, second])
    with pytest.raises(ValueError, match=r"but 'b' did not run in batch 0 of the second pass\. Name layers that always run\."):
        collect(lambda: next(starts)(), *options(budget=0))


def test_a_layer_that_appears_late_is_named():
    x, y = CASE.features, CASE.labels
    batches = [LayerBatch({"a": x[:9]}, y[:9]), LayerBatch({"a": x[9:], "b": x[9:]}, y[9:])]
    with pytest.raises(
        ValueError, match=r"Layers must run in every batch, but 'b' is new in batch 1\. Name layers that always run\."
    ):
        collect(lambda: iter(batches), *options())


def test_a_layer_that_stops_running_is_named():
    x, y = CASE.features, CASE.labels
    batches = [LayerBatch({"a": x[:20], "b": x[:20]}, y[:20]), LayerBatch({"a": x[20:]}, y[20:])]
    with pytest.raises(
        ValueError, match=r"Layers must run in every batch, but 'b' did not run in batch 1\. Name layers that always run\."
    ):
        collect(lambda: iter(batches), *options(centers=False))


def test_widths_that_change_are_named():
    x, y = CASE.features, CASE.labels
    batches = [LayerBatch({"a": x[:9]}, y[:9]), LayerBatch({"a": x[9:, :4]}, y[9:])]
    with pytest.raises(
        ValueError, match=r"Layer 'a' must have 6 features as before, got 4 in batch 1\. Feed inputs of one size"
    ):
        collect(lambda: iter(batches), *options())


def test_layers_with_another_number_of_samples_are_named():
    batch = LayerBatch({"a": CASE.features, "b": CASE.features[:-1]}, CASE.labels)
    with pytest.raises(ValueError, match=r"one row per label, got 22 rows for 23 labels in batch 0 now\. Check that"):
        collect(lambda: iter([batch]), *options(where=" now"))


def test_no_batch_is_no_data():
    with pytest.raises(ValueError, match=r"There is no data: the loader yielded no batch with a label that counts"):
        collect(lambda: iter([]), *options())


@pytest.mark.parametrize("batches", [1, 3])
def test_empty_batches_alone_are_no_data(batches):
    empty = LayerBatch({"a": torch.zeros(0, 4), "b": torch.zeros(0, 4)}, torch.zeros(0, dtype=torch.int64))
    for changes in ({}, {"path": True}, {"budget": 0}):
        with pytest.raises(ValueError, match=r"There is no data: no batch has a sample\. Check the data set and"):
            collect(lambda: iter([empty] * batches), *options(**changes))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_name_layer_batch_and_place(value):
    features = layers_of(CASE.features.clone())
    features["b"][11:13, 2] = value
    with pytest.raises(
        ValueError, match=r"Features must be finite, got NaN or inf at layer 'b' in batch 2 at epoch 7, of class 0, 3\. Check"
    ):
        collect(source(5, features), *options(where=" at epoch 7"))


@pytest.mark.parametrize(
    ("label", "hint"), [(K, f"Pass num_classes of {K + 1} or more"), (-1, "For ignored samples pass ignore_index=-1")]
)
def test_labels_out_of_range_name_batch_and_position(label, hint):
    labels = CASE.labels.clone()
    labels[13] = label
    with pytest.raises(
        ValueError, match=rf"labels must be in \[0, 4\), got {label} at position 3 in batch 2 at epoch 7\. {hint}"
    ):
        collect(source(5, labels=labels), *options(where=" at epoch 7"))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            CASE.labels.double(),
            TypeError,
            r"labels must be an integer tensor of class indices, got torch\.float64 in batch 0\.",
        ),
        (
            torch.nn.functional.one_hot(CASE.labels),
            ValueError,
            r"shape \(5,\), got \(5, 4\) in batch 0\. Convert one-hot rows",
        ),
        (
            CASE.labels[:, None].expand(-1, 2),
            ValueError,
            r"one class index per sample, shape \(5,\), got \(5, 2\) in batch 0\.",
        ),
    ],
)
def test_labels_of_another_kind_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        collect(source(5, labels=labels), *options())


def test_labels_may_be_a_column_of_any_integer_type():
    collected = collect(source(labels=CASE.labels[:, None].to(torch.int16)), *options())
    assert_same(collected, collect(source(), *options()))


def test_a_class_without_samples_has_no_centers():
    collected = collect(source(), *options(num_classes=K + 1))
    assert (collected.centers, collected.within, collected.decisions) == ({}, {}, {})
    assert collected.moments["a"].counts.tolist() == [*collect(source(), *options()).moments["a"].counts.tolist(), 0]


def test_centers_of_a_reference_decide_and_own_means_stay_for_the_covariance():
    other = CASES["balanced"]
    reference = {
        "b": None,
        "c": None,
        "a": ClassCenters.from_moments(ClassMoments.from_batch(0.4 * other.features + 1, other.labels, K)),
    }
    training = SimpleNamespace(
        num_classes=K,
        num_labels=K,
        classes=tuple(range(K)),
        statistics={name: SimpleNamespace(centers=centers) for name, centers in reference.items()},
    )
    collected = collect(source(), *options(reference=training))
    own = collect(source(), *options())
    assert torch.equal(collected.within["a"].ncc_correct, own.within["a"].ncc_correct)
    assert torch.equal(collected.within["a"].within_class, own.within["a"].within_class)
    distances = torch.cdist(CASE.features, reference["a"].moments.means)
    right = torch.bincount(CASE.labels[distances.argmin(1) == CASE.labels], minlength=K)
    assert torch.equal(collected.decisions["a"].ncc_correct, right.double())
    assert not torch.equal(collected.decisions["a"].ncc_correct, collected.within["a"].ncc_correct)
    assert collected.decisions["b"] is collected.within["b"]
    assert collected.by_reference.keys() == {"a"}
    residual = (CASE.features - reference["a"].moments.means[CASE.labels]) @ reference["a"].basis
    shares = [1 / len(CASE.labels), 1 / (K * torch.bincount(CASE.labels)[CASE.labels].double()[:, None])]
    for share, within in zip(
        shares, (collected.decisions["a"].within_sample, collected.decisions["a"].within_class), strict=True
    ):
        assert torch.allclose((share * residual).T @ residual, within, rtol=1e-10)


@pytest.mark.parametrize("budget", [PLENTY, 0])
def test_paths_equal_those_of_all_features_at_once(budget):
    collected = collect(source(), *options(budget=budget, path=True))
    layers = list(layers_of(CASE.features).values())
    path = PathStatistics.from_batch(layers)
    for name, tensor in vars(path).items():
        atol = 1e-7 if name == "turning_angle" else 1e-10
        assert torch.allclose(getattr(collected.path, name), tensor, rtol=1e-10, atol=atol), name
    paired = PairedMoments.from_batch(layers[0], layers[-1], CASE.labels, K)
    assert torch.allclose(collected.paired.cross_traces, paired.cross_traces, rtol=1e-10)
    line = LineDecisions.from_batch(layers[0], layers[-1], CASE.labels, paired)
    assert all(torch.equal(a, b) for a, b in zip(vars(collected.line).values(), vars(line).values(), strict=True))


@pytest.mark.parametrize("budget", [PLENTY, 0])
def test_paths_without_any_metric_that_needs_centers(budget):
    collected = collect(source(), *options(budget=budget, path=True, centers=False))
    assert collected.passes == (1 if budget else 2)
    whole = collect(source(), *options(path=True))
    assert all(torch.equal(a, b) for a, b in zip(vars(collected.path).values(), vars(whole.path).values(), strict=True))
    assert torch.equal(collected.line.correct, whole.line.correct)


@pytest.mark.parametrize("features", [{"a": CASE.features}, {"a": CASE.features, "b": CASE.features[:, :4]}])
def test_paths_need_two_layers_of_one_dimension(features):
    with pytest.raises(ValueError, match=r"A path needs at least two layers of one dimension in a row, got \{'a': 6"):
        collect(source(features=features), *options(path=True))


def test_free_memory_is_a_plausible_number():
    assert 2**20 < available_memory(torch.device("cpu")) < 2**50
