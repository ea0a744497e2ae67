"""A run directory while a run writes it: plain files, each written whole, that a killed run resumes from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ncollapse.records import file_names
from ncollapse.records.csv_tables import history_text, read_history, read_rows, rows_text
from ncollapse.records.depth import DepthRecord
from ncollapse.records.depth_file import read_depth, write_depth
from ncollapse.records.errors import ReportError, RunDirectoryError
from ncollapse.records.files import leftovers, remove_leftovers, write_whole
from ncollapse.records.json_files import read_json, write_json
from ncollapse.records.lock import state_of
from ncollapse.records.rows import EpochRecord, Row
from ncollapse.records.run_files import Glossary, ObjectiveFile, ObjectiveRecord, Status

_STAGE = ".new"
# What every reader of a finished run needs, besides its recipe and its status; a checkpoint is for going on.
_RESULTS = (file_names.ENVIRONMENT, file_names.HISTORY, file_names.MEASUREMENTS, file_names.DEPTH)


class _OfEpoch(Protocol):
    @property
    def epoch(self) -> float | None: ...


T = TypeVar("T", bound=_OfEpoch)


class RunDirectory:
    """The files of one run; ``path`` is a hidden folder in it while the new run replaces an older one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._replaced: Path | None = None
        self.history: list[EpochRecord] = []
        self.rows: list[Row] = []
        self.depth: list[DepthRecord] = []
        self.objective: list[ObjectiveRecord] = []

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file."""
        return self.path / file_names.CHECKPOINT

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.path / file_names.RECIPE

    def is_empty(self) -> bool:
        """Whether a run can begin here without replacing anything."""
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} must be a folder, it is a file. Choose another place with --out.")
        if not self.path.is_dir():
            return True
        return not set(self.path.iterdir()) - {*leftovers(self.path), self.path / file_names.LOCK}

    def check_empty(self) -> None:
        """Check that nothing would be replaced."""
        if not self.is_empty():
            raise RunDirectoryError(f"{self.path} is not empty. Choose another place with --out.")

    def create(self, recipe: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
        """Begin a new run. If it replaces another one, its files wait in a hidden folder until ``settle``."""
        if not overwrite:
            self.check_empty()
        elif not self.is_empty():
            self._replaced, self.path = self.path, self.path / _STAGE
            shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            words = f"the run directory cannot be made ({error.strerror}). Choose another place with --out"
            raise OSError(error.errno, words, str(self.path)) from error
        remove_leftovers(self.path)
        if recipe is not None:
            write_json(self.recipe, recipe)

    def settle(self) -> None:
        """Replace the old run's files by the first ones of the new run, if there was an old run."""
        if self._replaced is None:
            return
        # A run killed in between must start over instead of resuming into a mixture of two runs. So the old checkpoint goes
        # first, and the new one comes last.
        self.path, stage, self._replaced = self._replaced, self.path, None
        for name in (file_names.CHECKPOINT, file_names.REPORT):
            (self.path / name).unlink(missing_ok=True)
        for file in sorted(stage.iterdir(), key=lambda file: file.name == file_names.CHECKPOINT):
            os.replace(file, self.path / file.name)
        stage.rmdir()

    def withdraw(self) -> None:
        """Remove a new run that is not settled; the old one stays as it was."""
        if self._replaced is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path, self._replaced = self._replaced, None

    def missing(self) -> list[str]:
        """Files that a run with a checkpoint must have and this one has not."""
        return [name for name in _RESULTS if not (self.path / name).is_file()]

    def load(self, last_epoch: int) -> None:
        """Read the tables back up to an epoch, as a resumed run needs them."""
        if missing := self.missing():
            raise RunDirectoryError(
                f"{self.path} has been trained up to epoch {last_epoch}, but {', '.join(missing)} in it "
                f"{'is' if len(missing) == 1 else 'are'} missing. Put back what was deleted, or delete the folder and run the "
                "command again, which trains the run from the start."
            )

        def kept(records: Iterable[T]) -> list[T]:
            return [record for record in records if record.epoch is not None and record.epoch <= last_epoch]

        try:
            self.history = kept(read_history(self.path / file_names.HISTORY))
            self.rows = kept(read_rows(self.path / file_names.MEASUREMENTS))
            self.depth = kept(read_depth(self.path / file_names.DEPTH).values())
            objective = self.path / file_names.OBJECTIVE
            self.objective = kept(read_json(objective, ObjectiveFile).epochs) if objective.exists() else []
        except (OSError, ReportError) as error:
            raise RunDirectoryError(
                f"{self.path} has a checkpoint but damaged tables ({error}). Delete the folder and run the command again."
            ) from error

    def seconds(self) -> float:
        """Time that the run had taken when its status was last written."""
        status = self.status()
        return 0.0 if status is None else status.seconds or 0.0

    def status(self) -> Status | None:
        """How far the run had come when its status was last written, and its state now."""
        try:
            noted = read_json(self.path / file_names.STATUS, Status)
        except (OSError, ReportError):
            return None
        return replace(noted, state=state_of(self.path, noted.state))

    def begin(self, environment: Mapping[str, Any], glossary: Glossary) -> None:
        """Write what is known before training."""
        write_json(self.path / file_names.ENVIRONMENT, environment)
        write_json(self.path / file_names.GLOSSARY, glossary)

    def add_measurement(self, rows: Iterable[Row], depth: DepthRecord | None, objective: ObjectiveRecord | None = None) -> None:
        """Add a measurement to the tables; written by ``write_tables``."""
        self.rows.extend(rows)
        if depth is not None:
            self.depth.append(depth)
        if objective is not None:
            self.objective.append(objective)

    def write_tables(self) -> None:
        """Write the tables, each whole."""
        write_whole(self.path / file_names.HISTORY, history_text(self.history))
        write_whole(self.path / file_names.MEASUREMENTS, rows_text(self.rows))
        # A measurement alone, without a recipe, need not follow the samples' paths.
        if self.depth or self.recipe.exists():
            write_depth(self.path / file_names.DEPTH, self.depth)
        if self.objective:
            write_json(self.path / file_names.OBJECTIVE, ObjectiveFile(tuple(self.objective)), indent=False)

    def write_status(self, status: Status) -> None:
        """Write how far the run has come."""
        write_json(self.path / file_names.STATUS, status)

    def mark(self, state: str, reason: str) -> None:
        """Say in ``status.json`` how the run has ended; the rest of it stays that of the last checkpoint."""
        self.write_status(replace(read_json(self.path / file_names.STATUS, Status), state=state, reason=reason))
