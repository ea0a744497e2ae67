"""The summary of a sweep while it runs: a row per setting, from the files of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ncollapse.claims.quantities import BY_KEY
from ncollapse.records.errors import ReportError
from ncollapse.records.reading import Run, read_run
from ncollapse.studies import SweepRun

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = ("pfc1", "pfc2", "pfc3_error", "excess")


class _Measured(NamedTuple):
    """What a run's files say: how far it is, the last measured epoch (-1 before the first), and the metrics then."""

    progress: int
    epoch: int
    metrics: dict[str, float]


class SweepSummary:
    """How far every setting is, and the metrics of its runs at the last layer and the last measured epoch."""

    def __init__(self, runs: Sequence[SweepRun]) -> None:
        self.runs = runs
        self._read: dict[str, _Measured] = {}

    def words(self) -> str:
        """How many runs are finished."""
        finished = sum(run.is_finished for run in self.runs)
        return f"{finished} of {len(self.runs)} runs finished"

    def table(self) -> Table:
        """One row per setting: runs that are finished, epochs, and means over those of its runs that were measured latest."""
        from rich.table import Table
        from rich.text import Text

        settings: dict[tuple[str, ...], list[SweepRun]] = {}
        for run in self.runs:
            settings.setdefault((*run.settings.values(), *run.tied.values()), []).append(run)
        found = {values: _latest([self._measured(run) for run in runs]) for values, runs in settings.items()}
        shown = [key for key in _SHOWN if any(key in metrics for _, each in found.values() for metrics in each)]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        swept = (*self.runs[0].settings, *self.runs[0].tied)
        for heading in (*swept, "finished", "epochs", *(["measured at"] if shown else []), *shown):
            table.add_column(Text(heading), justify="right")
        for values, runs in settings.items():
            states = [status for run in runs if (status := run.status()) is not None]
            finished = sum(status.state == "finished" for status in states)
            epochs, needed = sum(status.epoch for status in states), sum(run.recipe.train.epochs for run in runs)
            at, measured = found[values]
            means = [_mean([metrics[key] for metrics in measured if key in metrics]) for key in shown]
            words = (*values, f"{finished}/{len(runs)}", f"{epochs}/{needed}", f"epoch {at}" if measured else "", *means)
            table.add_row(*map(Text, words[: len(table.columns)]))
        return table

    def _measured(self, run: SweepRun) -> _Measured:
        """Read again only when the run has come further."""
        status = run.status()
        progress = -1 if status is None else status.epoch
        known = self._read.get(run.name, _Measured(-1, -1, {}))
        if progress > known.progress:
            try:
                found = read_run(run.path, "last")
            except ReportError:
                # Nothing is measured yet, or a file is about to be written.
                return known
            known = self._read[run.name] = _Measured(progress, found.epochs[-1], _values(found))
        return known


def _latest(measured: Sequence[_Measured]) -> tuple[int, list[dict[str, float]]]:
    """Find the latest epoch at which any run was measured, and its values: means never mix epochs."""
    latest = max(item.epoch for item in measured)
    return latest, [item.metrics for item in measured if item.epoch == latest and item.metrics]


def _values(run: Run) -> dict[str, float]:
    values: dict[str, Any] = {key: BY_KEY[key].read(run) for key in _SHOWN}
    return {key: value for key, value in values.items() if value is not None}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3g}" if values else ""
