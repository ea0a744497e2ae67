"""The CSV tables of a run directory: their lines as records, read and written."""

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import groupby, islice, pairwise, repeat
from operator import itemgetter
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
# As Row._make, without a call of Python's for each line.
_AS_ROW = partial(tuple.__new__, Row)
_EPOCH, _PLACE, _LAYER = (
    itemgetter(*map(Row._fields.index, names)) for names in (["epoch"], ["split", "depth", "metric"], ["depth", "layer"])
)
# Before version 0.2 `measurements.csv` had neither of these.
_ADDED = ("step", "standard_error")
_OLD_COLUMNS = tuple(name for name in Row._fields if name not in _ADDED)


def read_rows(
    file: Path, epochs: Epochs = "all", among: Collection[int] = (), read: Read = read_bytes, unit: Unit = "epoch"
) -> tuple[Row, ...]:
    """Read ``measurements.csv``: all of it, or only the last epoch, or the first and the last, that are also among some."""
    # Where the unit is steps, they stand in the place of epochs.
    content = read(file, RUN_AGAIN)

    def rows(blocks: Iterable[_Lines]) -> tuple[Row, ...]:
        found: list[Row] = []
        for lines in blocks:
            values = _by_column(file, columns, lines)
            values["epoch"] = values[unit]
            found += map(_AS_ROW, zip(*(values.get(name, repeat(None)) for name in Row._fields), strict=False))
        _check_places(file, found)
        return tuple(found)

    if epochs != "all":
        columns, blocks = _table(file, content, Row._fields, _OLD_COLUMNS)
        if lines := _of_ends(blocks, columns.index(unit), among, epochs):
            return rows([lines])
    columns, blocks = _table(file, content, Row._fields, _OLD_COLUMNS)
    return rows(blocks)


def _check_places(file: Path, rows: Sequence[Row]) -> None:
    """Check that every number stands once, and that a layer has one name at a time."""
    # Epoch by epoch: the places of all would take more memory than the rows.
    by_epoch: dict[float | None, list[Row]] = {}
    for epoch, together in groupby(rows, _EPOCH):
        by_epoch.setdefault(epoch, []).extend(together)
    for epoch, found in by_epoch.items():
        if len(set(map(_PLACE, found))) < len(found):
            fail(file, f"must hold a metric of a layer and split once at each time, holds one twice at {epoch}")
        names: dict[int, str] = {}
        for depth, layer in set(map(_LAYER, found)):
            if (other := names.setdefault(depth, layer)) != layer:
                fail(file, f"names the layer at depth {depth} both {min(layer, other)} and {max(layer, other)} at {epoch}")


def _of_ends(blocks: Iterable[_Lines], place: int, among: Collection[int], epochs: Epochs) -> _Lines:
    """Choose the lines of the last of some epochs, or of the first and the last; no others are kept meanwhile."""
    epoch_of = {str(epoch): epoch for epoch in among}
    kept: dict[str, _Lines] = {}
    for lines in blocks:
        found = sorted({*kept, *(cells[place] for cells in lines.values())} & epoch_of.keys(), key=epoch_of.__getitem__)
        kept = {text: kept.get(text, {}) for text in (found[-1:] if epochs == "last" else found[:1] + found[-1:])}
        for number, cells in lines.items():
            if cells[place] in kept:
                kept[cells[place]][number] = cells
    return dict(sorted(line for lines in kept.values() for line in lines.items()))


def read_history(file: Path, read: Read = read_bytes) -> tuple[EpochRecord, ...]:
    """Read ``history.csv``."""
    columns, blocks = _table(file, read(file, RUN_AGAIN), EpochRecord._fields)
    records: list[EpochRecord] = []
    for lines in blocks:
        records += map(EpochRecord._make, zip(*_by_column(file, columns, lines).values(), strict=True))
    epochs = [-math.inf if record.epoch is None else record.epoch for record in records]
    if -math.inf in epochs or any(later <= earlier for earlier, later in pairwise(epochs)):
        fail(file, "must list epochs in ascending order, each once")
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


def _table(file: Path, content: bytes, *layouts: tuple[str, ...]) -> tuple[tuple[str, ...], Iterator[_Lines]]:
    """Read the header, which must be one of some; hand out the lines below it, each of its length, in blocks."""
    records = _records(file, content)
    header = tuple(next(records, ()))
    if header not in layouts:
        fail(file, f"needs the columns {','.join(layouts[0])}, has {','.join(header)[:_SHOWN] or 'none'}")
    if content.count(b"\n") > _MOST_LINES:
        fail(file, f"has more than {_MOST_LINES} lines", NOT_OURS)
    return header, _blocks(file, records, len(header))


def _blocks(file: Path, records: Iterator[list[str]], length: int) -> Iterator[_Lines]:
    # The texts of a table take ten times its bytes, so they become numbers block by block.
    numbered = enumerate(records, start=2)
    while lines := dict(islice(numbered, _BLOCK)):
        if {*map(len, lines.values())} != {length}:
            number, cells = next((number, cells) for number, cells in lines.items() if len(cells) != length)
            fail(file, f"line {number} needs {length} fields, has {len(cells)}")
        yield lines


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
        if b'"' not in content and b"\r" not in content:
            # A record is a line, of which the length has been checked.
            yield from (line.rstrip("\n").split(",") for line in stream)
            return
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
    cells = zip(*lines.values(), strict=True)
    return {name: _values(file, _PARSERS.get(name, float), column, lines) for name, column in zip(columns, cells, strict=True)}


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


@lru_cache
def _epoch(text: str) -> float | None:
    """Read a whole number where there is one: a trainer's epochs may be fractions, and a single measurement has none."""
    if not text:
        return None
    epoch = int(text) if text.lstrip("-").isdigit() else float(text)
    if not math.isfinite(epoch):
        raise ValueError(f"an epoch must be finite, got {text}")
    return epoch


@lru_cache
def _depth(text: str) -> int:
    depth = int(text)
    if depth < 0:
        raise ValueError(f"a depth must be at least 0, got {text}")
    return depth


# Columns that are not named here hold a number.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "epoch": _epoch,
    "step": lambda text: int(text) if text else None,
    "split": intern,
    "depth": _depth,
    "layer": intern,
    "metric": intern,
    "standard_error": lambda text: float(text) if text else None,
    "flags": _flags,
}
