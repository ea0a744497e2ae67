"""The base of the callbacks for trainers: a table of all measurements, and a run directory if a folder is named.

All processes call its methods, since an error in the one that writes must end all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ncollapse.default_device import on_the_cpu
from ncollapse.error_words import error_line
from ncollapse.groups import Processes
from ncollapse.integrations.recorded_run import RecordedRun, RecordedSource, recipe_of
from ncollapse.integrations.recording import Measurer
from ncollapse.integrations.step_clock import StepClock
from ncollapse.measurement.measurement import Measurement
from ncollapse.records.rows import EpochRecord, Row
from ncollapse.records.run_files import RecordedTime, Unit


class RecordingCallback:
    """A callback that measures; with a folder it records the training there, in the process that writes."""

    def __init__(self, measurer: Measurer, out: str | Path | None, recipe: Mapping[str, Any] | None) -> None:
        self._measurer, self._out, self._recipe = measurer, out, recipe
        self._run: RecordedRun | None = None
        self._processes = Processes()

    @property
    def table(self) -> list[Row]:
        """Tidy rows of all measurements so far."""
        return self._measurer.table

    @property
    def last(self) -> Measurement | None:
        """The last measurement."""
        return self._measurer.last

    @property
    def path(self) -> Path | None:
        """The run directory; None before the training, in processes that do not write, and without ``out``."""
        return None if self._run is None else self._run.path

    def begin_log(self, folder: str | Path, processes: Processes, *, resume: bool) -> None:
        """Create the default log if none was given and no folder was named."""
        self._processes = processes
        with processes.sharing_errors():
            if processes.is_first and self._out is None:
                self._measurer.open_log(folder, resume=resume)

    def begin_run(self, unit: Unit, total: int | None, module: nn.Module, optimizer: Any, *, resume: bool) -> None:
        """Begin the run directory, or continue it, if a folder was named."""
        self._run = None
        with self._processes.sharing_errors():
            if self._out is None or not self._processes.is_first:
                return
            clock = None if optimizer is None else StepClock(optimizer)
            arguments = {**self._measurer.arguments(), "network": type(module).__name__}
            source = RecordedSource(unit, total, arguments, recipe_of(self._recipe, clock))
            self._module, self._run = module, RecordedRun(self._out, source, resume=resume, clock=clock)

    @on_the_cpu
    def record_time(self, time: int, measured: Measurement | None = None, *, step: int, epoch: float | None = None) -> None:
        """Record an epoch or step in the run directory, if there is one."""
        if self._out is None:
            return
        with self._processes.sharing_errors():
            if self._run is not None:
                self._record_in(self._run, time, measured, step, epoch)

    def _record_in(self, run: RecordedRun, time: int, measured: Measurement | None, step: int, epoch: float | None) -> None:
        run.go_to(time)
        clock, rate, tau = run.clock, math.nan, None
        if clock is not None:
            # Steps that the hook has not seen, as before a resumption, leave the time unknown.
            rate = clock.end_epoch()
            tau = clock.time if clock.step == step else None
        history = EpochRecord(time, math.nan, math.nan, rate, math.nan) if run.source.unit == "epoch" else None
        run.add(
            RecordedTime(time, step, tau),
            [] if measured is None else [measured],
            epoch=epoch,
            history=history,
            network=self._module,
        )

    def end_run(self, error: BaseException | None = None) -> None:
        """Say in the run directory how the training ended; each process alone, since an error may have ended the others."""
        if self._run is None:
            return
        if error is None:
            self._run.finish("finished")
        else:
            failed = isinstance(error, Exception)
            self._run.finish("failed" if failed else "stopped", error_line(error) if failed else "interrupted")
