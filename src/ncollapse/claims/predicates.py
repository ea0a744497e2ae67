"""What claims of the paper say of a single run: true or false, or a number that is positive where the claim is right."""

import math
from collections.abc import Callable
from itertools import pairwise

from ncollapse.claims.rules import RULES
from ncollapse.records.reading import Run

__all__ = [
    "aligned",
    "falls_before_effective_depth",
    "falls_over_depth",
    "line_beats_null",
    "nearly_optimal_pairing",
    "optimal_pairing",
    "order_gained",
    "pfc1_lost_in_training",
    "theorem1_assumption",
    "theorem1_conclusion",
    "theorem2_conclusion",
    "within_decay_bound",
]

_PROGRESSIVE = ("pfc1", "pfc2", "pfc3_error")
# Relative excess of a cost that is the rounding of a mean over samples.
_ROUNDING = 1e-12


def falls_over_depth(metric: str) -> Callable[[Run], bool | None]:
    """A test of whether a metric falls over depth at the last epoch: it rises at no step and ends below its start."""
    return lambda run: _falls(run.over_depth(metric))


def falls_before_effective_depth(metric: str) -> Callable[[Run], bool | None]:
    """The same, over the steps up to the effective depth."""

    def test(run: Run) -> bool | None:
        errors = run.over_depth("pfc3_error")
        depth = next((i for i, error in enumerate(errors) if error is not None and error <= RULES.epsilon), len(errors) - 1)
        return _falls(run.over_depth(metric)[: depth + 1])

    return test


def order_gained(run: Run) -> float | None:
    """Share of steps at which PFC1, PFC2 and the NCC error rise before training, minus that share at the last epoch."""
    if run.epochs[0] != 0 or run.epochs[-1] == 0:
        return None
    before, after = (_share_of_rises(run, epoch) for epoch in (0, run.epochs[-1]))
    return None if before is None or after is None else before - after


def line_beats_null(metric: str, position: str) -> Callable[[Run], float | None]:
    """A test of by how many decades the straight line's RMS error over the interior layers is below the null's."""

    def test(run: Run) -> float | None:
        error = run.last.prediction_error.get(position)
        line, null = (error.line.get(metric), error.null.get(metric)) if error else (None, None)
        return None if line is None or null is None else null - line

    return test


def theorem1_assumption(run: Run) -> bool | None:
    """Whether first and last centered class means correlate, C ≥ 0; None where undefined."""
    return run.last.theorem1.holds if run.last.theorem1 else None


def theorem1_conclusion(run: Run) -> bool | None:
    """Whether PFC1 falls all along the line between the measured ends; None where undefined."""
    return run.last.theorem1.monotone if run.last.theorem1 else None


def theorem2_conclusion(run: Run) -> bool | None:
    """Whether PFC2 falls all along the line between the measured ends; None where undefined."""
    return run.last.theorem2.monotone if run.last.theorem2 else None


def optimal_pairing(run: Run) -> bool | None:
    """Whether no pairing of first and last features of the sample costs less than the network's own, up to rounding."""
    score = run.last.energy.transport_score if run.last.energy else None
    return None if score is None else score >= 1 - _ROUNDING


def nearly_optimal_pairing(run: Run) -> bool | None:
    """Whether the network's pairing costs little more than the best, measured by what a random one costs more."""
    energy = run.last.energy
    if energy is None or energy.wasserstein2 is None:
        return None
    own, random = energy.identity_cost_sample, energy.random_cost_sample
    if own is None or random is None or not random > energy.wasserstein2:
        return None
    return own - energy.wasserstein2 <= RULES.transport_gap * (random - energy.wasserstein2)


def aligned(run: Run) -> bool | None:
    """Whether first and last class means are aligned well enough; None where undefined."""
    alignment = run.last.alignment.alignment if run.last.alignment else None
    return None if alignment is None else alignment >= RULES.alignment


def within_decay_bound(run: Run) -> bool | None:
    """Whether every block adds at most what its weights allow; None where they bound nothing."""
    found = run.last.weight_decay
    if found is None or not found.is_bound:
        return None
    chains = [(block.energy, block.by_moment, block.by_weights) for block in found.blocks]
    if any(value is None for chain in chains for value in chain):
        return None
    return all(a <= b * (1 + _ROUNDING) for chain in chains for a, b in pairwise(chain) if a is not None and b is not None)


def pfc1_lost_in_training(run: Run) -> float | None:
    """Decades by which PFC1 of the last layer falls from before training to the end; None where one is undefined or 0."""
    last = len(run.layers) - 1
    before, after = run.value("pfc1", last, 0), run.value("pfc1", last)
    return math.log10(before / after) if before and after else None


def _falls(values: list[float | None]) -> bool | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(values) < 2 or not any(known):
        return None
    return all(after <= before for before, after in pairwise(known)) and known[-1] < known[0]


def _share_of_rises(run: Run, epoch: int) -> float | None:
    steps = [step for metric in _PROGRESSIVE for step in pairwise(run.over_depth(metric, epoch))]
    rises = [after > before for before, after in steps if before is not None and after is not None]
    return sum(rises) / len(rises) if rises and len(rises) == len(steps) else None
