"""Logs of measurements during a training. A log is anything that can be called with a measurement and its epoch or step."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ncollapse.measurement.measurement import Measurement
from ncollapse.records.files import write_whole
from ncollapse.records.rows import Row


class Log(Protocol):
    """A callable that logs a measurement with the number of epochs or steps trained so far."""

    def __call__(self, measurement: Measurement, *, epoch: float | None = None, step: int | None = None) -> None:
        """Log a measurement."""


def logged_rows(measurement: Measurement, epoch: float | None, step: int | None) -> list[Row]:
    """Return the rows of a measurement with its epoch and step."""
    check_place(epoch, step)
    whole = int(epoch) if epoch is not None and epoch == int(epoch) else epoch
    return [row._replace(epoch=whole, step=step) for row in measurement.rows]


def check_place(epoch: float | None, step: int | None) -> None:
    """Check that a measurement has an epoch or a step."""
    if epoch is None and step is None:
        raise ValueError("A log needs the epoch or the step of a measurement, got neither. Call log(measurement, epoch=3).")


def scalars(measurement: Measurement) -> dict[str, float]:
    """Return defined values by the names for loggers: ``nc/<layer>/<metric>``, or ``nc/<split>/...`` if it is not train."""
    prefix = "nc" if measurement.split == "train" else f"nc/{measurement.split}"
    return {f"{prefix}/{row.layer}/{row.metric}": row.value for row in measurement.rows if math.isfinite(row.value)}


class _FileLog:
    """A log that appends lines to a file. Subclasses define the format."""

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        self._resumes = resume and self._is_begun()
        if self._is_begun():
            self._check(resume)

    def __call__(self, measurement: Measurement, *, epoch: float | None = None, step: int | None = None) -> None:
        """Append the rows of a measurement."""
        rows = logged_rows(measurement, epoch, step)
        if self._resumes:
            self._drop(rows[0])
            self._resumes = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = ("" if self._is_begun() else self._header()) + "".join(map(self._line, rows))
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _is_begun(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def _whole_lines(self) -> list[str]:
        # A killed process may have left the last line in part.
        # Not splitlines(): names may hold other line ends.
        return [line + "\n" for line in self.path.read_text(encoding="utf-8").split("\n")[:-1]]

    def _check(self, resume: bool) -> None:
        if not resume:
            raise ValueError(
                f"{self.path} must be a new file, got one with content. "
                f"Choose another path, or continue it with {type(self).__name__}(path, resume=True)."
            )
        first = (self._whole_lines() or [""])[0]
        if not self._is_own(first):
            raise ValueError(
                f"{self.path} must be a log with the columns {', '.join(Row._fields)}, "
                f"got the first line {first.strip()[:80]!r}. Choose another path."
            )

    def _drop(self, row: Row) -> None:
        """Drop the lines from a row's epoch or step on."""
        column = "step" if row.epoch is None else "epoch"
        limit = getattr(row, column)
        header = self._header()
        lines = self._whole_lines()[bool(header) :]
        kept = [line for line in lines if (at := self._parsed(line)[column]) in (None, "") or float(at) < limit]
        write_whole(self.path, header + "".join(kept))

    def _header(self) -> str:
        raise NotImplementedError

    def _line(self, row: Row) -> str:
        raise NotImplementedError

    def _parsed(self, line: str) -> dict[str, Any]:
        raise NotImplementedError

    def _is_own(self, first: str) -> bool:
        raise NotImplementedError


class CSVLog(_FileLog):
    """The tidy table as CSV: the columns of `Row`, flags joined by semicolons.

    A killed training loses at most the last measurement's lines.

    Args:
        path: The file. Its folder is created if it is missing.
        resume: Continue an existing file. Lines from the first new measurement's epoch (or step) on, which a killed training
            left, are dropped. Without ``resume`` a file with content is an error.

    Raises:
        ValueError: If the file has content and ``resume`` is False, or it is not such a table.
    """

    def _header(self) -> str:
        return _csv_line(Row._fields)

    def _line(self, row: Row) -> str:
        return _csv_line([*row[:-1], ";".join(row.flags)])

    def _parsed(self, line: str) -> dict[str, Any]:
        return dict(zip(Row._fields, next(csv.reader([line])), strict=True))

    def _is_own(self, first: str) -> bool:
        return first == self._header()


class JSONLLog(_FileLog):
    """The tidy table as one JSON object per line, with nan as null and flags as a list; used like ``CSVLog``."""

    def _header(self) -> str:
        return ""

    def _line(self, row: Row) -> str:
        return json.dumps({**row._asdict(), "value": row.value if math.isfinite(row.value) else None}) + "\n"

    def _parsed(self, line: str) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def _is_own(self, first: str) -> bool:
        try:
            parsed = json.loads(first)
        except ValueError:
            return False
        return isinstance(parsed, dict) and tuple(parsed) == Row._fields


def _csv_line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
