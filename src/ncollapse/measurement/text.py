"""A measurement as a table in text: the layers as rows, the shown metrics as columns."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ncollapse.records.rows import Row

# The width if the output is not a terminal.
_WIDTH = 100


class TextTable(NamedTuple):
    """A summary, a header, one line of cells for each layer, and notes."""

    summary: str
    header: list[str]
    lines: list[list[str]]
    notes: list[str]

    @classmethod
    def of(
        cls, summary: str, rows: Sequence[Row], layers: Sequence[str], shown: Sequence[str], flags: Mapping[str, str]
    ) -> TextTable:
        """Lay out the rows of the shown metrics; a star marks a value with a flag."""
        cells = {(row.layer, row.metric): row for row in rows if row.metric in shown}
        metrics = [metric for metric in shown if any(metric == other for _, other in cells)]
        lines = [[layer, *(_cell(cells.get((layer, metric))) for metric in metrics)] for layer in layers]
        notes = [f"* {flag}: {flags[flag]}" for flag in sorted({flag for row in cells.values() for flag in row.flags})]
        more = len({row.metric for row in rows}) - len(metrics)
        if more:
            notes.append(
                f"{more} more metrics were measured: m['nc1_total'] in Python, --metrics all on the command line. "
                "print(nc.METRICS['pfc1']) explains one."
            )
        return cls(summary, ["layer", *metrics], lines, notes)

    def text(self, width: int | None = None) -> str:
        """Format the table in lines of at most the terminal's width; columns that do not fit follow below."""
        width = shutil.get_terminal_size((_WIDTH, 24)).columns if width is None else width
        columns = [_column(cells) for cells in zip(self.header, *self.lines, strict=True)]
        columns[0] = [cell.strip().ljust(len(cell)) for cell in columns[0]]
        lines = [part for line in self.summary.splitlines() for part in textwrap.wrap(line, width)]
        for block in _blocks(columns, width):
            lines += ["  ".join(cells).rstrip() for cells in zip(*block, strict=True)]
        return "\n".join([*lines, *(part for note in self.notes for part in textwrap.wrap(note, width))])


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row.value:.4g}{'*' if row.flags else ''}"


def _column(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.rjust(width) for cell in cells]


def _blocks(columns: Sequence[list[str]], width: int) -> list[list[list[str]]]:
    """Split columns into blocks that fit a width, each with the first column and at least one more."""
    names, *others = columns
    blocks = [[names]]
    for column in others:
        if len(blocks[-1]) > 1 and sum(len(part[0]) + 2 for part in blocks[-1]) + len(column[0]) > width:
            blocks.append([names])
        blocks[-1].append(column)
    return blocks
