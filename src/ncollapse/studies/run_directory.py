"""A run directory: plain files, each written whole, that a killed run resumes from and every report reads."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ncollapse.measurement.measurement import Measurement
from ncollapse.records.files import write_whole
from ncollapse.studies.recipe import Recipe, RecipeError, differences
from ncollapse.train.loop import EpochRecord

MEASUREMENT_COLUMNS = ("epoch", "split", "depth", "layer", "metric", "value", "flags")
HISTORY_COLUMNS = ("epoch", "loss", "accuracy", "learning_rate", "grad_norm")
_STAGE = ".new"
# What every reader of a finished run needs, besides its recipe and its status; a checkpoint is for going on.
_RESULTS = ("environment.json", "history.csv", "measurements.csv", "depth.json")


class RunDirectoryError(ValueError):
    """A folder that cannot hold this run."""


class RunDirectory:
    """The files of one run.

    ``recipe.json``, ``environment.json``, ``history.csv`` (one line an epoch), ``measurements.csv`` (the tidy table),
    ``depth.json`` (curves over depth, one entry a measured epoch), ``glossary.json`` (what metrics and flags mean),
    ``status.json``, ``checkpoint.safetensors``, and ``objective.json`` of networks whose objective has a floor. What
    ``recipe.json`` holds besides the recipe is ``changed``: the settings that differ from the named recipe.

    Attributes:
        path: The folder; while a run in it is being replaced, a hidden one inside of it.
        history: Lines of ``history.csv``, as text.
        measurements: Lines of ``measurements.csv``, as text.
        depth: Entries of ``depth.json``.
        objective: Entries of ``objective.json``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._replaced: Path | None = None
        self.history: list[list[str]] = []
        self.measurements: list[list[str]] = []
        self.depth: list[dict[str, Any]] = []
        self.objective: list[dict[str, Any]] = []

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.path / "checkpoint.safetensors"

    def create(self, recipe: Recipe, *, changed: Sequence[str] = (), overwrite: bool = False) -> None:
        """Begin a new run. Where one is replaced, what is written waits in a hidden folder until ``settle``.

        Args:
            recipe: Written to ``recipe.json``.
            changed: Settings that differ from the named recipe.
            overwrite: Replace an earlier run in this folder, of the same settings but for the seed.

        Raises:
            RunDirectoryError: If the folder holds a run already, or other files.
            OSError: If the folder cannot be written to.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path} must be a folder, it is a file. Choose another place with --out.")
        if self.path.is_dir() and any(self.path.iterdir()):
            self._check_replaceable(recipe, overwrite)
            self._replaced, self.path = self.path, self.path / _STAGE
            shutil.rmtree(self.path, ignore_errors=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            words = f"the run directory cannot be made ({error.strerror}). Choose another place with --out"
            raise OSError(error.errno, words, str(self.path)) from error
        self.write_json("recipe.json", {**json.loads(recipe.to_json()), "changed": list(changed)})

    def _check_replaceable(self, recipe: Recipe, overwrite: bool) -> None:
        """Nobody's results are lost but those that the same settings give again."""
        try:
            held = self.recipe()
        except RunDirectoryError as error:
            if (self.path / "recipe.json").exists():
                raise
            raise RunDirectoryError(f"{self.path} is not empty and holds no run. Choose another place with --out.") from error
        if not overwrite:
            raise RunDirectoryError(
                f"{self.path} holds a run of {held.name!r} already. "
                "Continue it with --resume, or choose another place with --out."
            )
        other = differences(held, replace(recipe, seed=held.seed))
        if held.name != recipe.name or other:
            settings = f" with {', '.join(other)}" if other else ""
            raise RunDirectoryError(
                f"{self.path} holds a run of {held.name!r}{settings}, which is not replaced by one of {recipe.name!r} with "
                "other settings. Choose another place with --out, or delete the folder."
            )

    def settle(self) -> None:
        """Put the first files of a new run in the place of the old one's; nothing to do where there was none.

        Raises:
            OSError: If the files cannot be moved.
        """
        if self._replaced is None:
            return
        # Without a checkpoint a killed replacement starts over instead of resuming into a mixture: it goes first, comes last.
        self.path, stage, self._replaced = self._replaced, self.path, None
        for name in ("checkpoint.safetensors", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        for file in sorted(stage.iterdir(), key=lambda file: file.name == "checkpoint.safetensors"):
            os.replace(file, self.path / file.name)
        stage.rmdir()

    def withdraw(self) -> None:
        """Give up a new run that is not settled: the old one stays as it was."""
        if self._replaced is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path, self._replaced = self._replaced, None

    def mark_failed(self, reason: str) -> None:
        """Say in ``status.json`` that the run has failed; the rest of it stays that of the last checkpoint.

        Args:
            reason: Why, in one line.

        Raises:
            OSError: If the file cannot be read or written.
            ValueError: If it is damaged.
        """
        status = json.loads((self.path / "status.json").read_text())
        self.write_json("status.json", {**status, "state": "failed", "reason": reason})

    def recipe(self) -> Recipe:
        """The recipe of the run in this folder.

        Returns:
            The recipe.

        Raises:
            RunDirectoryError: If there is no run, or its recipe is damaged.
        """
        try:
            return Recipe.from_json((self.path / "recipe.json").read_text())
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{self.path} holds no run (no recipe.json). Start one without --resume.") from error
        except RecipeError as error:
            raise RunDirectoryError(f"{self.path / 'recipe.json'} is damaged or of another version: {error}") from error

    def missing(self) -> list[str]:
        """Files that a run with a checkpoint must have and this one has not.

        Returns:
            Their names.
        """
        return [name for name in _RESULTS if not (self.path / name).is_file()]

    def load(self, last_epoch: int) -> None:
        """Read the tables back up to an epoch, as a resumed run needs them.

        Args:
            last_epoch: The epoch of the checkpoint: what a killed run wrote after it will be computed again.

        Raises:
            RunDirectoryError: If a table is damaged, or a file is missing.
        """
        if missing := self.missing():
            raise RunDirectoryError(
                f"{self.path} has been trained up to epoch {last_epoch}, but {', '.join(missing)} in it "
                f"{'is' if len(missing) == 1 else 'are'} missing. Put back what was deleted, or delete the folder and run the "
                "command again: the run is then trained anew."
            )
        try:
            self.history = [row for row in self._read_csv("history.csv", HISTORY_COLUMNS) if int(row[0]) <= last_epoch]
            rows = self._read_csv("measurements.csv", MEASUREMENT_COLUMNS)
            self.measurements = [row for row in rows if int(row[0]) <= last_epoch]
            entries = json.loads((self.path / "depth.json").read_text())["epochs"]
            self.depth = [entry for entry in entries if entry["epoch"] <= last_epoch]
            objective = self.path / "objective.json"
            entries = json.loads(objective.read_text())["epochs"] if objective.exists() else []
            self.objective = [entry for entry in entries if entry["epoch"] <= last_epoch]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise RunDirectoryError(
                f"{self.path} has a checkpoint but damaged tables ({error}). Start the run anew."
            ) from error

    def seconds(self) -> float:
        """Time that the run had taken when its status was last written.

        Returns:
            Seconds; 0 if there is no status.
        """
        try:
            return float(json.loads((self.path / "status.json").read_text())["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def _read_csv(self, name: str, columns: Sequence[str]) -> list[list[str]]:
        with (self.path / name).open(newline="") as file:
            header, *rows = list(csv.reader(file))
        if tuple(header) != tuple(columns) or any(len(row) != len(columns) for row in rows):
            raise ValueError(f"{name} must have the columns {', '.join(columns)}")
        return rows

    def add_epoch(self, record: EpochRecord) -> None:
        """Add a line to the history; written with the next measurement or checkpoint.

        Args:
            record: Of the epoch.
        """
        self.history.append([str(record.epoch), *(repr(getattr(record, name)) for name in HISTORY_COLUMNS[1:])])

    def add_measurement(self, epoch: int, measurement: Measurement, depth: dict[str, Any]) -> None:
        """Add a measurement to the tables.

        Args:
            epoch: Epoch after which it was taken.
            measurement: Its rows.
            depth: Its curves over depth, JSON values only.
        """
        for row in measurement.rows:
            self.measurements.append(
                [str(epoch), row.split, str(row.depth), row.layer, row.metric, repr(row.value), ";".join(row.flags)]
            )
        self.depth.append(without_nan({"epoch": epoch, **depth}))

    def add_objective(self, epoch: int, objective: dict[str, float]) -> None:
        """Add the objective and its floor.

        Args:
            epoch: Epoch after which they were computed.
            objective: As ``measure_objective`` gives them.
        """
        self.objective.append(without_nan({"epoch": epoch, **objective}))

    def write_tables(self) -> None:
        """Write the tables, each whole."""
        write_whole(self.path / "history.csv", _csv(HISTORY_COLUMNS, self.history))
        write_whole(self.path / "measurements.csv", _csv(MEASUREMENT_COLUMNS, self.measurements))
        write_whole(self.path / "depth.json", json.dumps({"epochs": self.depth}) + "\n")
        if self.objective:
            write_whole(self.path / "objective.json", json.dumps({"epochs": self.objective}) + "\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write one JSON file, whole.

        Args:
            name: File name.
            content: JSON values; nan becomes null.
        """
        write_whole(self.path / name, json.dumps(without_nan(content), indent=2) + "\n")


def without_nan(value: Any) -> Any:
    """JSON has no nan: undefined numbers become null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
