"""Progression over depth and effective depth: closed cases, ties, undefined values, tolerance."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from ncollapse import measure_features
from ncollapse.depth import EPSILONS, effective_depth, progression


def kendall_tau_b(values):
    """By counting pairs; the layer index has no ties."""
    signs = [np.sign(b - a) for a, b in combinations(values, 2)]
    untied = sum(s != 0 for s in signs)
    return sum(signs) / math.sqrt(len(signs) * untied)


def spearman(values):
    """Pearson's correlation of average ranks."""
    ranks = [np.mean([i for i, v in enumerate(sorted(values)) if v == value]) for value in values]
    return np.corrcoef(range(len(values)), ranks)[0, 1]


def test_a_strict_decrease():
    result = progression([5.0, 3.0, 0.5, 0.1])
    assert result.violations == ()
    assert (result.largest, result.tolerance) == (0.0, 0.0)
    assert (result.kendall_tau, result.spearman) == (pytest.approx(-1, abs=1e-12), pytest.approx(-1, abs=1e-12))
    assert result.monotone


def test_violations_name_the_layer_that_rose_and_the_largest_rise_is_a_difference():
    result = progression([4.0, 1.0, 1.5, 0.5, 2.75, 2.0])
    assert result.violations == (2, 4)
    assert result.largest == 2.25
    assert not result.monotone


@pytest.mark.parametrize(
    "values", [[3.0, 1.0, 2.0], [1.0, 2.0, 2.0, 0.5, 0.5, 0.7], [2.0, 2.0, 1.0], [0.1, 5.0, 4.0, 4.0, 3.0]]
)
def test_correlations_equal_their_definitions(values):
    result = progression(values)
    assert result.kendall_tau == pytest.approx(kendall_tau_b(values), abs=1e-12)
    assert result.spearman == pytest.approx(spearman(values), abs=1e-12)


def test_equal_neighbors_are_no_violation():
    assert progression([2.0, 1.0, 1.0]).violations == ()
    assert progression([2.0, 1.0, math.nextafter(1.0, 2.0)]).violations == (2,)


def test_a_rise_within_the_tolerance_passes_but_counts_as_the_largest():
    values = [1.0, 1.0625, 0.5, 0.75]
    assert progression(values, tolerance=0.0625).violations == (3,)
    assert progression(values, tolerance=0.06).violations == (1, 3)
    assert progression(values, tolerance=0.5).violations == ()
    assert progression(values, tolerance=0.5).largest == 0.25
    assert progression(values, tolerance=0.5).tolerance == 0.5
    # Relative to the value before, not absolute.
    assert progression([100.0, 101.0, 1.0, 1.015], tolerance=0.0125).violations == (3,)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"tolerance must be at least 0, got -0\.1"):
        progression([1.0], tolerance=-0.1)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_undefined_value_leaves_nothing_monotone(position):
    values = [3.0, 2.0, 1.0]
    values[position] = math.nan
    result = progression(values)
    assert result.violations == ()
    assert all(math.isnan(x) for x in (result.largest, result.kendall_tau, result.spearman))
    assert not result.monotone


def test_violations_beside_an_undefined_value_are_still_named():
    assert progression([1.0, 2.0, math.nan, 0.5, 0.7]).violations == (1, 4)


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0]])
def test_correlations_need_two_values_that_differ(values):
    result = progression(values)
    assert math.isnan(result.kendall_tau)
    assert math.isnan(result.spearman)
    assert result.largest == 0.0
    assert result.monotone


def test_two_layers_that_rise():
    result = progression([1.0, 2.0])
    assert (result.violations, result.largest) == ((1,), 1.0)
    assert (result.kendall_tau, result.spearman) == (pytest.approx(1.0), pytest.approx(1.0))


def test_effective_depth_is_the_first_layer_within_epsilon():
    result = effective_depth([0.5, 0.25, 0.005, 0.0])
    assert (result.epsilon, result.depth, result.reached, result.monotone_after) == (0.005, 2, True, True)
    assert effective_depth([0.5, 0.25, 0.005, 0.0], 0.0).depth == 3
    assert effective_depth([0.5, 0.25, 0.005, 0.0], 0.3).depth == 1


def test_effective_depth_is_the_last_layer_when_none_is_good_enough():
    result = effective_depth([0.5, 0.4, 0.3], 0.01)
    assert (result.depth, result.reached, result.monotone_after) == (2, False, False)


def test_monotone_after_looks_at_all_deeper_layers():
    result = effective_depth([0.5, 0.0, 0.0, 0.1, 0.0], 0.01)
    assert (result.depth, result.reached, result.monotone_after) == (1, True, False)
    assert not effective_depth([0.5, 0.0, 0.1], 0.01).monotone_after


def test_the_first_layer_can_be_left_out():
    assert effective_depth([0.0, 0.5, 0.0]).depth == 0
    result = effective_depth([0.0, 0.5, 0.0], first_layer=1)
    assert (result.depth, result.reached) == (2, True)


def test_undefined_errors_reach_nothing():
    result = effective_depth([math.nan, 0.0, math.nan])
    assert (result.depth, result.reached, result.monotone_after) == (1, True, False)
    assert not effective_depth([math.nan, math.nan]).reached


def test_effective_depth_does_not_grow_with_epsilon_and_is_three_where_collapse_starts_at_three():
    errors = [0.6, 0.03, 0.009, 0.0, 0.0]
    depths = [effective_depth(errors, epsilon).depth for epsilon in EPSILONS]
    assert EPSILONS == (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)
    assert depths == [3, 3, 3, 2, 2, 1]
    assert all(effective_depth([0.6, 0.5, 0.4, 0.0], epsilon).depth == 3 for epsilon in EPSILONS)


@pytest.mark.parametrize(("errors", "epsilon", "first"), [([], 0.1, 0), ([0.1], -0.1, 0), ([0.1], 0.1, 1), ([0.1], 0.1, -1)])
def test_effective_depth_refuses_what_has_no_answer(errors, epsilon, first):
    with pytest.raises(
        ValueError, match=f"needs epsilon >= 0 and errors of at least {first + 1} layers, got epsilon={epsilon}"
    ):
        effective_depth(errors, epsilon, first_layer=first)


def test_what_is_asked_unless_said():
    assert EPSILONS == (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)
    assert progression([1.0, 1.5]) == progression([1.0, 1.5], tolerance=0.0)
    assert progression([1.0, 1.5]).violations == (1,)
    assert effective_depth([0.005, 0.0]).depth == effective_depth([0.005, 0.0], 0.005, first_layer=0).depth == 0
    with pytest.raises(ValueError, match=r"errors of at least 1 layers, got epsilon=0\.005 and 0 layers"):
        effective_depth([])


def test_two_values_are_enough_for_a_correlation():
    assert progression([3.0, 1.0]).kendall_tau == pytest.approx(-1)
    assert progression([2.0, 1.0, 1.0]).kendall_tau == pytest.approx(kendall_tau_b([2.0, 1.0, 1.0]))


def test_values_by_layer_are_taken_as_a_measurement_gives_them():
    by_layer = {"1": 0.4, "head": 0.2, "3": 0.0}
    assert effective_depth(by_layer, 0.2) == effective_depth([0.4, 0.2, 0.0], 0.2)
    assert progression(by_layer) == progression([0.4, 0.2, 0.0])


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (effective_depth, r"`errors` must be one number per layer, .* got Measurement\..*: Call m\.effective_depth\(\)\."),
        (
            progression,
            r"`values` must be one number per layer, .* got Measurement\..*: Pass one of its metrics, such as m\['pfc1'\]",
        ),
    ],
)
def test_a_measurement_is_told_what_to_pass(function, advice):
    measured = measure_features({"a": torch.eye(3).repeat(2, 1)}, torch.arange(6) % 3, num_classes=3)
    with pytest.raises(TypeError, match=advice):
        function(measured)
