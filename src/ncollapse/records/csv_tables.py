"""The CSV tables of a run directory: their lines as records, read and written."""

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, repeat
from pathlib import Path
from sys import intern
from typing import Any, Literal

from ncollapse.records.json_files import NOT_OURS, RUN_AGAIN, Read, fail, read_bytes
from ncollapse.records.rows import CLASS_COLUMNS, PAIR_COLUMNS, EpochRecord, Row
from ncollapse.records.run_files import Unit

# Which of the measured epochs are read.
Epochs = Literal["all", "ends", "last"]
# The lines of a file below its header, by number.
_Lines = dict[int, list[str]]
# Names of layers have tens of characters, not thousands.
_LONGEST_RECORD = 1 << 17
_SHOWN = 200
# A hundred measured layers at five hundred epochs; records take a few hundred bytes a line.
_MOST_LINES = 3_000_000
_BLOCK = 4096
# Before version 0.2 `measurements.csv` had neither of these.
_ADDED = ("step", "standard_error")
_OLD_COLUMNS = tuple(name for name in Row._fields if name not in _ADDED)


def read_rows(
    file: Path, epochs: Epochs = "all", among: Collection[int] = (), read: Read = read_bytes, unit: Unit = "epoch"
) -> tuple[Row, ...]:
    """Read ``measurements.csv``: all of it, or only the last epoch, or the first and the last, that are also among some."""
    # Where the unit is steps, they stand in the place of epochs.
    content, wanted = read(file, RUN_AGAIN), set[str]()
    if epochs != "all":
        columns, blocks = _table(file, content, Row._fields, _OLD_COLUMNS)
        place = columns.index(unit)
        written = {cells[place] for _, lines in blocks for cells in lines}
        common = sorted(epoch for epoch in among if str(epoch) in written)
        wanted = {str(epoch) for epoch in (common[-1:] if epochs == "last" else common[:1] + common[-1:])}
    columns, blocks = _table(file, content, Row._fields, _OLD_COLUMNS)
    place, rows = columns.index(unit), list[Row]()
    for first, lines in blocks:
        chosen = {number: cells for number, cells in enumerate(lines, first) if cells[place] in wanted or not wanted}
        values = _by_column(file, columns, chosen)
        values["epoch"] = values[unit]
        rows += map(Row._make, zip(*(values.get(name, repeat(None)) for name in Row._fields), strict=False))
    return tuple(rows)


def read_history(file: Path, read: Read = read_bytes) -> tuple[EpochRecord, ...]:
    """Read ``history.csv``."""
    columns, blocks = _table(file, read(file, RUN_AGAIN), EpochRecord._fields)
    records: list[EpochRecord] = []
    for first, lines in blocks:
        values = _by_column(file, columns, dict(enumerate(lines, first)))
        records += map(EpochRecord._make, zip(*values.values(), strict=True))
    return tuple(records)


def rows_text(rows: Iterable[Row]) -> bytes:
    """Write the content of ``measurements.csv``."""
    return _text(Row._fields, ((*row[:-1], ";".join(row.flags)) for row in rows))


def history_text(rows: Iterable[EpochRecord]) -> bytes:
    """Write the content of ``history.csv``."""
    return _text(EpochRecord._fields, rows)


def class_text(lines: Iterable[Sequence[Any]]) -> bytes:
    """Write the content of ``classes.csv``."""
    return _text(CLASS_COLUMNS, lines)


def pair_text(lines: Iterable[Sequence[Any]]) -> bytes:
    """Write the content of ``pairs.csv``."""
    return _text(PAIR_COLUMNS, lines)


def _text(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    # The writer gives floats every digit, and None no character.
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return text.getvalue().encode()


def _table(
    file: Path, content: bytes, *layouts: tuple[str, ...]
) -> tuple[tuple[str, ...], Iterator[tuple[int, list[list[str]]]]]:
    """Read the header, which must be one of some; hand out the lines below it in blocks, each with its first line's number."""
    records = _records(file, content)
    header = tuple(next(records, ()))
    if header not in layouts:
        fail(file, f"needs the columns {','.join(layouts[0])}, has {','.join(header)[:_SHOWN] or 'none'}")
    if content.count(b"\n") > _MOST_LINES:
        fail(file, f"has more than {_MOST_LINES} lines", NOT_OURS)
    return header, _blocks(file, records, len(header))


def _blocks(file: Path, records: Iterator[list[str]], length: int) -> Iterator[tuple[int, list[list[str]]]]:
    # The texts of a table take ten times its bytes, so they become numbers block by block.
    number = 2
    while lines := list(islice(records, _BLOCK)):
        for i, cells in enumerate(lines, number):
            if len(cells) != length:
                fail(file, f"line {i} needs {length} fields, has {len(cells)}")
        yield number, lines
        number += len(lines)


def _records(file: Path, content: bytes) -> Iterator[list[str]]:
    """Read one record after the other, each of bounded length."""
    length, stream = 0, io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")
    _check_lines(file, content)

    def counted() -> Iterator[str]:
        nonlocal length
        # A record may have several lines. Not splitlines(): it also cuts at U+2028, which a quoted name may hold.
        for line in stream:
            length += len(line)
            if length > _LONGEST_RECORD:
                fail(file, f"has a record of more than {_LONGEST_RECORD} characters")
            yield line

    reader = csv.reader(counted())
    try:
        for cells in reader:
            length = 0
            yield cells
    except UnicodeDecodeError as error:
        # The error counts from the beginning of the part that was being decoded.
        place = stream.buffer.tell() - len(error.object) + error.start
        fail(file, f"is not UTF-8 text ({error.reason} at byte {place})")
    except csv.Error as error:
        fail(file, f"line {reader.line_num} is no record ({error})")


def _check_lines(file: Path, content: bytes) -> None:
    """Check the length of all lines, of which the stream would make one text each, without looking at every byte."""
    begin = 0
    while begin + _LONGEST_RECORD < len(content):
        # The last line that ends within reach; if there is none, this line is too long.
        begin = content.rfind(b"\n", begin, begin + _LONGEST_RECORD) + 1
        if not begin:
            fail(file, f"has a record of more than {_LONGEST_RECORD} characters")


def _by_column(file: Path, columns: tuple[str, ...], lines: _Lines) -> dict[str, list[Any]]:
    """Read the values column by column: faster than by line, since tables are long and columns few."""
    cells = zip(*lines.values(), strict=True) if lines else repeat(())
    return {name: _values(file, _PARSERS.get(name, float), column, lines) for name, column in zip(columns, cells, strict=False)}


def _values(file: Path, parse: Callable[[str], Any], cells: Sequence[str], lines: _Lines) -> list[Any]:
    try:
        return list(map(parse, cells))
    except ValueError:
        for number, cell in zip(lines, cells, strict=True):
            try:
                parse(cell)
            except ValueError as error:
                fail(file, f"line {number}: {error}")
        raise


@lru_cache
def _flags(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(";") if word)


def _epoch(text: str) -> float | None:
    """Read a whole number where there is one: a trainer's epochs may be fractions, and a single measurement has none."""
    if not text:
        return None
    epoch = int(text) if text.lstrip("-").isdigit() else float(text)
    if not math.isfinite(epoch):
        raise ValueError(f"an epoch must be finite, got {text}")
    return epoch


# Columns that are not named here hold a number.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "epoch": _epoch,
    "step": lambda text: int(text) if text else None,
    "split": intern,
    "depth": int,
    "layer": intern,
    "metric": intern,
    "standard_error": lambda text: float(text) if text else None,
    "flags": _flags,
}
