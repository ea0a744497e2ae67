"""What claims of the paper say of a single run: true or false, or a number that is positive where the claim is right."""

from collections.abc import Callable
from itertools import pairwise

from ncollapse.report.claim_rules import RULES
from ncollapse.report.reading import Run

__all__ = [
    "falls_before_effective_depth",
    "falls_over_depth",
    "line_beats_null",
    "order_gained",
    "theorem1_assumption",
    "theorem1_conclusion",
    "theorem2_conclusion",
]

_PROGRESSIVE = ("pfc1", "pfc2", "pfc3_error")


def falls_over_depth(metric: str) -> Callable[[Run], bool | None]:
    """A test of whether a metric falls over depth at the last epoch: it rises at no step and ends below its start.

    Args:
        metric: One that goes to 0 at collapse.

    Returns:
        The test; None of a run with an undefined value, with a single layer, or with 0 at all layers.
    """
    return lambda run: _falls(run.over_depth(metric))


def falls_before_effective_depth(metric: str) -> Callable[[Run], bool | None]:
    """The same, over the steps up to the effective depth.

    Args:
        metric: One that goes to 0 at collapse.

    Returns:
        The test; None also of a run with effective depth 0, which has no such step.
    """

    def test(run: Run) -> bool | None:
        errors = run.over_depth("pfc3_error")
        depth = next((i for i, error in enumerate(errors) if error is not None and error <= RULES.epsilon), len(errors) - 1)
        return _falls(run.over_depth(metric)[: depth + 1])

    return test


def order_gained(run: Run) -> float | None:
    """Share of steps at which PFC1, PFC2 and the NCC error rise before training, minus that share at the last epoch.

    Args:
        run: The run.

    Returns:
        A number in [-1, 1]; None without a measurement before training or with undefined values.
    """
    if run.epochs[0] != 0 or run.epochs[-1] == 0:
        return None
    before, after = (_share_of_rises(run, epoch) for epoch in (0, run.epochs[-1]))
    return None if before is None or after is None else before - after


def line_beats_null(metric: str, position: str) -> Callable[[Run], float | None]:
    """A test of by how many decades the straight line's RMS error over the interior layers is below the null's.

    Args:
        metric: pfc1 or pfc2.
        position: How layers are laid on the line.

    Returns:
        The test; None of a run without both errors.
    """

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


def _falls(values: list[float | None]) -> bool | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(values) < 2 or not any(known):
        return None
    return all(after <= before for before, after in pairwise(known)) and known[-1] < known[0]


def _share_of_rises(run: Run, epoch: int) -> float | None:
    steps = [step for metric in _PROGRESSIVE for step in pairwise(run.over_depth(metric, epoch))]
    rises = [after > before for before, after in steps if before is not None and after is not None]
    return sum(rises) / len(rises) if rises and len(rises) == len(steps) else None
