"""The tables of the page as values: the last epoch's metrics by layer with marked flags, the recipe, the versions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ncollapse.drawing.wording import number, spelled
from ncollapse.records.depth import EPSILON
from ncollapse.records.manifest import NOTED
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import flatten_settings, setting_text
from ncollapse.records.rows import Row

# Endings of the ids of estimates for the population.
_ESTIMATES = (".population", ".leave_one_out")
_OF_GROUPS = ("accuracy", "pfc3", "pfc1", "cosine", "cosine_weights")


@dataclass(frozen=True)
class MetricRow:
    """One metric: its id, its meaning, and one cell per layer, each a text and the marks of its flags."""

    metric: str
    meaning: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MetricTable:
    """The metrics of one split at the last epoch; ``flags`` are (mark, flag, explanation)."""

    split: str
    epoch: int
    rows: tuple[MetricRow, ...]
    flags: tuple[tuple[str, str, str], ...]


class Entry(NamedTuple):
    """One cell of a table: a metric of one layer as text, with its flags."""

    metric: str
    depth: int
    text: str
    flags: tuple[str, ...]


def unit_of(runs: Sequence[Run]) -> str:
    """Say what runs count: epochs, steps, or some of them the one and some the other."""
    return " or ".join(sorted({run.unit for run in runs if not run.is_measured_only}) or ["epoch"])


def metric_tables(run: Run) -> list[MetricTable]:
    """One table per split of the last epoch."""
    return [
        _table(run, split, [Entry(row.metric, row.depth, _tabled(row.value), row.flags) for row in rows])
        for split, rows in _last_rows(run).items()
    ]


def estimate_tables(run: Run) -> list[MetricTable]:
    """One table per split with estimates for the population: plain value, estimate, and its error or interval."""
    tables = []
    for split, rows in _last_rows(run).items():
        known = {(row.metric, row.depth): row for row in rows}
        estimates = [row for row in rows if row.metric.endswith(_ESTIMATES)]
        if estimates:
            tables.append(_table(run, split, [_compared(row, known) for row in estimates]))
    return tables


class GroupRow(NamedTuple):
    """A group of classes on one split, at the last epoch: numbers of the last layer, and the first layer that separates it."""

    split: str
    group: str
    values: tuple[str, ...]
    depth: str


def group_table(run: Run) -> list[GroupRow]:
    """Table the classes with many and with few training samples, where a run measured them."""
    found, last = [], len(run.measured_layers) - 1
    for split, rows in _last_rows(run).items():
        values = {(row.metric, row.depth): row.value for row in rows}
        for group in ("many", "few"):
            known = [values.get((f"{metric}.{group}", last), math.nan) for metric in _OF_GROUPS]
            if (f"pfc3.{group}", last) in values:
                depth = next((d for d in range(last + 1) if values[f"pfc3.{group}", d] >= 1 - EPSILON), None)
                found.append(GroupRow(split, group, tuple(map(_tabled, known)), "none" if depth is None else str(depth)))
    return found


def _compared(row: Row, known: dict[tuple[str, int], Row]) -> Entry:
    plain, low, high = (known.get((row.metric.partition(".")[0] + end, row.depth)) for end in ("", ".low", ".high"))
    text = _tabled(row.value)
    if plain is not None:
        text = f"{_tabled(plain.value)} → {text}"
    if low is not None and high is not None:
        text += f" in [{_tabled(low.value)}, {_tabled(high.value)}]"
    elif row.standard_error is not None:
        text += f" ± {number(row.standard_error, 2)}"
    flags = [flag for part in (plain, row, low, high) if part is not None for flag in part.flags]
    return Entry(row.metric, row.depth, text, tuple(dict.fromkeys(flags)))


def _last_rows(run: Run) -> dict[str, list[Row]]:
    """Return the rows of the last epoch by split."""
    rows: dict[str, list[Row]] = {}
    for row in run.rows:
        if row.epoch == run.epochs[-1]:
            rows.setdefault(row.split, []).append(row)
    return rows


def _table(run: Run, split: str, entries: list[Entry]) -> MetricTable:
    words, depths = run.glossary, range(len(run.measured_layers))
    marks = {flag: mark(i) for i, flag in enumerate(dict.fromkeys(flag for entry in entries for flag in entry.flags))}
    cells: dict[str, dict[int, tuple[str, str]]] = {}
    for entry in entries:
        cells.setdefault(entry.metric, {})[entry.depth] = (entry.text, " ".join(marks[flag] for flag in entry.flags))
    rows = tuple(
        MetricRow(metric, words.metrics.get(metric, ""), tuple(known.get(depth, ("", "")) for depth in depths))
        for metric, known in cells.items()
    )
    explained = tuple((mark, flag, words.flags.get(flag, flag.replace("_", " "))) for flag, mark in marks.items())
    return MetricTable(split, run.epochs[-1], rows, explained)


def recipe_groups(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Table the recipe by section, deeper nesting as dotted names, without the name, title and description shown elsewhere."""
    groups: dict[str, list[tuple[str, str]]] = {"run": []}
    for key, value in run.recipe_entries.items():
        if isinstance(value, dict):
            groups[key] = [(name, spelled(text)) for name, text in flatten_settings(value)]
        elif key not in {"title", "description", "changed"}:
            groups["run"].append((key, spelled(setting_text(value))))
    return groups


def environment_entries(run: Run) -> list[tuple[str, str]]:
    """Versions, device and seed, then how long training took and the loss it ended with."""
    # The classes may be thousands; the words on what was chosen count them.
    entries = flatten_settings({name: value for name, value in run.environment.items() if name not in {"classes", NOTED}})
    if run.status.seconds is not None:
        entries.append(("time of the recording" if run.is_recorded else "training time", f"{number(run.status.seconds)} s"))
    if run.history and not math.isnan(run.history[-1].loss):
        entries.append(("last training loss", number(run.history[-1].loss)))
    return entries


def _tabled(value: float) -> str:
    return "undef." if math.isnan(value) else number(value, 4)


def mark(index: int) -> str:
    """Return a mark: a, b, …, z, then 27, 28, …; beside numbers it must not be one while letters last."""
    return chr(ord("a") + index) if index < 26 else str(index + 1)
