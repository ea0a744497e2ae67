"""Read a run directory: its files as one frozen value, checked against each other."""

import csv
import io
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from ncollapse.records.parsing import ReportError, parse
from ncollapse.records.schema import (
    EPSILON,
    DepthFile,
    DepthRecord,
    EffectiveDepth,
    Glossary,
    HistoryRow,
    MeasurementRow,
    ObjectiveFile,
    ObjectiveRecord,
    Recipe,
    Status,
)

__all__ = ["Run", "read_run"]

_WRITE_AGAIN = "Finish the run with `ncollapse run RECIPE --out DIR --resume` if it was killed, else run it in an empty folder."
_HISTORY = ("epoch", "loss", "accuracy", "learning_rate", "grad_norm")
_MEASUREMENTS = ("epoch", "split", "depth", "layer", "metric", "value", "flags")


@dataclass(frozen=True)
class Run:
    """What the files of one run directory say.

    Attributes:
        path: The run directory.
        recipe: The fixed part of ``recipe.json``.
        recipe_entries: All of ``recipe.json``.
        environment: ``environment.json``: versions, device, threads, seed.
        status: How far the run has come.
        history: One row per epoch of training.
        rows: The tidy table, in the order of the file.
        records: The curves over depth, by epoch, in ascending order.
        glossary: What its metrics and flags mean.
        objective: The regularized objective beside its floor, by epoch, where it has one.
    """

    path: Path
    recipe: Recipe
    recipe_entries: dict[str, Any]
    environment: dict[str, Any]
    status: Status
    history: tuple[HistoryRow, ...]
    rows: tuple[MeasurementRow, ...]
    records: dict[int, DepthRecord]
    glossary: Glossary
    objective: dict[int, ObjectiveRecord] = field(default_factory=dict)

    @cached_property
    def title(self) -> str:
        """The recipe's title, else its name, else the folder's; of changed settings the recipe's title may not be true."""
        if self.recipe.changed:
            return f"Recipe {self.recipe.name} with changed settings"
        return self.recipe.title or self.recipe.name or self.path.name

    @cached_property
    def split(self) -> str:
        """The split that the figures and the words are about: collapse is a statement about the training set."""
        return "train" if any(row.split == "train" for row in self.rows) else self.rows[0].split

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that both files hold: a run killed between two writes may have one more in either."""
        measured = {row.epoch for row in self.rows if row.split == self.split}
        return tuple(sorted(measured & set(self.records)))

    @cached_property
    def last(self) -> DepthRecord:
        """The curves over depth at the last epoch."""
        return self.records[self.epochs[-1]]

    @property
    def last_objective(self) -> ObjectiveRecord | None:
        """The objective at the last epoch; None where it has no floor."""
        return self.objective.get(self.epochs[-1])

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers of one dimension that the curves run through, by depth, at the last epoch."""
        return self.last.layers

    @cached_property
    def measured_layers(self) -> tuple[str, ...]:
        """These, and behind them what the classifier takes where that has another dimension, as behind pooling."""
        rows = (row for row in self.rows if row.epoch == self.epochs[-1] and row.split == self.split)
        return tuple(dict(sorted((row.depth, row.layer) for row in rows)).values())

    @cached_property
    def perfect_epoch(self) -> int | None:
        """The first measured epoch with every training sample right, if it lies within the ones shown."""
        perfect = self.status.first_perfect_epoch
        return perfect if perfect is not None and perfect <= self.epochs[-1] else None

    @cached_property
    def _values(self) -> dict[tuple[int, str, int, str], float]:
        return {(row.epoch, row.split, row.depth, row.metric): row.value for row in self.rows}

    def value(self, metric: str, depth: int, epoch: int | None = None) -> float | None:
        """One number on :attr:`split`, at the last epoch unless said; None where it is undefined or was not measured."""
        epoch = self.epochs[-1] if epoch is None else epoch
        value = self._values.get((epoch, self.split, depth, metric))
        if value is None and metric == "pfc3_error":
            # Not in every table, since it is 1 - PFC3. Rounded, because 1 - 0.995 is above 0.005 in floating point.
            accuracy = self._values.get((epoch, self.split, depth, "pfc3"))
            value = None if accuracy is None else round(1 - accuracy, 12)
        return None if value is None or not math.isfinite(value) else value

    def over_epochs(self, metric: str, depth: int) -> list[float | None]:
        """One metric of one layer at every epoch of :attr:`epochs`."""
        return [self.value(metric, depth, epoch) for epoch in self.epochs]

    def over_depth(self, metric: str, epoch: int | None = None) -> list[float | None]:
        """One metric of every layer, at the last epoch unless said."""
        return [self.value(metric, depth, epoch) for depth in range(len(self.layers))]

    @cached_property
    def effective_depth(self) -> EffectiveDepth | None:
        """The effective depth at :data:`EPSILON`, at the last epoch; None where it was not measured."""
        return next((item for item in self.last.effective_depth if item.epsilon == EPSILON), None)

    def prediction_errors(self, metric: str, position: str = "projection") -> tuple[float | None, float | None]:
        """RMS error in decades of the straight line and of the baseline at the last epoch, for layers laid at a position."""
        error = self.last.prediction_error.get(position)
        return (error.line.get(metric), error.null.get(metric)) if error else (None, None)


def read_run(path: Path) -> Run:
    """Read and check the files of a run directory.

    Args:
        path: The directory that ``ncollapse run`` wrote.

    Returns:
        The run.

    Raises:
        ReportError: If the directory or a file is missing, empty or broken, or if ``measurements.csv`` and ``depth.json``
            contradict each other. The message names the file and says what to do.
    """
    path = Path(path)
    if not path.is_dir():
        raise ReportError(f"{path}: needed a run directory, found {'a file' if path.exists() else 'nothing'}. "
                          "Name the folder that `ncollapse run` or `ncollapse demo` printed.")  # fmt: skip
    recipe, environment = (_read_object(path / name) for name in ("recipe.json", "environment.json"))
    run = Run(
        path=path,
        recipe=_parse_file(Recipe, recipe, path / "recipe.json"),
        recipe_entries=recipe,
        environment=environment,
        status=_parse_file(Status, _read_object(path / "status.json"), path / "status.json"),
        history=tuple(_history_row(*line) for line in _read_csv(path / "history.csv", _HISTORY)),
        rows=tuple(_measurement_row(*line) for line in _read_csv(path / "measurements.csv", _MEASUREMENTS)),
        records=_depth_records(path / "depth.json"),
        glossary=_glossary(path / "glossary.json"),
        objective=_objective(path / "objective.json"),
    )
    _check_agreement(run)
    return run


def _glossary(file: Path) -> Glossary:
    return _parse_file(Glossary, _read_object(file), file) if file.exists() else Glossary()


def _objective(file: Path) -> dict[int, ObjectiveRecord]:
    found = _parse_file(ObjectiveFile, _read_object(file), file) if file.exists() else ObjectiveFile()
    return {record.epoch: record for record in found.epochs}


def _depth_records(file: Path) -> dict[int, DepthRecord]:
    records = _parse_file(DepthFile, _read_object(file), file).epochs
    for i, record in enumerate(records):
        num_layers = len(record.layers)
        lengths = {f"positions.{key}": (len(value), num_layers) for key, value in record.positions.items()}
        for name, curve in (("curve", record.curve), ("null", record.null)):
            columns = {"pfc1": curve.pfc1, "pfc2": curve.pfc2, "pfc3": curve.pfc3}
            lengths |= {f"{name}.{key}": (len(v), len(curve.t)) for key, v in columns.items() if v is not None}
        for place, (found, needed) in lengths.items():
            if found != needed:
                _fail(file, f"epochs[{i}].{place} needs {needed} numbers, has {found}")
    return {record.epoch: record for record in sorted(records, key=lambda record: record.epoch)}


def _check_agreement(run: Run) -> None:
    if not run.rows:
        _fail(run.path / "measurements.csv", "needed at least one measured epoch, found none")
    if not run.epochs:
        _fail(run.path / "depth.json", "has no epoch in common with measurements.csv")
    for epoch in run.epochs:
        if run.records[epoch].layers != run.layers:
            _fail(run.path / "depth.json", f"lists other layers at epoch {epoch} than at epoch {run.epochs[-1]}")
    # The table may hold one layer more: what the classifier takes.
    if run.layers not in {run.measured_layers, run.measured_layers[:-1]}:
        found, named = ", ".join(run.measured_layers), ", ".join(run.layers)
        _fail(run.path / "depth.json", f"lists the layers {named}, but measurements.csv {found}")


def _parse_file(kind: type, value: object, file: Path) -> Any:
    try:
        return parse(kind, value, f"{file}: ")
    except ReportError as error:
        raise ReportError(f"{error} {_WRITE_AGAIN}") from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        _fail(file, "is missing")
    except UnicodeDecodeError as error:
        _fail(file, f"is not UTF-8 text ({error.reason} at byte {error.start})")


def _read_object(file: Path) -> dict[str, Any]:
    text = _read_text(file)
    try:
        entries = json.loads(
            text, parse_constant=lambda word: _fail(file, f"holds {word}, which JSON does not have (write null)")
        )
    except json.JSONDecodeError as error:
        _fail(file, f"is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})")
    if not isinstance(entries, dict):
        _fail(file, f"needs a JSON object, has a {type(entries).__name__}")
    return entries


def _read_csv(file: Path, columns: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """The lines behind the header, each with its place for messages; a line of another length is an error."""
    # Not splitlines(): it also cuts at U+2028, which a quoted name may hold.
    lines = list(csv.reader(io.StringIO(_read_text(file), newline="")))
    header = tuple(lines[0]) if lines else ()
    if header != columns:
        _fail(file, f"needs the columns {','.join(columns)}, has {','.join(header) or 'none'}")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(columns):
            _fail(file, f"line {number} needs {len(columns)} fields, has {len(line)}")
    return [(f"{file}: line {number}", line) for number, line in enumerate(lines[1:], start=2)]


def _history_row(place: str, line: list[str]) -> HistoryRow:
    epoch, *numbers = line
    try:
        return HistoryRow(int(epoch), *(float(number) for number in numbers))
    except ValueError as error:
        raise ReportError(f"{place}: {error}. {_WRITE_AGAIN}") from None


def _measurement_row(place: str, line: list[str]) -> MeasurementRow:
    epoch, split, depth, layer, metric, value, flags = line
    try:
        words = tuple(word for word in flags.split(";") if word)
        return MeasurementRow(int(epoch), split, int(depth), layer, metric, float(value), words)
    except ValueError as error:
        raise ReportError(f"{place}: {error}. {_WRITE_AGAIN}") from None


def _fail(file: Path, what: str) -> NoReturn:
    raise ReportError(f"{file}: {what}. {_WRITE_AGAIN}")
