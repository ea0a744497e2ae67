"""A run directory while a run writes it: plain files that are saved together, from which a killed run resumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ncollapse.records import file_names
from ncollapse.records.csv_tables import history_text, read_history, read_rows, rows_text
from ncollapse.records.depth import DepthRecord
from ncollapse.records.errors import DamagedRunError, ReportError, RunDirectoryError
from ncollapse.records.files import leftovers, make_folder, remove_leftovers
from ncollapse.records.json_files import depth_text, encode, read_depth, read_json
from ncollapse.records.lock import state_of
from ncollapse.records.manifest import (
    CHANGED,
    FORMAT,
    MISSING,
    NOTED,
    CheckedFiles,
    Manifest,
    advice,
    compared_files,
    damaged_files,
    is_cut_off,
    read_manifest,
)
from ncollapse.records.rows import EpochRecord, Row
from ncollapse.records.run_files import Glossary, ObjectiveFile, ObjectiveRecord, Recording, Status, Unit
from ncollapse.records.samples import Samples, read_samples, samples_content
from ncollapse.records.saving import held_files, save_files
from ncollapse.records.verification import plan_recovery, recover

# What every reader of a finished run needs, besides its recipe and its status; a checkpoint is for going on.
_RESULTS = (file_names.ENVIRONMENT, file_names.HISTORY, file_names.MEASUREMENTS)


class _OfEpoch(Protocol):
    @property
    def epoch(self) -> float | None: ...


T = TypeVar("T", bound=_OfEpoch)


class RunDirectory:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # What is on the disk; None while nothing there counts. What a new run writes with its first save.
        self._held: Manifest | None = None
        self._first: dict[str, bytes] = {}
        self.history: list[EpochRecord] = []
        self.rows: list[Row] = []
        self.depth: list[DepthRecord] = []
        self.objective: list[ObjectiveRecord] = []
        self.samples: Samples | None = None

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
        # What was damaged is kept aside, and a run may begin beside it.
        found = {path.name for path in self.path.iterdir()} - {path.name for path in leftovers(self.path)}
        found -= {file_names.DAMAGED, file_names.LOCK}
        return not found or (found <= {file_names.MANIFEST, *file_names.OF_A_RUN} and self.is_cut_off())

    def check_empty(self) -> None:
        """Check that nothing would be replaced."""
        if not self.is_empty():
            raise RunDirectoryError(f"{self.path} is not empty. Choose another place with --out.")

    def is_cut_off(self) -> bool:
        """Whether a run was killed here in its first save, so that nothing of it counts."""
        return is_cut_off(*compared_files(self.path))

    def fingerprint(self) -> str | None:
        """Return the fingerprint of the recipe that the files were written for, where it is known."""
        manifest = read_manifest(self.path)
        return None if manifest is None else manifest.recipe

    def check_checkpoint(self) -> None:
        """Check that the checkpoint is as it was written."""
        CheckedFiles(self.path).check(file_names.CHECKPOINT)

    def has_recipe(self) -> bool:
        """Whether there is a recipe, or was one."""
        return CheckedFiles(self.path).has(file_names.RECIPE)

    def read_recipe(self) -> str:
        """Read the recipe's file, checked."""
        return CheckedFiles(self.path).read(self.recipe).decode()

    def create(self, recipe: Mapping[str, Any] | None, *, overwrite: bool = False) -> None:
        """Begin a new run. Its first save writes all its files, or replaces those of another run."""
        if not overwrite:
            self.check_empty()
        make_folder(self.path)
        remove_leftovers(self.path)
        self._held = None
        self._first = {} if recipe is None else {file_names.RECIPE: encode(recipe)}

    def begin(self, environment: Mapping[str, Any], glossary: Glossary) -> None:
        """Take what is known before training; the first save writes it."""
        self._first |= {
            file_names.ENVIRONMENT: encode({**environment, NOTED: FORMAT}),
            file_names.GLOSSARY: encode(glossary),
        }

    def is_whole(self) -> bool:
        """Whether every file of the run is as it was written, and its last save has come to its end."""
        if plan_recovery(self.path) is not None:
            return False
        manifest = read_manifest(self.path)
        return manifest is None or manifest.previous is None

    def recover(self, recipe: str) -> str:
        """Bring a damaged run of a recipe back to an earlier save, where there is one; return a line about it."""
        plan = plan_recovery(self.path)
        if plan is None or plan.is_lost:
            return ""
        held = plan.manifest or read_manifest(self.path)
        if held is None or held.recipe != recipe:
            return ""
        aside = recover(plan)
        return f"{self.path}: {plan.words()}. The damaged files are in {aside}."

    def take_up(self) -> bool:
        """Check every file of a run that is to go on; return whether there is a checkpoint to go on from."""
        # Told if it is missing.
        manifest = CheckedFiles(self.path).manifest
        if manifest is not None:
            manifest, found = compared_files(self.path)
            if is_cut_off(manifest, found):
                return False
            for name in damaged_files(found):
                raise DamagedRunError(
                    f"{self.path / name}: {MISSING if found[name] == 'missing' else CHANGED}. {advice(self.path)}"
                )
        elif (self.path / file_names.ENVIRONMENT).is_file():
            # Of an older version: from the next save on it has a manifest.
            noted = read_json(self.path / file_names.ENVIRONMENT, dict[str, Any])
            self._first = {file_names.ENVIRONMENT: encode({**noted, NOTED: FORMAT})}
        self._held = held_files(self.path)
        return self._held is not None and file_names.CHECKPOINT in self._held.files

    def missing(self) -> list[str]:
        """Files that a run with a checkpoint must have and this one has not."""
        # A network of other people's code need not have layers of one dimension to follow.
        depth = [] if (self.path / file_names.RECORDING).is_file() else [file_names.DEPTH]
        return [name for name in (*_RESULTS, *depth) if not (self.path / name).is_file()]

    def load(self, last_epoch: int, unit: Unit = "epoch") -> None:
        """Read the tables back up to an epoch, or a step, as a resumed run needs them."""
        if missing := self.missing():
            raise RunDirectoryError(
                f"{self.path} has been trained up to epoch {last_epoch}, but {', '.join(missing)} in it "
                f"{'is' if len(missing) == 1 else 'are'} missing. Put back what was deleted, or delete the folder and run the "
                "command again, which trains the run from the start."
            )

        def kept(records: Iterable[T]) -> list[T]:
            return [record for record in records if record.epoch is not None and record.epoch <= last_epoch]

        files = CheckedFiles(self.path)
        try:
            self.history = kept(read_history(self.path / file_names.HISTORY, files.read))
            rows = read_rows(self.path / file_names.MEASUREMENTS, read=files.read)
            self.rows = [row for row in rows if (at := getattr(row, unit)) is not None and at <= last_epoch]
            if files.has(file_names.DEPTH):
                self.depth = kept(read_depth(self.path / file_names.DEPTH, files.read).values())
            if files.has(file_names.OBJECTIVE):
                self.objective = kept(read_json(self.path / file_names.OBJECTIVE, ObjectiveFile, read=files.read).epochs)
            if files.has(file_names.SAMPLES):
                samples = read_samples(self.path / file_names.SAMPLES, files.read)
                self.samples = samples.of_epochs(lambda epoch: epoch <= last_epoch)
        except DamagedRunError:
            raise
        except (OSError, ReportError) as error:
            raise RunDirectoryError(
                f"{self.path} has a checkpoint but damaged tables ({error}). Delete the folder and run the command again."
            ) from error

    def recording(self) -> Recording | None:
        """Read what is known of the times of a recorded training; None where the folder holds none."""
        files = CheckedFiles(self.path)
        if not files.has(file_names.RECORDING):
            return None
        return read_json(self.path / file_names.RECORDING, Recording, read=files.read)

    def seconds(self) -> float:
        """Time that the run had taken when its status was last written."""
        status = self.status()
        return 0.0 if status is None else status.seconds or 0.0

    def status(self) -> Status | None:
        """How far the run had come when its status was last written, and its state now."""
        try:
            noted = read_json(self.path / file_names.STATUS, Status, read=CheckedFiles(self.path).read)
        except (OSError, ReportError):
            return None
        return replace(noted, state=state_of(self.path, noted.state))

    def add_measurement(self, rows: Iterable[Row], depth: DepthRecord | None, objective: ObjectiveRecord | None = None) -> None:
        """Add a measurement to the tables; written by ``save``."""
        self.rows.extend(rows)
        if depth is not None:
            self.depth.append(depth)
        if objective is not None:
            self.objective.append(objective)

    def save(
        self,
        status: Status,
        *,
        checkpoint: bytes | None = None,
        recipe: str | None = None,
        keep: int = 1,
        recording: Recording | None = None,
    ) -> None:
        """Write everything: the tables before the checkpoint, so that a checkpoint implies complete tables."""
        tables = {
            file_names.HISTORY: history_text(self.history),
            file_names.MEASUREMENTS: rows_text(self.rows),
        }
        # A measurement alone, without a recipe, need not follow the samples' paths.
        if self.depth or recipe is not None:
            tables[file_names.DEPTH] = depth_text(self.depth)
        if self.objective:
            tables[file_names.OBJECTIVE] = encode(ObjectiveFile(tuple(self.objective)), indent=False)
        if self.samples is not None:
            tables[file_names.SAMPLES] = samples_content(self.samples)
        if recording is not None:
            tables[file_names.RECORDING] = encode(recording)
        if checkpoint is not None:
            tables[file_names.CHECKPOINT] = checkpoint
        self._write({**self._first, **tables, file_names.STATUS: encode(status)}, status.epoch, recipe, keep)
        self._first = {}

    def mark(self, state: str, reason: str) -> None:
        """Say in ``status.json`` how the run has ended; the rest of it stays that of the last checkpoint."""
        status = self.status()
        if self._held is not None and status is not None:
            words = {file_names.STATUS: encode(replace(status, state=state, reason=reason))}
            self._write(words, self._held.epoch, self._held.recipe)

    def _write(self, contents: Mapping[str, bytes], epoch: int | None, recipe: str | None, keep: int = 1) -> None:
        try:
            self._held = save_files(self.path, contents, self._held, epoch=epoch, recipe=recipe, keep=keep)
        except BaseException:
            # Some of the files may have been replaced before the system refused, or the user interrupted.
            held, self._held = self._held, None
            with suppress(OSError, ReportError):
                self._held = None if held is None else held_files(self.path)
            raise
