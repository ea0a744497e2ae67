"""The data inside the page: what the epoch slider draws and what the CSV download holds."""

import math
from typing import Any

from ncollapse.drawing.theory_sentences import say_errors
from ncollapse.drawing.wording import number
from ncollapse.records.depth import Curve, DepthRecord
from ncollapse.records.reading import Run
from ncollapse.records.rows import Row

# A curve on the screen needs neither more points nor more digits; the files hold all of them.
_CURVE_STRIDE = 2
_DRAWN_DIGITS = 4
_TABLE_DIGITS = 9
_METRICS = ("pfc1", "pfc2", "pfc3")


def build_payload(run: Run) -> dict[str, Any]:
    """Everything the page's script needs of one run."""
    measured = sorted({row.epoch for row in run.rows if row.epoch is not None})
    return {
        "unit": run.unit,
        "layers": run.layers,
        "depths": run.depths,
        "epochs": [_epoch(run, run.records[epoch]) for epoch in run.epochs],
        "table": {"epochs": measured, "series": _series(run, measured)},
    }


def _epoch(run: Run, record: DepthRecord) -> dict[str, Any]:
    errors = {
        place: {
            metric: say_errors(line, error.baseline.get(metric), error.flow.get(metric)) for metric, line in error.line.items()
        }
        for place, error in record.prediction_error.items()
    }
    return {
        "epoch": record.epoch,
        "positions": {key: [_round(value) for value in values] for key, values in record.positions.items()},
        "values": {metric: [_round(value) for value in run.over_depth(metric, record.epoch)] for metric in _METRICS},
        "noise": {metric: [_round(v) for v in run.over_depth(f"{metric}.noise", record.epoch)] for metric in _METRICS},
        "curve": _curve(record.curve),
        "baseline": _curve(record.baseline),
        "errors": errors,
    }


def _curve(curve: Curve) -> dict[str, list[float | None]]:
    columns = {"t": curve.t, "pfc1": curve.pfc1, "pfc2": curve.pfc2, "pfc3": curve.pfc3 or ()}
    return {key: [_round(value) for value in values[::_CURVE_STRIDE]] for key, values in columns.items()}


def _series(run: Run, epochs: list[float]) -> list[list[Any]]:
    index: dict[float | None, int] = {epoch: i for i, epoch in enumerate(epochs)}
    series: dict[tuple[str, int, str, str], tuple[list[Any], dict[int, str]]] = {}
    for row in run.rows:
        values, flags = series.setdefault((row.split, row.depth, row.layer, row.metric), ([""] * len(epochs), {}))
        values[index[row.epoch]] = _tabled(row)
        if row.flags:
            flags[index[row.epoch]] = ";".join(row.flags)
    return [[*key, values, flags] for key, (values, flags) in series.items()]


def _tabled(row: Row) -> float | str | None:
    if math.isinf(row.value):
        return "inf" if row.value > 0 else "-inf"
    return None if math.isnan(row.value) else _shorten(row.value, _TABLE_DIGITS)


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else _shorten(value, _DRAWN_DIGITS)


def _shorten(value: float, digits: int) -> float | int:
    """Fewer digits, and 1 instead of 1.0: the page is made of these."""
    short = float(number(value, digits))
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
