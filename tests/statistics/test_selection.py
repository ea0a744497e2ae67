"""Selection of classes by their counts."""

import pytest
import torch

from cases import CASES, tensors_of
from ncollapse import metrics as m
from ncollapse.statistics import ClassMoments, select_classes
from ncollapse.statistics.selection import ClassSelection

CASE = CASES["imbalanced"]
MOMENTS = ClassMoments.from_batch(CASE.features, CASE.labels, 4)


@pytest.mark.parametrize(("low", "high", "classes"), [
    (1, None, [0, 1, 2, 3]), (4, None, [0, 1, 3]), (1, 7, [1, 2, 3]), (4, 7, [1, 3]), (9, 9, [0]),
])  # fmt: skip
def test_selecting_equals_collecting_the_selected_classes_alone(low, high, classes):
    # Counts 9, 4, 3, 7.
    selected = select_classes(MOMENTS, min_per_class=low, max_per_class=high)
    assert selected.classes.tolist() == classes
    kept = torch.isin(CASE.labels, selected.classes)
    labels = torch.searchsorted(selected.classes, CASE.labels[kept])
    alone = ClassMoments.from_batch(CASE.features[kept], labels, len(classes))
    expected = tensors_of(alone)
    assert all(torch.allclose(tensor, expected[name], rtol=1e-13) for name, tensor in tensors_of(selected.moments).items())


def test_classes_that_do_not_occur_are_dropped_and_metrics_are_defined_again():
    moments = ClassMoments.from_batch(CASE.features, CASE.labels + 2, 9)
    selected = select_classes(moments)
    assert selected.classes.tolist() == [2, 3, 4, 5]
    assert torch.isnan(m.cdnv(moments))
    assert float(m.cdnv(selected.moments, dist_exp=2)) == pytest.approx(float(m.cdnv(MOMENTS, dist_exp=2)), rel=1e-14)


def test_a_range_without_classes_is_named():
    with pytest.raises(ValueError, match=r"a class with 10 to any number samples, got counts from 3 to 9\. Widen the range"):
        select_classes(MOMENTS, min_per_class=10)
    with pytest.raises(ValueError, match=r"a class with 1 to 2 samples, got counts from 3 to 9"):
        select_classes(MOMENTS, max_per_class=2)


def test_labels_are_renumbered_among_the_selected_classes():
    selection = ClassSelection(torch.tensor([1, 3]), num_labels=5)
    labels = torch.tensor([3, 1, 0, 4, -1, 5, 7, 1])
    assert selection.renumber(labels).tolist() == [1, 0, -1, -1, -1, -1, -1, 0]
    assert selection.rows(labels).tolist() == [0, 1, 7]
    assert selection.rows(torch.tensor([1, 3, 3])) is None
    with_first = ClassSelection(torch.tensor([0, 3]), num_labels=5)
    assert with_first.renumber(labels).tolist() == [1, -1, 0, -1, -1, -1, -1, -1]
