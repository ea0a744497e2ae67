"""The summary of a sweep while it runs: a row a setting, from the files of its runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ncollapse.report.parsing import ReportError
from ncollapse.report.reading import Run, read_run
from ncollapse.report.sweep_quantities import QUANTITIES
from ncollapse.studies import SweepRun

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = ("pfc1", "pfc2", "pfc3_error", "excess")


class SweepSummary:
    """How far every setting is, and the metrics of its runs at the last layer and the last measured epoch.

    Args:
        runs: All runs of the sweep.
    """

    def __init__(self, runs: Sequence[SweepRun]) -> None:
        self.runs = runs
        self._read: dict[str, tuple[int, dict[str, float]]] = {}

    def words(self) -> str:
        """How many runs are finished."""
        finished = sum(run.status().get("state") == "finished" for run in self.runs)
        return f"{finished} of {len(self.runs)} runs finished"

    def table(self) -> Table:
        """One row a setting: runs that are finished, epochs, and means over those of its runs that have been measured.

        Returns:
            The table.
        """
        from rich.table import Table
        from rich.text import Text

        settings: dict[tuple[str, ...], list[SweepRun]] = {}
        for run in self.runs:
            settings.setdefault(tuple(run.settings.values()), []).append(run)
        found = {values: [self._metrics(run) for run in runs] for values, runs in settings.items()}
        shown = [key for key in _SHOWN if any(key in metrics for each in found.values() for metrics in each)]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in (*self.runs[0].settings, "finished", "epochs", *shown):
            table.add_column(Text(heading), justify="right")
        for values, runs in settings.items():
            states = [run.status() for run in runs]
            finished = sum(status.get("state") == "finished" for status in states)
            epochs, needed = sum(status.get("epoch", 0) for status in states), sum(run.recipe.train.epochs for run in runs)
            means = [_mean([metrics[key] for metrics in found[values] if key in metrics]) for key in shown]
            words = (*values, f"{finished}/{len(runs)}", f"{epochs}/{needed}", *means)
            table.add_row(*map(Text, words))
        return table

    def _metrics(self, run: SweepRun) -> dict[str, float]:
        """Read again only when the run has come further."""
        epoch = run.status().get("epoch", -1)
        known, metrics = self._read.get(run.name, (-1, {}))
        if epoch > known:
            try:
                metrics = _values(read_run(run.path))
            except ReportError:
                # Nothing is measured yet, or a file is about to be written.
                return metrics
            self._read[run.name] = epoch, metrics
        return metrics


def _values(run: Run) -> dict[str, float]:
    values: dict[str, Any] = {item.key: item.read(run) for item in QUANTITIES if item.key in _SHOWN}
    return {key: value for key, value in values.items() if value is not None}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3g}" if values else ""
