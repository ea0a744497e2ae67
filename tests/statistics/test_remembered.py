"""Moments that remember what follows from them: the same values, each computed once."""

import pytest
import torch

from cases import CASES
from ncollapse.statistics import ClassMoments
from ncollapse.statistics.remembered import RememberedMoments

CASE = CASES["imbalanced"]


@pytest.mark.parametrize("empty", [False, True])
def test_what_is_remembered_is_what_is_computed(empty):
    moments = ClassMoments.from_batch(CASE.features, CASE.labels, 5 if empty else 4)
    own = RememberedMoments.of(moments)
    values = {
        "centered_means": ("class", "sample"), "within_trace": ("class", "sample"), "class_weights": ("class", "sample"),
        "between_trace": ("class", "sample", "papyan"), "global_mean": ("class", "sample"),
    }  # fmt: skip
    for name, choices in values.items():
        for choice in choices:
            expected = getattr(moments, name)(choice)
            assert torch.equal(getattr(own, name)(choice).nan_to_num(7), expected.nan_to_num(7))
    for name in ("class_means", "class_variances", "rounding_floor"):
        assert torch.equal(getattr(own, name).nan_to_num(7), getattr(moments, name).nan_to_num(7))


def test_each_is_computed_once():
    own = RememberedMoments.of(ClassMoments.from_batch(CASE.features, CASE.labels, 4))
    assert own.centered_means("class") is own.centered_means()
    assert own.between_trace("sample") is own.between_trace("sample")
    assert own.rounding_floor is own.rounding_floor
