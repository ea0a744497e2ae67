"""What a sweep compares: one number a run at the last layer and the last epoch, and what the seeds of a setting make of it."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ncollapse.claims.estimates import Estimate, log_log_slope, spread
from ncollapse.records.reading import Run
from ncollapse.records.sweep import Sweep

__all__ = ["QUANTITIES", "Axis", "Quantity", "SettingRow", "axis_of", "setting_rows", "slope_of"]


@dataclass(frozen=True)
class Quantity:
    """A number of a run: a key, what it means, how it is read (None: undefined, not measured), whether it can be negative."""

    key: str
    meaning: str
    read: Callable[[Run], float | None]
    signed: bool = False


def _metric(key: str, meaning: str) -> Quantity:
    return Quantity(key, meaning, lambda run: run.value(key, len(run.layers) - 1))


def _objective(key: str, meaning: str) -> Quantity:
    """An entry of the objective."""
    return Quantity(key, meaning, lambda run: getattr(run.last_objective, key, None))


def _error(which: str, metric: str, meaning: str) -> Quantity:
    """An entry of ``prediction_error``, layers laid at their projection on the chord."""

    def read(run: Run) -> float | None:
        error = run.last.prediction_error.get("projection")
        return None if error is None else (error.line if which == "line" else error.null).get(metric)

    return Quantity(f"{which} {metric}", meaning, read)


def _energy(key: str, meaning: str) -> Quantity:
    return Quantity(key, meaning, lambda run: getattr(run.last.energy, key) if run.last.energy else None)


def _depth(run: Run) -> float | None:
    found = next((item for item in run.last.effective_depth if item.epsilon == 0.005), None)
    return None if found is None or not found.reached else found.depth


def _tau(run: Run) -> float | None:
    return run.status.weight_decay_time


_OFF = "off the measured layers, RMS in decades, laid at their projection on the chord"
QUANTITIES = (
    _metric("pfc1", "within- over between-class variance"),
    _metric("pfc2", "distance of class means to a simplex ETF"),
    _metric("pfc3_error", "error of the nearest class center"),
    _metric("nc1", "tr(Σ_W Σ_B⁺)/K"),
    _metric("nc2_equinorm", "spread of the lengths of class means"),
    _metric("nc2_equiangularity", "spread of the cosines of class means"),
    _metric("nc3", "classifier against class means"),
    _metric("nc2_etf_weights", "distance of the classifier to a simplex ETF"),
    _metric("nc3_cosine", "one minus the mean cosine of features with their classifier rows"),
    _objective("objective", "loss and λ/2 times the squared weights"),
    _objective("floor", "what no such network gets below: the generalized unconstrained features model's minimum"),
    _objective("excess", "objective minus floor"),
    _objective("distance", "of features and last layer from the minimizers of that model, relative"),
    Quantity("effective depth", "blocks up to a nearest-center error of at most 0.005; undefined where not reached", _depth),
    Quantity("τ", "weight-decay time; the terminal phase is from 4 on, without training error", _tau),
    Quantity(
        "straightness",
        "chord over path length of the features, mean over samples; 1 is straight",
        lambda run: run.last.straightness.mean if run.last.straightness else None,
    ),
    Quantity(
        "line-shape score",
        "number of steps over the length of the sum of their directions, mean over samples; 1 is straight",
        lambda run: run.last.straightness.line_shape_score_mean if run.last.straightness else None,
    ),
    _error("line", "pfc1", f"PFC1 of the straight line, {_OFF}"),
    _error("null", "pfc1", f"PFC1 of the log-linear null, {_OFF}"),
    _error("line", "pfc2", f"PFC2 of the straight line, {_OFF}"),
    _error("null", "pfc2", f"PFC2 of the log-linear null, {_OFF}"),
    _energy("energy", "kinetic energy, the first of the chain of costs, squared features"),
    _energy("identity_cost", "cost of the network's own pairing of first and last features, squared features"),
    _energy("wasserstein2", "squared Wasserstein-2 distance of first and last features, on a sample"),
    _energy("gelbrich", "Gelbrich's lower bound of it, from means and covariances"),
    _energy("efficiency", "energy of the straight line at constant speed over that of the path; 1 is best"),
    _energy("transport_score", "squared Wasserstein-2 distance over the cost of the network's own pairing; 1 is optimal"),
    _energy("random_ratio", "cost of a random pairing over the best; near 1 any pairing is nearly optimal"),
    Quantity(
        "alignment",
        "of first and last class means; 1 where no rotation brings them nearer",
        lambda run: run.last.alignment.alignment if run.last.alignment else None,
        signed=True,
    ),
    Quantity(
        "decay bound",
        "share of what weights and inputs allow that the blocks add; no bound where they normalize",
        lambda run: run.last.weight_decay.tightness if run.last.weight_decay else None,
    ),
)


class Axis(NamedTuple):
    """The swept settings laid on a line: numbers where one field with numbers is swept, else one place a setting."""

    label: str
    places: tuple[float, ...]
    ticks: tuple[str, ...]
    numeric: bool


class SettingRow(NamedTuple):
    """A quantity at one setting: the values of its seeds where defined, their mean and standard deviation (divisor n − 1)."""

    values: tuple[float, ...]
    mean: float
    deviation: float


def axis_of(sweep: Sweep) -> Axis:
    """Lay the settings of a sweep on an axis."""
    settings = [values for values, _ in sweep.by_setting()]
    places = tuple(float(place) for place in range(1, len(settings) + 1))
    if len(sweep.fields) != 1:
        return Axis("setting" if sweep.fields else "", places, tuple(f"{place:.0f}" for place in places), False)
    (name,), words = sweep.fields, tuple(value for (value,) in settings)
    numbers = tuple(_number(word) for word in words)
    if all(math.isfinite(number) for number in numbers):
        return Axis(name, numbers, words, True)
    return Axis(name, places, words, False)


def setting_rows(sweep: Sweep, quantity: Quantity) -> list[SettingRow]:
    """A quantity at every setting."""
    rows = []
    for _, runs in sweep.by_setting():
        found = (quantity.read(run) for run in runs)
        values = tuple(value for value in found if value is not None)
        rows.append(SettingRow(values, statistics.fmean(values) if values else math.nan, spread(values)))
    return rows


def slope_of(axis: Axis, rows: list[SettingRow]) -> Estimate | None:
    """The log-log slope over the runs with a positive setting."""
    pairs = [(x, y) for x, row in zip(axis.places, rows, strict=True) for y in row.values if x > 0]
    if not axis.numeric or any(y <= 0 for _, y in pairs) or len({x for x, _ in pairs}) < 2:
        return None
    return log_log_slope(*zip(*pairs, strict=True))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
