"""The tables of the page as values: the last epoch's metrics by layer with marked flags, the recipe, the versions."""

import math
from dataclasses import dataclass

from ncollapse.drawing.wording import number
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import flatten_settings, setting_text


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


def metric_tables(run: Run) -> list[MetricTable]:
    """One table per split of the last epoch."""
    last, words = [row for row in run.rows if row.epoch == run.epochs[-1]], run.glossary
    tables = []
    for split in dict.fromkeys(row.split for row in last):
        rows = [row for row in last if row.split == split]
        marks = {flag: mark(i) for i, flag in enumerate(dict.fromkeys(flag for row in rows for flag in row.flags))}
        cells: dict[str, dict[int, tuple[str, str]]] = {}
        for row in rows:
            text = (_tabled(row.value), " ".join(marks[flag] for flag in row.flags))
            cells.setdefault(row.metric, {})[row.depth] = text
        table_rows = tuple(
            MetricRow(
                metric,
                words.metrics.get(metric, ""),
                tuple(known.get(depth, ("", "")) for depth in range(len(run.measured_layers))),
            )
            for metric, known in cells.items()
        )
        explained = tuple((mark, flag, words.flags.get(flag, flag.replace("_", " "))) for flag, mark in marks.items())
        tables.append(MetricTable(split, run.epochs[-1], table_rows, explained))
    return tables


def recipe_groups(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Table the recipe by section, deeper nesting as dotted names, without the name, title and description shown elsewhere."""
    groups: dict[str, list[tuple[str, str]]] = {"run": []}
    for key, value in run.recipe_entries.items():
        if isinstance(value, dict):
            groups[key] = flatten_settings(value)
        elif key not in {"title", "description", "changed"}:
            groups["run"].append((key, setting_text(value)))
    return groups


def environment_entries(run: Run) -> list[tuple[str, str]]:
    """Versions, device and seed, then how long training took and the loss it ended with."""
    # The classes may be thousands; the words on what was chosen count them.
    entries = flatten_settings({name: value for name, value in run.environment.items() if name != "classes"})
    if run.status.seconds is not None:
        entries.append(("training time", f"{number(run.status.seconds)} s"))
    if run.history:
        entries.append(("last training loss", number(run.history[-1].loss)))
    return entries


def _tabled(value: float) -> str:
    if math.isnan(value):
        return "undef."
    return f"{value:.4g}".replace("inf", "∞").replace("e-0", "e-")


def mark(index: int) -> str:
    """Return a mark: a, b, …, z, then 27, 28, …; beside numbers it must not be one while letters last."""
    return chr(ord("a") + index) if index < 26 else str(index + 1)
