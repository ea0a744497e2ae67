"""Merging, for every statistic: any partition in any order equals one shot; associative, commutative, `empty` neutral."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cases import all_statistics, tensors_of
from ncollapse.statistics import (
    ClassCenters,
    ClassDecisions,
    ClassifierChoices,
    ClassMoments,
    ClassScatter,
    CrossMoments,
    LinearClassifier,
    PairedMoments,
)

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(num_classes, dim, num_samples, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num_samples,), generator=generator)
    features = normal(seed, num_samples, dim) + 2 * normal(seed + 1, num_classes, dim)[labels] + 100.0
    # Centers of other data, so that every class has one.
    centers = ClassCenters.from_moments(
        ClassMoments.from_batch(normal(seed + 2, num_classes, dim) + 100.0, torch.arange(num_classes), num_classes)
    )
    classifier = LinearClassifier(normal(seed + 3, num_classes, dim), normal(seed + 4, num_classes))
    return features, labels, classifier, centers


def assert_equal_statistics(value, expected):
    expected = tensors_of(expected)
    for name, tensor in tensors_of(value).items():
        if name in ("count", "counts") or name.endswith((".counts", "correct", "agree")):
            assert torch.equal(tensor, expected[name]), name
        elif name == "residual_sums":
            # Sums of residuals of either sign: relative to what is summed.
            assert torch.allclose(tensor, expected[name], rtol=0, atol=1e-10), name
        else:
            size = float(expected[name].abs().max())
            assert torch.allclose(tensor, expected[name], rtol=1e-12, atol=1e-12 * size), name


KINDS = ["moments", "paired", "scatter", "decisions", "choices", "cross"]
SHAPES = (st.integers(2, 5), st.integers(1, 6), st.integers(1, 35), SEEDS)


def merged(values, others):
    return {kind: values[kind].merge(others[kind]) for kind in KINDS}


def assert_all_equal(values, expected):
    for kind in KINDS:
        assert_equal_statistics(values[kind], expected[kind])


@given(*SHAPES, st.integers(1, 6))
def test_any_partition_in_any_order_equals_one_shot(num_classes, dim, num_samples, seed, num_parts):
    features, labels, classifier, centers = drawn(num_classes, dim, num_samples, seed)
    generator = torch.Generator().manual_seed(seed + 7)
    part = torch.randint(0, num_parts, (num_samples,), generator=generator)
    parts = [
        all_statistics(features[part == p], labels[part == p], num_classes, classifier, centers)
        for p in torch.randperm(num_parts, generator=generator).tolist()
    ]
    # A random tree: two of those left are merged until one remains.
    while len(parts) > 1:
        i, j = torch.randperm(len(parts), generator=generator)[:2].tolist()
        both = merged(parts[i], parts[j])
        parts = [value for index, value in enumerate(parts) if index not in (i, j)] + [both]
    assert_all_equal(parts[0], all_statistics(features, labels, num_classes, classifier, centers))


@given(*SHAPES)
def test_merging_is_commutative_and_associative(num_classes, dim, num_samples, seed):
    _, _, classifier, centers = drawn(num_classes, dim, num_samples, seed)
    values = []
    for other in range(3):
        features, labels, _, _ = drawn(num_classes, dim, num_samples, seed + other)
        values.append(all_statistics(features, labels, num_classes, classifier, centers))
    a, b, c = values
    assert_all_equal(merged(a, b), merged(b, a))
    assert_all_equal(merged(merged(a, b), c), merged(a, merged(b, c)))


@given(*SHAPES)
def test_empty_is_neutral(num_classes, dim, num_samples, seed):
    features, labels, classifier, centers = drawn(num_classes, dim, num_samples, seed)
    values = all_statistics(features, labels, num_classes, classifier, centers)
    empty = {
        "moments": ClassMoments.empty(num_classes, dim),
        "paired": PairedMoments.empty(num_classes, dim),
        "scatter": ClassScatter.empty(num_classes, dim),
        "decisions": ClassDecisions.empty(centers),
        "choices": ClassifierChoices.empty(num_classes),
        "cross": CrossMoments.empty(dim, num_classes),
    }
    assert list(empty) == KINDS
    for kind, nothing in empty.items():
        for both in (values[kind].merge(nothing), nothing.merge(values[kind])):
            assert all(torch.equal(tensor, tensors_of(both)[name]) for name, tensor in tensors_of(values[kind]).items())
        twice = tensors_of(nothing.merge(nothing))
        assert all(torch.equal(tensor, twice[name]) for name, tensor in tensors_of(nothing).items())
