"""A choice of classes equals a measurement of these classes alone, with labels renumbered, in every metric."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from cases import make_case
from ncollapse.metrics import METRICS
from ncollapse.probe import CollapseMetrics, collect_features, measure, measure_features, watch
from ncollapse.probe.request import Request

# Imbalanced, and classes 2 and 6 never occur.
COUNTS = (9, 4, 0, 3, 7, 2, 0, 5)
K, D = len(COUNTS), 5
CASE = make_case("selected", COUNTS, D, spread=0.7)
X, Y, W, B = CASE.features, CASE.labels, CASE.weight, CASE.bias
PRESENT = tuple(k for k, n in enumerate(COUNTS) if n)
ALL_IDS = sorted(METRICS)
OPTIONS = {"num_classes": K, "metrics": ALL_IDS}


def by_hand(features, classes, labels=Y):
    """Features of these classes, and their labels renumbered."""
    kept = torch.isin(labels, torch.tensor(classes))
    return features[kept], torch.searchsorted(torch.tensor(classes), labels[kept])


def oracle(classes, convention="class"):
    """Every metric of the chosen classes by the NumPy oracle; the classifier chooses among all its logits."""
    H, y = (part.numpy() for part in by_hand(X, classes))
    chosen = list(classes)
    expected = reference.metrics(H, y, len(classes), W.numpy()[chosen], B.numpy()[chosen], convention)
    decided = (H @ W.numpy().T + B.numpy()).argmax(axis=1)
    agree = np.array(chosen)[reference.nearest(H, reference.means(H, y, len(classes)))] == decided
    return expected | {
        "accuracy": np.mean(decided == np.array(chosen)[y]), "nc4": np.mean(agree), "nc4_mismatch": np.mean(~agree),
    }  # fmt: skip


def assert_is(measurement, expected, rel=1e-9):
    rows = [row for row in measurement.rows if row.layer == measurement.layers[-1] and "." not in row.metric]
    values = {row.metric: row.value for row in rows}
    assert values.keys() == expected.keys()
    for id, value in expected.items():
        if math.isnan(value):
            assert math.isnan(values[id]), id
        else:
            assert values[id] == pytest.approx(value, rel=rel, abs=1e-12), id


@pytest.mark.parametrize("classes", [(0, 1, 3), (0, 5), (1, 4, 7), PRESENT])
@pytest.mark.parametrize("convention", ["class", "zhu", "papyan", "sample"])
def test_named_classes_equal_the_oracle_on_these_alone(classes, convention):
    m = measure_features(X, Y, classifier=(W, B), classes=list(classes), convention=convention, **OPTIONS)
    assert (m.classes, m.num_classes, m.num_labels) == (classes, len(classes), K)
    assert m.num_samples == sum(COUNTS[k] for k in classes)
    assert_is(m, oracle(classes, convention))


def test_present_classes_equal_the_oracle():
    m = measure_features(X, Y, classifier=(W, B), classes="present", **OPTIONS)
    assert m.classes == PRESENT
    assert_is(m, oracle(PRESENT))
    assert m.chosen == "features in memory; 6 of 8 classes (0, 1, 3, 4, 5, 7); left out: 2 without samples"
    assert str(m).startswith("1 layer, 30 samples of 6 of 8 classes, split train")
    assert repr(m).startswith("Measurement(1 layer, 30 samples of 6 of 8 classes")
    everything = measure_features(X, Y, num_classes=K)
    assert everything.classes == tuple(range(K))
    assert math.isnan(everything.value("pfc1"))


def test_classes_below_a_number_of_samples_are_left_out_with_their_samples():
    for classes, kept in (("all", (0, 1, 4, 7)), ("present", (0, 1, 4, 7)), ([0, 3, 4, 2], (0, 4))):
        m = measure_features(X, Y, classifier=(W, B), classes=classes, min_per_class=4, **OPTIONS)
        assert m.classes == kept
        assert_is(m, oracle(kept))
    words = "4 of 8 classes (0, 1, 4, 7); left out: 2 without samples, 2 with fewer than 4 samples (5 samples)"
    assert measure_features(X, Y, num_classes=K, min_per_class=4).chosen.endswith(words)
    words = (
        "2 of 8 classes (0, 4); left out: 4 not named (11 samples), 1 without samples, 1 with fewer than 4 samples (3 samples)"
    )
    assert m.chosen.endswith(words)


def test_a_choice_of_all_classes_is_no_choice():
    x, y = by_hand(X, PRESENT)
    plain = measure_features(x, y, num_classes=6)
    for choice in ({"classes": "present"}, {"classes": range(6)}, {"min_per_class": 2}, {"classes": torch.arange(6)}):
        m = measure_features(x, y, num_classes=6, **choice)
        assert repr(m.rows) == repr(plain.rows)
        assert m.chosen == plain.chosen
        assert "samples of 6 classes" in str(m)


class Deep(nn.Module):
    """A residual network of one width."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(D, D, dtype=torch.float64) for _ in range(3))
        self.head = nn.Linear(D, K, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block(x)) + x
        return self.head(x)


def features_by_hand(model, x):
    found = {}
    handles = [module.register_forward_hook(lambda *a, name=name: found.update({name: a[2].detach().double()}))
               for name, module in model.named_modules() if name]  # fmt: skip
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def batched(x=X, y=Y, size=7):
    return list(zip(x.split(size), y.split(size), strict=True))


PATH_IDS = sorted({"pfc1", "pfc2", "pfc3", "nc1", "nc3", "nc4", "accuracy", "cdnv", "gnc2", "rank_total", "nc3_cosine"})
CHOICES = st.sets(st.sampled_from(PRESENT), min_size=2).map(lambda classes: tuple(sorted(classes)))


@settings(max_examples=10)
@given(classes=CHOICES, budget=st.sampled_from([None, 0]), path=st.booleans(), size=st.integers(1, 30))
def test_a_selection_of_a_network_equals_the_network_on_these_samples(classes, budget, path, size):
    """The oracle measures the features of these samples by hand; a small batch has none of them at times."""
    model, names = Deep(), ["blocks.0", "blocks.1", "blocks.2"]
    m = measure(
        model, batched(size=size), num_classes=K, classes=classes, layers=names, metrics=PATH_IDS, path=path,
        memory_budget=budget,
    )  # fmt: skip
    x, y = by_hand(X, classes)
    seen = features_by_hand(model, x)
    last = m.layers[-1]
    inputs = seen["blocks.2"].tanh() + features_before_last(model, x)
    layers = {name: seen[name] for name in names} | ({last: inputs} if last not in names else {})
    head = model.head.weight.detach()[list(classes)], model.head.bias.detach()[list(classes)]
    hand = measure_features(layers, y, num_classes=len(classes), classifier=head, metrics=PATH_IDS, path=path)
    expected = {(row.layer, row.metric): row.value for row in hand.rows}
    logits = seen["head"]
    expected[last, "accuracy"] = float((logits.argmax(dim=1) == torch.tensor(classes)[y]).double().mean())
    means = torch.stack([inputs[y == k].mean(dim=0) for k in range(len(classes))])
    nearest = torch.tensor(classes)[(inputs[:, None] - means).square().sum(dim=2).argmin(dim=1)]
    expected[last, "nc4"] = float((nearest == logits.argmax(dim=1)).double().mean())
    found = {(row.layer, row.metric): row.value for row in m.rows}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-8, abs=1e-12, nan_ok=True), key
    assert (m.classes, m.num_samples, m.passes) == (classes, len(y), 1 if budget is None else 2)
    if path:
        assert m.path.position() == pytest.approx(hand.path.position(), rel=1e-9)
        assert m.path.straightness.sort().values == pytest.approx(hand.path.straightness.sort().values, rel=1e-9)
        assert m.line.correct.tolist() == hand.line.correct.tolist()
        assert int(m.line.num_samples) == len(y)
        torch.testing.assert_close(m.arcs.lengths, hand.arcs.lengths, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(m.geodesic.pfc1(), hand.geodesic.pfc1(), rtol=1e-9, atol=0)


def features_before_last(model, x):
    with torch.no_grad():
        for block in model.blocks[:2]:
            x = torch.tanh(block(x)) + x
    return x


@settings(max_examples=10)
@given(classes=CHOICES, data=st.data())
def test_a_stream_chooses_at_compute_and_merges(classes, data):
    cut = data.draw(st.integers(1, len(Y) - 1))
    streams = [CollapseMetrics(classes=classes, **OPTIONS) for _ in range(2)]
    for stream, part in zip(streams, (slice(0, cut), slice(cut, None)), strict=True):
        for x, y in batched(X[part], Y[part]):
            stream.update(x, y)
    streams[0].merge(streams[1])
    assert_is(streams[0].compute((W, B)), oracle(classes))
    assert_is(streams[0].compute((W, B)), oracle(classes))


def test_present_classes_grow_with_a_stream():
    stream = CollapseMetrics(num_classes=K, classes="present")
    first = Y < 4
    stream.update(X[first], Y[first])
    assert stream.compute().classes == (0, 1, 3)
    stream.update(X[~first], Y[~first])
    assert stream.compute().classes == PRESENT


def test_streams_of_other_choices_do_not_merge():
    one, other = CollapseMetrics(num_classes=K, classes=[0, 1]), CollapseMetrics(num_classes=K, classes="present")
    for stream in (one, other):
        stream.update(X, Y)
    with pytest.raises(ValueError, match=r"Totals to merge must have the same arguments, got .*\[0, 1\].* and .*present"):
        one.merge(other)
    same = CollapseMetrics(num_classes=K, classes=range(2))
    same.update(X, Y)
    one.merge(same)
    assert json.loads(Request(num_classes=K, classes=(1, 0)).shared_arguments())[1] == [0, 1]


def test_a_watched_training_measures_its_choice():
    model = Deep()
    with watch(model, num_classes=K, classes="present", min_per_class=3, metrics=PATH_IDS) as watched:
        for x, y in batched():
            model(x)
            watched.update(y)
    m, expected = watched.compute(), measure(model, batched(), num_classes=K, min_per_class=3, metrics=PATH_IDS)
    assert m.classes == expected.classes == (0, 1, 3, 4, 7)
    for row, other in zip(m.rows, expected.rows, strict=True):
        assert row.value == pytest.approx(other.value, rel=1e-10, nan_ok=True), row


# A held-out split of the same means, in which class 1 is missing too.
OTHER = make_case("held out", (3, 0, 0, 4, 5, 3, 0, 2), D, spread=0.7)


def test_a_test_split_keeps_all_means_of_the_training_set():
    train = measure_features(X, Y, num_classes=K, classes="present", classifier=(W, B))
    m = measure_features(
        OTHER.features, OTHER.labels, num_classes=K, classes="present", classifier=(W, B), split="test", reference=train
    )
    assert m.classes == (0, 3, 4, 5, 7)
    x, y = (part.numpy() for part in by_hand(X, PRESENT))
    h, labels = OTHER.features.numpy(), OTHER.labels.numpy()
    mu = reference.means(x, y, len(PRESENT))
    nearest = np.array(PRESENT)[reference.nearest(h, mu)]
    decided = (h @ W.numpy().T + B.numpy()).argmax(axis=1)
    assert m.value("pfc3") == pytest.approx(np.mean(nearest == labels))
    assert m.value("nc4") == pytest.approx(np.mean(nearest == decided))
    assert m.value("accuracy") == pytest.approx(np.mean(decided == labels))
    own = [PRESENT.index(k) for k in m.classes]
    held, renumbered = (part.numpy() for part in by_hand(OTHER.features, m.classes, OTHER.labels))
    trace = sum(np.sum((mu[k] - mu[own].mean(axis=0)) ** 2) for k in own) / len(own)
    assert m.value("strong_collapse") == pytest.approx(reference.strong_collapse(held, renumbered, 5, mu[own], trace), rel=1e-9)
    squared = np.stack([np.sum((held - center) ** 2, axis=1) for center in mu]).min(axis=0)
    weak = sum(np.mean(squared[renumbered == k]) for k in range(5)) / 5 / trace
    assert m.value("weak_collapse") == pytest.approx(weak, rel=1e-9)
    expected = reference.feature_metrics(held, renumbered, 5)
    for id in ("pfc1", "nc1", "pfc2", "cdnv", "gnc2"):
        assert m.value(id) == pytest.approx(expected[id], rel=1e-9), id


@settings(max_examples=10)
@given(classes=st.sets(st.sampled_from((0, 3, 4, 5, 7)), min_size=2).map(lambda found: tuple(sorted(found))))
def test_both_splits_of_a_choice_equal_both_splits_by_hand(classes):
    train = measure_features(X, Y, classes=classes, classifier=(W, B), **OPTIONS)
    m = measure_features(
        OTHER.features, OTHER.labels, classes=classes, classifier=(W, B), split="test", reference=train, **OPTIONS
    )
    chosen, options = (
        list(classes),
        {"num_classes": len(classes), "metrics": ALL_IDS, "classifier": (W[list(classes)], B[list(classes)])},
    )
    hand = measure_features(*by_hand(X, classes), **options)
    hand = measure_features(*by_hand(OTHER.features, classes, OTHER.labels), split="test", reference=hand, **options)
    over_all_logits = {"accuracy", "nc4", "nc4_mismatch"}
    for row, other in zip(m.rows, hand.rows, strict=True):
        if row.metric not in over_all_logits:
            assert row.value == pytest.approx(other.value, rel=1e-9, abs=1e-12, nan_ok=True), row
    h, y = by_hand(OTHER.features, classes, OTHER.labels)
    decided = (h @ W.T + B).argmax(dim=1)
    assert m.value("accuracy") == pytest.approx(float((decided == torch.tensor(chosen)[y]).double().mean()))


def test_a_reference_of_all_classes_decides_among_all():
    """By the rule in the docs: to decide among fewer, measure the reference with these classes."""
    x, y = by_hand(X, PRESENT)
    train = measure_features(x, y, num_classes=6)
    m = measure_features(x, y, num_classes=6, classes=[1, 3], split="test", reference=train)
    rows = (y == 1) | (y == 3)
    nearest = reference.nearest(x.numpy(), reference.means(x.numpy(), y.numpy(), 6))[rows.numpy()]
    assert m.value("pfc3") == pytest.approx(np.mean(nearest == y[rows].numpy()))
    two = measure_features(x, y, num_classes=6, classes=[1, 3], split="test", reference=measure_features(
        x, y, num_classes=6, classes=[1, 3]
    ))  # fmt: skip
    assert two.value("pfc3") > m.value("pfc3")


def test_present_classes_that_the_reference_lacks_are_left_out():
    train = measure_features(X, Y, num_classes=K, classes=[0, 1, 3])
    m = measure_features(OTHER.features, OTHER.labels, num_classes=K, classes="present", split="test", reference=train)
    assert m.classes == (0, 3)
    assert m.chosen.endswith("2 of 8 classes (0, 3); left out: 5 not in the reference (10 samples), 1 without samples")
    with pytest.raises(
        ValueError, match=r"reference must have all named classes, but not 4\. Measure the reference with the same"
    ):
        measure_features(OTHER.features, OTHER.labels, num_classes=K, classes=[0, 4], split="test", reference=train)
    with pytest.raises(
        ValueError, match=r"reference must have all 8 classes, got 3 of them\. Measure this split with classes='pre"
    ):
        measure_features(OTHER.features, OTHER.labels, num_classes=K, split="test", reference=train)


@pytest.mark.parametrize(("choice", "words"), [
    ({"classes": "some"}, r"classes must be 'all', 'present' or class indices, got 'some'\. Name indices as \[0, 3, 7\]"),
    ({"classes": [0, 8]}, r"classes must be in \[0, 8\), got 8\. Check num_classes"),
    ({"classes": [-1, 0]}, r"classes must be in \[0, 8\), got -1\. Check num_classes"),
    ({"classes": [0, 3, 3, 0]}, r"classes must name every class once, got 0, 3 more than once\. Name each once"),
    ({"classes": []}, r"classes must name at least two classes, got \[\]\. One class alone has no geometry"),
    ({"classes": [3]}, r"classes must name at least two classes, got \[3\]\. One class alone has no geometry"),
    ({"min_per_class": -1}, r"min_per_class must be an integer, at least 0, got -1\. Pass a number of samples, or 0"),
    ({"min_per_class": True}, r"min_per_class must be an integer, at least 0, got True"),
    ({"min_per_class": 2.0}, r"min_per_class must be an integer, at least 0, got 2\.0"),
])  # fmt: skip
def test_choices_that_are_none_are_refused_before_the_data(choice, words):
    for call in (
        lambda: measure(Deep(), [], num_classes=K, **choice),
        lambda: watch(Deep(), num_classes=K, **choice),
        lambda: CollapseMetrics(num_classes=K, **choice),
        lambda: measure_features(X, Y, num_classes=K, **choice),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("classes", [[0, 1.0], [True, False], 3, None, torch.tensor([0.0, 1.0])])
def test_choices_of_another_type(classes):
    with pytest.raises(TypeError, match=r"classes must be 'all', 'present' or integer class indices, got .* Name indices as"):
        measure_features(X, Y, num_classes=K, classes=classes)


def test_choices_that_leave_nothing():
    with pytest.raises(
        ValueError, match=r"Named classes must have samples, but class 2, 6 has none\. Leave it out, or pass min"
    ):
        measure_features(X, Y, num_classes=K, classes=[0, 2, 6])
    with pytest.raises(
        ValueError, match=r"At least two classes must be left to measure, got 1 of 8: 6 have samples, at most 9 of one class\."
    ):
        measure_features(X, Y, num_classes=K, min_per_class=8)
    with pytest.raises(ValueError, match=r"must be left to measure, got 1 of 8: 1 have samples"):
        measure_features(X[Y == 4], Y[Y == 4], num_classes=K, classes="present")


@pytest.mark.parametrize("path", [False, True])
def test_a_large_vocabulary_costs_no_pairs_of_its_classes(path):
    """50,000 classes, of which six occur: a K×K matrix would take 20 GB."""
    many, (x, y) = 50_000, by_hand(X, PRESENT)
    tokens = torch.tensor([3, 41, 999, 20_000, 30_001, 49_999])
    layers, options = {"a": x, "b": x.square()}, {"metrics": ["pfc1", "pfc2", "pfc3", "nc1", "cdnv", "gnc2"], "path": path}
    stream = CollapseMetrics(num_classes=many, classes="present", **options)
    stream.update(layers, tokens[y])
    m, small = stream.compute(), measure_features(layers, y, num_classes=6, **options)
    assert m.classes == tuple(tokens.tolist())
    assert m.chosen.endswith("6 of 50000 classes (3, 41, 999, 20000, 30001, 49999); left out: 49994 without samples")
    for row, other in zip(m.rows, small.rows, strict=True):
        assert row.value == pytest.approx(other.value, rel=1e-12), row


@pytest.mark.parametrize(
    ("classes", "least", "kept"), [("present", 0, PRESENT), ([0, 3, 7], 0, (0, 3, 7)), (None, 4, (0, 1, 4, 7))]
)
def test_features_of_chosen_classes_are_collected(classes, least, kept):
    network = nn.Sequential(nn.Linear(D, 6), nn.ReLU(), nn.Linear(6, K)).double()
    features, labels = collect_features(network, [(X, Y)], num_classes=K, classes=classes, min_per_class=least)
    chosen = torch.isin(Y, torch.tensor(kept))
    with torch.no_grad():
        assert torch.equal(features["1"], network[:2](X)[chosen])
    assert torch.equal(labels, Y[chosen])
