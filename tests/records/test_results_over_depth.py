"""Numbers that records of results over depth derive from what they hold: shares, ratios and sums, None where undefined."""

import math
from dataclasses import replace

import pytest

from ncollapse.records.depth import APART, EPSILON, Energy, ExcessEnergy, Progression
from ncollapse.records.theorems import BlockBound, Flattening, WeightDecayBound, total_of

# Three blocks; the energy is what the parts add up to.
EXCESS = ExcessEnergy(18.0, (1.0, 0.5, 0.5), (2.0, 1.0, 0.0), 13.0, 9.0, (1.0, 4.0, 1.0))


def test_thresholds_that_words_about_runs_rest_on():
    assert (EPSILON, APART) == (0.005, 0.02)


def test_the_excess_is_the_sum_of_its_parts():
    assert EXCESS.excess == 18 - 9
    shares = (EXCESS.speed_share, EXCESS.bend_share, EXCESS.pairing_share)
    assert shares == (2 / 9, 3 / 9, 4 / 9)
    assert sum(shares) == pytest.approx(1, abs=1e-15)
    # Steps of 1, 2 and 1 for a way of 3.
    assert EXCESS.detour == 4 / 3


@pytest.mark.parametrize("name", ["energy", "wasserstein2"])
def test_without_its_ends_the_excess_has_no_parts(name):
    found = replace(EXCESS, **{name: None})
    assert (found.excess, found.speed_share, found.bend_share, found.pairing_share) == (None,) * 4


def test_a_part_that_is_undefined_leaves_the_others():
    found = replace(EXCESS, speed=(1.0, None, 0.5), identity_cost=None)
    assert (found.speed_share, found.bend_share, found.pairing_share) == (None, 1 / 3, None)
    assert replace(EXCESS, bend=(None, 1.0, 0.0)).bend_share is None


@pytest.mark.parametrize(("excess", "has_parts"), [(0.0, False), (-1.0, False), (0.5, False), (1.0, False), (1.5, True)])
def test_an_excess_that_is_rounding_has_no_parts(excess, has_parts):
    """Of an energy of 1e12, a double knows some 1e-4; an excess of at most 1e-12 of it says nothing."""
    found = replace(EXCESS, energy=1e12, wasserstein2=1e12 - excess, speed=(0.75,))
    assert found.speed_share == (0.5 if has_parts else None)


def test_a_detour_needs_a_way_and_every_step():
    assert replace(EXCESS, step_wasserstein2=(1.0, None, 1.0)).detour is None
    assert replace(EXCESS, wasserstein2=0.0).detour is None
    assert replace(EXCESS, wasserstein2=None).detour is None
    # A block that moves nothing is no detour.
    assert replace(EXCESS, step_wasserstein2=(9.0, 0.0, 0.0)).detour == 1


def test_ratios_of_the_energy():
    energy = Energy(0.5, wasserstein2=8.0, identity_cost_sample=10.0, random_cost_sample=20.0)
    assert (energy.transport_score, energy.random_ratio) == (0.8, 2.5)
    nothing = Energy(None, wasserstein2=0.0, identity_cost_sample=0.0, random_cost_sample=20.0)
    assert (nothing.transport_score, nothing.random_ratio) == (None, None)
    assert replace(energy, identity_cost_sample=None, random_cost_sample=None).transport_score is None
    assert replace(energy, random_cost_sample=None).random_ratio is None
    assert replace(energy, wasserstein2=None).transport_score is None
    assert replace(energy, wasserstein2=0.0).transport_score == 0


@pytest.mark.parametrize(
    ("violations", "largest", "monotone"), [((), 0.0, True), ((2,), 0.1, False), ((), math.nan, False), ((2,), math.nan, False)]
)
def test_a_decrease_is_monotone_where_every_value_is_known(violations, largest, monotone):
    assert Progression(violations, largest, -1.0, -1.0, 0.0).monotone is monotone


def test_sums_over_blocks_and_how_much_of_the_bound_is_used():
    blocks = (BlockBound(1.0, 2.0, 4.0, squared_weights=8.0), BlockBound(2.0, 4.0, 16.0, squared_weights=32.0))
    bound = WeightDecayBound(blocks)
    assert (bound.energy, bound.by_moment, bound.by_weights, bound.squared_weights) == (3.0, 6.0, 20.0, 40.0)
    assert bound.tightness == 0.5
    assert WeightDecayBound(blocks, is_bound=False).tightness is None
    assert WeightDecayBound((replace(blocks[0], energy=None), blocks[1])).tightness is None
    assert WeightDecayBound((replace(blocks[0], by_moment=None), blocks[1])).tightness is None
    assert WeightDecayBound(()).tightness is None
    assert WeightDecayBound((replace(blocks[0], energy=0.0),)).tightness == 0
    assert (total_of([]), total_of([1.0, None])) == (0, None)


def test_the_defect_of_flattening_puts_both_parts_together():
    found = Flattening(3.0, 4.0, 1.0, False, 1.0, 1.0, False)
    assert found.defect == 5
    assert replace(found, misalignment=None).defect is replace(found, ratio_defect=None).defect is None
