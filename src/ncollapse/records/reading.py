"""Read a run directory: its files as one frozen value, a ``Run``, checked against each other.

``measurements.csv`` holds the metrics of every layer (``Run.rows``, ``Run.measured_layers``). ``depth.json`` holds the results
over depth, such as the straight-line prediction, for those layers that have one dimension (``Run.records``, ``Run.layers``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ncollapse.records import file_names
from ncollapse.records.csv_tables import Epochs, read_history, read_rows
from ncollapse.records.depth import EPSILON, DepthRecord, EffectiveDepth, PredictionError
from ncollapse.records.errors import ReportError
from ncollapse.records.json_files import by_epoch, fail, read_depth, read_json
from ncollapse.records.lock import state_of
from ncollapse.records.manifest import CheckedFiles
from ncollapse.records.rows import EpochRecord, Row
from ncollapse.records.run_files import Glossary, ObjectiveFile, ObjectiveRecord, RecipeSummary, Recording, Status, Unit
from ncollapse.records.samples import Samples, read_samples

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Run:
    """What the files of one run directory say.

    Attributes:
        path: The run directory.
        recipe: The fixed part of ``recipe.json``; empty where there is none.
        recipe_entries: All of ``recipe.json``.
        environment: ``environment.json``: versions, device, threads, seed.
        status: How far the run has come.
        history: One row per epoch of training.
        rows: The tidy table, in the order of the file; where steps are counted, they stand in the place of epochs.
        records: The results over depth by epoch, in ascending order; records without results if there is no ``depth.json``.
        glossary: What its metrics and flags mean.
        objective: The regularized objective and its floor by epoch; empty if ``objective.json`` was not written.
        recording: The times of a training by other people's code; None for a run of a recipe.
        samples: A few samples at every measured epoch; None if the run has none, or only some of its epochs were read.
        unverified: Files that are not as they were written; none unless the run was read unverified.
    """

    path: Path
    recipe: RecipeSummary
    recipe_entries: dict[str, Any]
    environment: dict[str, Any]
    status: Status
    history: tuple[EpochRecord, ...]
    rows: tuple[Row, ...]
    records: dict[int, DepthRecord]
    glossary: Glossary
    objective: dict[int, ObjectiveRecord] = field(default_factory=dict)
    recording: Recording | None = None
    samples: Samples | None = None
    unverified: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if not self.epochs:
            return f"Run({str(self.path)!r}, nothing measured)"
        measured = f"{len(self.epochs)} measured {self.unit}s up to {self.epochs[-1]}"
        return f"Run({str(self.path)!r}, {self.title!r}, {self.status.state}, {len(self.layers)} layers, {measured})"

    @cached_property
    def title(self) -> str:
        """The recipe's title, else its name, else the folder's."""
        if self.recipe.changed:
            # With changed settings the title may be wrong, so the name is used.
            return f"Recipe {self.recipe.name} with changed settings"
        return self.recipe.title or self.recipe.name or self.path.name

    @cached_property
    def is_measured_only(self) -> bool:
        """Whether a network was measured without its training: there is no recipe, no history and no recording."""
        return not self.recipe_entries and not self.history and not self.is_recorded

    @property
    def is_recorded(self) -> bool:
        """Whether other people's code trained the network. The files then hold only what that code reported."""
        return self.recording is not None

    @property
    def unit(self) -> Unit:
        """What is counted as epochs: "epoch", or "step" for steps of the optimizer."""
        return self.status.unit

    @cached_property
    def split(self) -> str:
        """The split that the figures and the words are about: collapse is a statement about the training set."""
        return "train" if any(row.split == "train" for row in self.rows) else self.rows[0].split

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that both files hold. If a run was killed between two writes, one file may hold one epoch more."""
        measured = {row.epoch for row in self.rows if row.split == self.split}
        return tuple(sorted(epoch for epoch in self.records if epoch in measured))

    @cached_property
    def last(self) -> DepthRecord:
        """The results over depth at the last epoch."""
        return self.records[self.epochs[-1]]

    @cached_property
    def has_depth(self) -> bool:
        """Whether there are results over depth."""
        return bool(self.last.positions)

    @property
    def last_objective(self) -> ObjectiveRecord | None:
        """The objective at the last epoch; None where it has no floor."""
        return self.objective.get(self.epochs[-1])

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that the results over depth are about, by depth, at the last epoch. All have one dimension."""
        return self.last.layers

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """The depth of each of :attr:`layers` among all measured ones."""
        return tuple(self.measured_layers.index(layer) for layer in self.layers)

    @cached_property
    def measured_layers(self) -> tuple[str, ...]:
        """Names of all measured layers by depth: ``layers`` and those of other dimensions, such as the classifier's input."""
        rows = (row for row in self.rows if row.epoch == self.epochs[-1] and row.split == self.split)
        return tuple(dict(sorted((row.depth, row.layer) for row in rows)).values())

    @cached_property
    def perfect_epoch(self) -> int | None:
        """The first measured epoch with every training sample right; None if it comes after the last epoch that was read."""
        perfect = self.status.first_perfect_epoch
        return perfect if perfect is not None and perfect <= self.epochs[-1] else None

    @cached_property
    def _values(self) -> dict[tuple[float | None, str, int, str], float]:
        return {(row.epoch, row.split, row.depth, row.metric): row.value for row in self.rows}

    def value(self, metric: str, depth: int, epoch: int | None = None, split: str | None = None) -> float | None:
        """Return one number, by default at the last epoch on :attr:`split`; None if undefined or not measured."""
        epoch = self.epochs[-1] if epoch is None else epoch
        split = split or self.split
        value = self._values.get((epoch, split, depth, metric))
        if value is None and metric == "pfc3_error":
            # Not in every table, since it is 1 - PFC3. Rounded, because 1 - 0.995 is above 0.005 in floating point.
            accuracy = self._values.get((epoch, split, depth, "pfc3"))
            value = None if accuracy is None else round(1 - accuracy, 15)
        return None if value is None or not math.isfinite(value) else value

    def over_epochs(self, metric: str, depth: int) -> list[float | None]:
        """One metric of one layer at every epoch of :attr:`epochs`."""
        return [self.value(metric, depth, epoch) for epoch in self.epochs]

    def over_depth(self, metric: str, epoch: int | None = None) -> list[float | None]:
        """One metric of each of :attr:`layers`, at the last epoch unless said."""
        return [self.value(metric, depth, epoch) for depth in self.depths]

    @cached_property
    def effective_depth(self) -> EffectiveDepth | None:
        """The effective depth at :data:`EPSILON`, at the last epoch; None where it was not measured."""
        return next((item for item in self.last.effective_depth if item.epsilon == EPSILON), None)

    def prediction_errors(
        self, metric: str, position: str = "projection", epoch: int | None = None
    ) -> tuple[float | None, float | None]:
        """RMS error in decades of the straight line and of the baseline, by default at the last epoch; None if unknown."""
        error = self._prediction_error(position, epoch)
        return (error.line.get(metric), error.baseline.get(metric)) if error else (None, None)

    def flow_error(self, position: str = "projection", epoch: int | None = None) -> float | None:
        """RMS error in decades of PFC2 of the flow of class means, by default at the last epoch; None if unknown."""
        error = self._prediction_error(position, epoch)
        return error.flow.get("pfc2") if error else None

    def _prediction_error(self, position: str, epoch: int | None) -> PredictionError | None:
        return self.records[self.epochs[-1] if epoch is None else epoch].prediction_error.get(position)


def read_run(path: Path, epochs: Epochs = "all", *, unverified: bool = False) -> Run:
    """Return a run directory, read and checked.

    Args:
        path: The directory that ``ncollapse run`` or ``ncollapse measure --out`` wrote.
        epochs: "ends" leaves out the rows and curves of all measured epochs but the first and the last, "last" those of all but
            the last.
        unverified: Read also what is not as it was written, and name it in ``Run.unverified``.

    Raises:
        ReportError: If the directory or a file is missing, empty, broken, or not as it was written, or if ``measurements.csv``
            and ``depth.json`` contradict each other. The message names the file and says what to do. ``depth.json`` is
            required only for a run with a recipe.
    """
    path = Path(path)
    _check_folder(path)
    files = CheckedFiles(path, unverified=unverified)
    status = read_json(path / file_names.STATUS, Status, read=files.read)
    recording = read_json(path / file_names.RECORDING, Recording, read=files.read) if files.has(file_names.RECORDING) else None
    # Without a recipe a network may lack results over depth: they need several layers of one dimension.
    has_depth = files.has(file_names.DEPTH) or (files.has(file_names.RECIPE) and recording is None)
    records = read_depth(path / file_names.DEPTH, files.read) if has_depth else {}
    rows = read_rows(path / file_names.MEASUREMENTS, epochs, records, files.read, status.unit)
    if not has_depth:
        records = _without_results(rows)
    elif epochs != "all":
        read = {row.epoch for row in rows}
        records = {epoch: record for epoch, record in records.items() if epoch in read}
    run = Run(
        path=path,
        recipe=_read_optional(files, file_names.RECIPE, RecipeSummary),
        recipe_entries=_read_optional(files, file_names.RECIPE, dict[str, Any]),
        environment=read_json(path / file_names.ENVIRONMENT, dict[str, Any], read=files.read),
        status=replace(status, state=state_of(path, status.state)),
        history=read_history(path / file_names.HISTORY, files.read),
        rows=rows,
        records=records,
        glossary=_read_optional(files, file_names.GLOSSARY, Glossary),
        objective=_read_objective(files),
        recording=recording,
        # For pictures only, which show all epochs.
        samples=_read_samples(files) if epochs == "all" else None,
        unverified=tuple(files.changed),
    )
    _check_agreement(run)
    if not files.is_under_way:
        _check_accuracy(run)
    return run


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise ReportError(f"{path}: needed a run directory, found {'a file' if path.exists() else 'nothing'}. "
                          "Name the folder that `ncollapse run` or `ncollapse demo` printed.")  # fmt: skip
    if not any((path / name).exists() for name in (file_names.MEASUREMENTS, file_names.RECIPE, file_names.STATUS)):
        raise ReportError(f"{path}: needed a run directory or a sweep, found neither. Name a folder that `ncollapse run`, "
                          "`ncollapse sweep` or `ncollapse measure --out` wrote.")  # fmt: skip


def _read_optional(files: CheckedFiles, name: str, kind: type[T]) -> T:
    return read_json(files.folder / name, kind, read=files.read) if files.has(name) else kind()


def _read_objective(files: CheckedFiles) -> dict[int, ObjectiveRecord]:
    if not files.has(file_names.OBJECTIVE):
        return {}
    file = files.folder / file_names.OBJECTIVE
    return by_epoch(file, read_json(file, ObjectiveFile, read=files.read).epochs)


def _read_samples(files: CheckedFiles) -> Samples | None:
    return read_samples(files.folder / file_names.SAMPLES, files.read) if files.has(file_names.SAMPLES) else None


def _without_results(rows: Sequence[Row]) -> dict[int, DepthRecord]:
    """Make a record without results for every epoch, with the layers that the table lists."""
    layers: dict[int, dict[int, str]] = {}
    for row in rows:
        if isinstance(row.epoch, int):
            layers.setdefault(row.epoch, {})[row.depth] = row.layer
    return {
        epoch: DepthRecord.without_results(epoch, tuple(name for _, name in sorted(layers[epoch].items())))
        for epoch in sorted(layers)
    }


def _check_agreement(run: Run) -> None:
    table, curves = run.path / file_names.MEASUREMENTS, run.path / file_names.DEPTH
    if not run.rows or not run.records:
        fail(table if not run.rows else curves, "needed at least one measured epoch, found none")
    if not run.epochs:
        fail(curves, f"has no epoch in common with {table.name}")
    if run.status.epoch > run.status.epochs:
        fail(run.path / file_names.STATUS, f"says {run.unit} {run.status.epoch} of {run.status.epochs}")
    for epoch in run.epochs:
        if run.records[epoch].layers != run.layers:
            fail(curves, f"lists other layers at epoch {epoch} than at epoch {run.epochs[-1]}")
    # The table may hold more layers, of other dimensions: other stages, and what the classifier takes.
    if run.layers != tuple(name for name in run.measured_layers if name in run.layers):
        found, named = ", ".join(run.measured_layers), ", ".join(run.layers)
        fail(curves, f"lists the layers {named}, but {table.name} {found}")
    kept = () if run.samples is None else zip(run.samples.header.depths, run.samples.header.layers, strict=True)
    places = dict(enumerate(run.measured_layers))
    if other := [layer for depth, layer in kept if places.get(depth) != layer]:
        fail(run.path / file_names.SAMPLES, f"has samples of the layer {other[0]}, which {table.name} has not at that depth")


def _check_accuracy(run: Run) -> None:
    """Check that status and table say the same accuracy, unless a save was cut off between the two."""
    status, file = run.status, run.path / file_names.STATUS
    measured = {row.epoch: row.value for row in run.rows if row.metric == "accuracy" and row.split == "train"}
    perfect = {} if status.first_perfect_epoch is None else {status.first_perfect_epoch: 1.0}
    for epoch, said in {status.epoch: status.train_accuracy, **perfect}.items():
        found = measured.get(epoch, said)
        if found != said and not (said is None and math.isnan(found or 0)):
            fail(file, f"says that the train accuracy at {run.unit} {epoch} is {said}, {file_names.MEASUREMENTS} says {found}")
