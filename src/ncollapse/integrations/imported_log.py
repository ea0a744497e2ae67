"""Logs of CSV and JSON lines, also of earlier versions, as run directories."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ncollapse.integrations.recorded_run import RecordedRun, RecordedSource
from ncollapse.records.rows import Row
from ncollapse.records.run_files import RecordedTime, Unit

# What every log has had, in this order, besides an epoch, a step and (since version 0.2) a standard error.
_NEEDED = ("split", "depth", "layer", "metric", "value", "flags")
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
    source = RecordedSource(unit, max(steps), {"imported": file.name}, noted={"imported": str(file)})
    run = RecordedRun(out, source, resume=True)
    if run.times:
        raise ValueError(f"{out} must be a new or empty folder, got one that holds a run. Choose another one.")
    run.import_rows(rows, [RecordedTime(time, step) for time, step in steps.items()])
    return run.path


def _rows(file: Path) -> Iterator[Row]:
    # A killed training may have left the last line in part. Not splitlines(): names may hold other line ends.
    text = file.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
    is_json = bool(lines) and lines[0].startswith("{")
    entries = map(json.loads, lines) if is_json else csv.DictReader(line + "\n" for line in lines)
    try:
        for entry in entries:
            yield _row(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} must be a log with the columns epoch or step, {', '.join(_NEEDED)}, got another file or a damaged one "
            f"({type(error).__name__}: {error}). {_REMEDY}"
        ) from error


def _row(entry: Mapping[str, Any]) -> Row:
    flags, value, error = entry["flags"], entry["value"], entry.get("standard_error")
    return Row(
        epoch=_number(entry.get("epoch")),
        step=None if entry.get("step") in (None, "") else int(entry["step"]),
        split=entry["split"],
        depth=int(entry["depth"]),
        layer=entry["layer"],
        metric=entry["metric"],
        value=math.nan if value is None else float(value),
        standard_error=None if error in (None, "") else float(error),
        flags=tuple(flags) if isinstance(flags, list) else tuple(filter(None, flags.split(";"))),
    )


def _number(value: Any) -> float | None:
    if value in (None, ""):
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def _check(file: Path, rows: list[Row], unit: Unit) -> None:
    seen: set[tuple[Any, ...]] = set()
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
