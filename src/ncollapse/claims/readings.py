"""Numbers of a single run that claims compare between runs, at the last epoch; None where undefined."""

from collections.abc import Callable

from ncollapse.claims.predicates import line_beats_null
from ncollapse.records.reading import Run

__all__ = ["efficiency", "energy", "line_error", "line_margin", "line_shape", "straightness"]

_PLACE = "projection"


def straightness(run: Run) -> float | None:
    """Mean straightness over samples."""
    return run.last.straightness.mean if run.last.straightness else None


def line_shape(run: Run) -> float | None:
    """Mean line-shape score over samples."""
    return run.last.straightness.line_shape_score_mean if run.last.straightness else None


def energy(run: Run) -> float | None:
    """Kinetic energy of the paths, squared features."""
    return run.last.energy.energy if run.last.energy else None


def efficiency(run: Run) -> float | None:
    """Share of it that the straight line at constant speed would need."""
    return run.last.energy.efficiency if run.last.energy else None


def line_error(metric: str) -> Callable[[Run], float | None]:
    """The straight line's RMS error in decades, layers at their projection."""

    def read(run: Run) -> float | None:
        error = run.last.prediction_error.get(_PLACE)
        return error.line.get(metric) if error else None

    return read


def line_margin(metric: str) -> Callable[[Run], float | None]:
    """By how many decades that is below the null's."""
    return line_beats_null(metric, _PLACE)
