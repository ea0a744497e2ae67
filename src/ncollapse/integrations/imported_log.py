"""Logs of CSV and JSON lines, also of earlier versions, as run directories."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from ncollapse.integrations.recorded_run import RecordedRun, RecordedSource
from ncollapse.records.bounded import read_at_most
from ncollapse.records.rows import Row
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import RecordedTime, Unit

# What every log has had, in this order, besides an epoch, a step and (since version 0.2) a standard error.
_NEEDED = ("split", "depth", "layer", "metric", "value", "flags")
# Three million lines.
_MOST_BYTES = 1 << 28
_REMEDY = "Name a file that CSVLog, JSONLLog or a callback wrote."


def import_log(file: str | Path, out: str | Path) -> Path:
    """Make a run directory of a log, so that pages and comparisons can be made of it.

    Nothing is known of the samples' paths, of the training's history and of its settings. The run is over epochs if all rows
    have whole ones, else over steps.

    Args:
        file: A log that ``CSVLog``, ``JSONLLog`` or a callback wrote, of this or an earlier version.
        out: The folder, new or empty.

    Returns:
        The folder.

    Raises:
        ValueError: If the file is no such log, holds a measurement twice, or the folder is not empty.
        OSError: If the file cannot be read, or the folder not be written.
    """
    file = Path(file)
    rows = list(_rows(file))
    if not rows:
        raise ValueError(f"{file} must hold at least one measurement, got none. {_REMEDY}")
    whole = all(isinstance(row.epoch, int) for row in rows)
    # Several steps of one epoch are told apart by their steps.
    unit: Unit = (
        "epoch" if whole and len({(row.epoch, row.step) for row in rows}) == len({row.epoch for row in rows}) else "step"
    )
    _check(file, rows, unit)
    steps = {getattr(row, unit): row.step for row in rows}
    if not RunDirectory(out).is_empty():
        raise ValueError(f"{out} must be a new or empty folder, got one that holds something. Choose another one.")
    source = RecordedSource(unit, max(steps), {"imported": file.name}, noted={"imported": str(file)})
    run = RecordedRun(out, source, resume=True)
    run.import_rows(rows, [RecordedTime(time, step) for time, step in steps.items()])
    return run.path


def _rows(file: Path) -> Iterator[Row]:
    try:
        # A killed training may have left the last line in part. Not splitlines(): names may hold other line ends.
        lines = read_at_most(file, _MOST_BYTES).decode().replace("\r\n", "\n").split("\n")[:-1]
        if lines and lines[0].startswith("{"):
            yield from (_row(msgspec.convert(json.loads(line), _Entry)) for line in lines)
        else:
            yield from map(_row, map(_entry, csv.DictReader(line + "\n" for line in lines)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise ValueError(
            f"{file} must be a log with the columns epoch or step, {', '.join(_NEEDED)}, got another file or a damaged one "
            f"({type(error).__name__}: {error}). {_REMEDY}"
        ) from error


@dataclass(frozen=True)
class _Entry:
    """One line of a log; None for an undefined value."""

    split: str
    depth: int
    layer: str
    metric: str
    value: float | None
    flags: tuple[str, ...]
    epoch: float | None = None
    step: int | None = None
    standard_error: float | None = None


def _entry(cells: Mapping[str, str]) -> _Entry:
    return _Entry(
        **{name: cells[name] for name in ("split", "layer", "metric")},
        depth=int(cells["depth"]),
        value=float(cells["value"]),
        flags=tuple(filter(None, cells["flags"].split(";"))),
        epoch=float(cells["epoch"]) if cells.get("epoch") else None,
        step=int(cells["step"]) if cells.get("step") else None,
        standard_error=float(cells["standard_error"]) if cells.get("standard_error") else None,
    )


def _row(entry: _Entry) -> Row:
    place, value = entry.epoch, math.nan if entry.value is None else entry.value
    if min(place or 0, entry.step or 0, entry.depth) < 0 or not math.isfinite(place or 0):
        raise ValueError(f"epoch, step and depth must be at least 0, got {place}, {entry.step} and {entry.depth}")
    epoch = int(place) if place is not None and place.is_integer() else place
    given = {item.name: getattr(entry, item.name) for item in fields(_Entry)}
    return Row(**{**given, "epoch": epoch, "value": value})


def _check(file: Path, rows: list[Row], unit: Unit) -> None:
    seen: set[tuple[Any, ...]] = set()
    names: dict[tuple[Any, int], str] = {}
    for row in rows:
        time = getattr(row, unit)
        if time is None:
            raise ValueError(
                f"{file} must have an epoch or a step in every row, got a row of {row.layer} with neither. {_REMEDY}"
            )
        key = (time, row.split, row.layer, row.metric)
        if key in seen:
            raise ValueError(
                f"{file} must hold every value once, got {row.metric} of {row.layer} twice at {unit} {time}. "
                "Divide the file if two trainings wrote to it."
            )
        seen.add(key)
        if (other := names.setdefault((time, row.depth), row.layer)) != row.layer:
            raise ValueError(
                f"{file} must name one layer at each depth, got {other} and {row.layer} at depth {row.depth} of {unit} {time}. "
                "Divide the file if two networks were measured."
            )
