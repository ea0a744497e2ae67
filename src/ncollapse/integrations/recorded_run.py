"""The run directory of a training by other people's code, or of its checkpoints: measurements are added as they come."""

from __future__ import annotations

import time as clock_time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ncollapse.hooks.untouched import device_of
from ncollapse.integrations.step_clock import StepClock
from ncollapse.machine import machine
from ncollapse.measurement.depth_record import depth_record
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics import FLAGS, METRICS
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.files import remove_leftovers
from ncollapse.records.json_files import decode, encode
from ncollapse.records.lock import Lock
from ncollapse.records.rows import EpochRecord, Row
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Glossary, RecipeSummary, RecordedTime, Recording, Status, Unit

# The folders that recorders of this process write to, and what lets go of them.
_HOLDING: dict[Path, Callable[[], object]] = {}


@dataclass(frozen=True)
class RecordedSource:
    """What is known of a recorded training before its first epoch."""

    unit: Unit
    total: int | None  # the last epoch or step, None if unknown
    arguments: Mapping[str, str]  # must be the same for a run to be continued
    recipe: Mapping[str, Any] = field(default_factory=dict)
    noted: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()


class RecordedRun:
    """A run directory that other people's code fills; every change is saved whole, so that a kill loses none before it."""

    def __init__(self, out: str | Path, source: RecordedSource, *, resume: bool, clock: StepClock | None = None) -> None:
        self.source, self.clock = source, clock
        self.times: dict[int, RecordedTime] = {}
        self._started, self._seconds_before = clock_time.monotonic(), 0.0
        # The next time may lie before the last one: a killed training goes on from its checkpoint.
        self._goes_back = resume
        # A folder that holds something is left as it is, and a new one is made beside it, unless it is resumed.
        path = Path(out)
        self._hold(path if resume else _free_folder(path))
        try:
            if not (resume and self._take_up()):
                self._create()
        except BaseException:
            self._release()
            raise

    @property
    def path(self) -> Path:
        """The folder."""
        return self.directory.path

    def _hold(self, path: Path) -> None:
        """Become the one writer of a folder, until the end of the run or of the process."""
        # In a notebook the recorder of the last run of a cell still holds it.
        if (earlier := _HOLDING.pop(path.resolve(), None)) is not None:
            earlier()
        lock = Lock(path)
        lock.__enter__()
        self.directory, self._release = RunDirectory(path), weakref.finalize(self, lock.__exit__, None, None, None)
        _HOLDING[path.resolve()] = self._release

    def _create(self) -> None:
        source = self.source
        if source.recipe:
            decode(self.directory.recipe, encode(source.recipe), RecipeSummary, "Pass other values in recipe=.")
        self.directory.create(source.recipe or None, overwrite=self.directory.is_cut_off())
        glossary = Glossary({metric.id: metric.title for metric in METRICS.values()}, FLAGS)
        self.directory.begin({"threads": torch.get_num_threads(), **source.noted}, glossary)

    def _take_up(self) -> bool:
        """Read what the folder holds, if anything that counts."""
        directory = self.directory
        if directory.is_empty() or directory.is_cut_off():
            return False
        recording = directory.recording()
        if recording is None:
            raise RunDirectoryError(
                f"{self.path} must be a new folder or a recording to continue, got one with other content. "
                "Choose another place."
            )
        status = directory.status()
        held = {"unit": status.unit if status is not None else self.source.unit, **recording.arguments}
        given = {"unit": self.source.unit, **self.source.arguments}
        # Only a recording of checkpoints notes whether it has test samples.
        if ("test" in held) != ("test" in given):
            kinds = ("checkpoints", "a training") if "test" in held else ("a training", "checkpoints")
            raise RunDirectoryError(f"{self.path} holds a recording of {kinds[0]}, got {kinds[1]}. Choose another folder.")
        for name in (name for name in {**held, **given} if held.get(name) != given.get(name)):
            raise RunDirectoryError(
                f"{self.path} holds a recording with {_said(name, held)}, got {_said(name, given)}. "
                "Pass the same arguments, or choose another folder."
            )
        directory.take_up()
        remove_leftovers(self.path)
        self.times = {item.time: item for item in recording.times}
        directory.load(max(self.times, default=-1), self.source.unit)
        # Times that a save was cut off before listing have incomplete tables.
        self._keep(lambda time: time in self.times)
        self._seconds_before = directory.seconds()
        return True

    def _keep(self, is_kept: Callable[[int], bool]) -> None:
        directory, unit = self.directory, self.source.unit
        directory.rows = [row for row in directory.rows if is_kept(getattr(row, unit))]
        directory.history = [record for record in directory.history if is_kept(record.epoch)]
        directory.depth = [record for record in directory.depth if is_kept(record.epoch)]
        directory.samples = None if directory.samples is None else directory.samples.of_epochs(is_kept)
        self.times = {time: item for time, item in self.times.items() if is_kept(time)}

    def go_to(self, time: int) -> None:
        """Begin an epoch or step: drop what a killed training had recorded from it on, or begin a new run if time goes back."""
        if not self._goes_back and time <= max(self.times, default=-1):
            self._begin_anew(time)
        elif self._goes_back:
            self._keep(lambda earlier: earlier < time)
            before = self.times.get(time - 1) if self.source.unit == "epoch" else self.times.get(max(self.times, default=-1))
            if self.clock is not None and time > 0:
                # Without the epoch before, its steps are unknown.
                self.clock.go_on(*((None, None) if before is None and time > 1 else _count_of(before)))
        self._goes_back = False

    def _begin_anew(self, time: int) -> None:
        last, old, self.times = max(self.times), self.path, {}
        self._release()
        self._hold(_free_folder(self.path, warn=False))
        self._started, self._seconds_before = clock_time.monotonic(), 0.0
        warnings.warn(
            f"{self.source.unit} {time} came after {self.source.unit} {last}: this is a second run, recorded in {self.path}. "
            f"{old} stays as it was.",
            stacklevel=4,
        )
        self._create()

    def add(
        self,
        place: RecordedTime,
        measurements: Sequence[Measurement] = (),
        *,
        epoch: float | None = None,
        history: EpochRecord | None = None,
        network: nn.Module | None = None,
    ) -> None:
        """Add an epoch or step, in any order, and save; one of the same time is replaced."""
        directory, time = self.directory, place.time
        if network is not None and measurements:
            self._note_network(network, measurements[0])
        self._keep(lambda other: other != time)
        self.times[time] = place
        at = time if self.source.unit == "epoch" else epoch
        directory.rows += [row._replace(epoch=at, step=place.step) for measured in measurements for row in measured.rows]
        followed = next((measured for measured in measurements if measured.paths is not None), None)
        directory.depth += [] if followed is None else [depth_record(followed, time)]
        if measurements:
            directory.samples = add_kgon(directory.samples, measurements[0], time, names=self.source.class_names)
        directory.history += [] if history is None else [history]
        directory.rows.sort(key=lambda row: getattr(row, self.source.unit))
        directory.depth.sort(key=lambda record: record.epoch)
        directory.history.sort()
        total = self.source.total
        # What is saved goes on from here; while this process holds the folder it counts as running.
        ended = total is not None and time >= total
        self.save("finished" if ended else "stopped")
        if ended:
            self._release()

    def import_rows(self, rows: Sequence[Row], times: Sequence[RecordedTime]) -> None:
        """Save a finished table of which nothing else is known."""
        self.directory.rows = sorted(rows, key=lambda row: getattr(row, self.source.unit))
        self.times = {place.time: place for place in times}
        self.finish()

    def _note_network(self, network: nn.Module, measured: Measurement) -> None:
        """Note where the network is and which layers were chosen, with the first save of a new run."""
        if self.directory.rows:
            return
        noted: dict[str, Any] = {**machine(device_of(network)), "network": type(network).__name__, "chosen": measured.chosen}
        if measured.num_classes < measured.num_labels:
            noted["classes"] = measured.classes
        glossary = Glossary({metric.id: metric.title for metric in METRICS.values()}, FLAGS)
        self.directory.begin({**noted, "threads": torch.get_num_threads(), **self.source.noted}, glossary)

    def save(self, state: str, reason: str | None = None) -> None:
        """Write everything."""
        last = max(self.times, default=0)
        place = self.times.get(last, RecordedTime(last))
        unit, total = self.source.unit, self.source.total
        accuracies = {
            getattr(row, unit): row.value for row in self.directory.rows if row.metric == "accuracy" and row.split == "train"
        }
        status = Status(
            state=state,
            epoch=last,
            epochs=max(last, total or 0),
            train_accuracy=accuracies[max(accuracies)] if accuracies else None,
            first_perfect_epoch=min((time for time, value in accuracies.items() if value == 1.0), default=None),
            seconds=self._seconds_before + clock_time.monotonic() - self._started,
            weight_decay_time=place.weight_decay_time,
            reason=reason,
            unit=unit,
        )
        times = tuple(self.times[time] for time in sorted(self.times))
        self.directory.save(status, recording=Recording(dict(self.source.arguments), times))

    def finish(self, state: str = "finished", reason: str | None = None) -> None:
        """Say how the training ended, and count no further steps."""
        if self.clock is not None:
            self.clock.stop()
        if self.times:
            self.save(state, reason)
        self._release()


def _count_of(place: RecordedTime | None) -> tuple[int | None, float | None]:
    return (0, 0.0) if place is None else (place.step, place.weight_decay_time)


def _said(name: str, arguments: Mapping[str, str]) -> str:
    value = arguments.get(name)
    if name == "test":
        return "test samples" if value == "True" else "no test samples"
    return f"no {name}" if value is None else f"{name}={value}"


def _free_folder(path: Path, *, warn: bool = True) -> Path:
    """Return a folder that holds nothing: the one that was named, or the first of NAME-2, NAME-3, … beside it."""
    free, number = path, 1
    while free.exists() and not (free.is_dir() and RunDirectory(free).is_empty()):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    if warn and free != path:
        warnings.warn(f"{path} is not empty and stays as it is; this run is recorded in {free}.", stacklevel=4)
    return free


def recipe_of(recipe: Mapping[str, Any] | None, clock: StepClock | None) -> dict[str, Any]:
    """Return the settings of a training: what the user says, and what the optimizer shows."""
    found = dict(recipe or {})
    if clock is not None:
        train = found.get("train", {})
        found["train"] = {**clock.settings(), **(train if isinstance(train, Mapping) else {})}
    return found
