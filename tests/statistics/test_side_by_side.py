"""Small layers side by side: the bits of each layer alone, also where a layer's moments were replaced in between."""

import pytest
import torch

from ncollapse.statistics import ClassCenters, ClassMoments
from ncollapse.statistics.batch import LabelGroups, Workspace
from ncollapse.statistics.side_by_side import RunningMoments, stacked_moments

K = 5
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, K, (60,), generator=GENERATOR)
LAYERS = {name: torch.randn(60, dim, generator=GENERATOR) + 9 for name, dim in {"a": 7, "b": 3, "c": 7, "d": 7}.items()}
BATCHES = (slice(0, 2), slice(2, 30), slice(30, 31), slice(31, 60))


def alone(name, batches=BATCHES):
    moments = ClassMoments.empty(K, LAYERS[name].shape[1])
    for rows in batches:
        moments.merge_groups_(LAYERS[name][rows], LabelGroups.from_labels(LABELS[rows], K, moments.counts))
    return moments


def added(replaced=None, names=("c",)):
    moments = {name: ClassMoments.empty(K, features.shape[1]) for name, features in LAYERS.items()}
    running, workspace = RunningMoments(), Workspace()
    for index, rows in enumerate(BATCHES):
        if index == replaced:
            moments |= {name: ClassMoments(*(part.clone() for part in vars(moments[name]).values())) for name in names}
        groups = LabelGroups.from_labels(LABELS[rows], K, moments["a"].counts.clone())
        running.add_(moments, {name: features[rows] for name, features in LAYERS.items()}, groups, workspace)
    return moments


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_each_layer_has_the_bits_that_it_has_alone():
    assert all(same(value, alone(name)) for name, value in added().items())


@pytest.mark.parametrize("names", ["c", "abcd"])
def test_moments_that_were_replaced_count_on(names):
    assert all(same(value, alone(name)) for name, value in added(replaced=2, names=names).items())


def test_a_layer_can_be_added_to_alone_in_between():
    moments = {name: alone(name, BATCHES[:2]) for name in ("a", "c")}
    running, workspace = RunningMoments(), Workspace()
    for rows in BATCHES[2:3]:
        groups = LabelGroups.from_labels(LABELS[rows], K, moments["a"].counts.clone())
        running.add_(moments, {name: LAYERS[name][rows] for name in moments}, groups, workspace)
    groups = LabelGroups.from_labels(LABELS[BATCHES[3]], K, moments["a"].counts.clone())
    for name, value in moments.items():
        value.merge_groups_(LAYERS[name][BATCHES[3]], groups)
        assert same(value, alone(name))


def test_moments_apart_share_no_memory_with_other_layers():
    moments = added()
    assert moments["a"].means.untyped_storage().data_ptr() == moments["c"].means.untyped_storage().data_ptr()
    own = moments["a"].apart()
    assert same(own, moments["a"])
    assert own.means.untyped_storage().nbytes() == own.means.nbytes


def test_centers_of_stacked_layers_are_those_of_each():
    moments = {name: alone(name) for name in LAYERS}
    stacks = stacked_moments(moments)
    assert list(stacks) == [("a", "c", "d"), ("b",)]
    assert stacks["b",] is moments["b"]
    stack = stacks["a", "c", "d"]
    whole = ClassCenters.in_basis(stack, ClassCenters.basis_of(stack))
    for index, name in enumerate(("a", "c", "d")):
        own, expected = whole.of_layer(index, moments[name]), ClassCenters.from_moments(moments[name])
        assert torch.allclose(own.basis @ own.basis.T, expected.basis @ expected.basis.T, atol=1e-13)
        assert torch.allclose(own.separations, expected.separations, rtol=1e-12)
        assert torch.equal(own.first, expected.first)
        assert own.basis.untyped_storage().nbytes() == own.basis.nbytes


def test_stacked_layers_of_few_dimensions_are_not_projected():
    moments = {name: ClassMoments.from_batch(LAYERS[name][:, :3], LABELS, K) for name in ("a", "c")}
    (stack,) = stacked_moments(moments).values()
    whole = ClassCenters.in_basis(stack, ClassCenters.basis_of(stack))
    for index, value in enumerate(moments.values()):
        own = whole.of_layer(index, value)
        assert own.spans_all
        assert torch.allclose(own.coordinates, ClassCenters.from_moments(value).coordinates, rtol=1e-13)


@pytest.mark.parametrize("weights", ["class", "sample"])
def test_numbers_of_stacked_layers_are_those_of_each(weights):
    moments = {name: alone(name) for name in ("a", "c", "d")}
    (stack,) = stacked_moments(moments).values()
    assert (stack.num_classes, stack.dim) == (K, 7)

    def numbers(of):
        means = of.class_means, of.global_mean(weights), of.centered_means(weights)
        return *means, of.class_variances, of.rounding_floor, of.within_trace(weights), of.between_trace(weights)

    for index, value in enumerate(moments.values()):
        assert all(torch.allclose(a[index], b, rtol=1e-9, atol=0) for a, b in zip(numbers(stack), numbers(value), strict=True))
