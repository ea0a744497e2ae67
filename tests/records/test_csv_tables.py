"""The tables of a run: any rows are read back as they were written, and what is no table is told with its line."""

import csv
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncollapse.records import EpochRecord, ReportError, Row
from ncollapse.records.csv_tables import history_text, read_history, read_rows, rows_text

ROWS, HISTORY = (",".join(kind._fields) for kind in (Row, EpochRecord))


def reading(content):
    """What takes the place of reading a file: its content is given."""
    return lambda file, remedy: content


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)
NUMBERS = st.floats(allow_nan=False)
NAMES = st.lists(WORDS, min_size=1, max_size=2, unique=True)


@st.composite
def tables(draw):
    """Rows of some epochs, layers and metrics, with whatever characters in their names."""
    layers, metrics, epochs = draw(NAMES), draw(NAMES), draw(st.lists(st.integers(-1, 10**6), max_size=2, unique=True))
    flags = st.lists(st.sampled_from(["empty_class", "rank_deficient"]), max_size=2, unique=True).map(tuple)
    return [
        Row(epoch, draw(st.none() | st.integers(0, 99)), split, depth, layer, metric, draw(NUMBERS),
            draw(st.none() | NUMBERS), draw(flags))
        for epoch in epochs for split in ("train", "test") for depth, layer in enumerate(layers) for metric in metrics
    ]  # fmt: skip


@given(tables())
def test_rows_are_read_back_as_they_were_written(tmp_path_factory, rows):
    assert read_rows(tmp_path_factory.getbasetemp(), read=reading(rows_text(rows))) == tuple(rows)


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=5))
def test_a_history_is_read_back_as_it_was_written(tmp_path_factory, numbers):
    records = tuple(EpochRecord(epoch, *values) for epoch, values in enumerate(numbers, start=1))
    assert read_history(tmp_path_factory.getbasetemp(), reading(history_text(records))) == records


def long_table(epochs, lines_each):
    """A table of several blocks, in which steps go on beside epochs."""
    return [
        Row(epoch, 100 * epoch, "train", 0, "stem", f"m{number}", epoch + number / 7, None, ())
        for epoch in epochs for number in range(lines_each)
    ]  # fmt: skip


def test_a_table_of_several_blocks_is_read_as_a_whole(tmp_path):
    rows = long_table(range(9), 1000)
    assert read_rows(tmp_path, read=reading(rows_text(rows))) == tuple(rows)
    # The line is counted from the beginning of the file.
    text = rows_text(rows).decode().splitlines()
    for number in (2, 4097, 4098, 8500):
        broken = [*text[: number - 1], text[number - 1].replace("train,0,", "train,x,"), *text[number:]]
        with pytest.raises(ReportError, match=rf"line {number}: invalid literal for int"):
            read_rows(tmp_path, read=reading("\n".join(broken).encode()))
        short = [*text[: number - 1], text[number - 1].rpartition(",")[0], *text[number:]]
        with pytest.raises(ReportError, match=rf"line {number} needs 9 fields, has 8"):
            read_rows(tmp_path, read=reading("\n".join(short).encode()))


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("order", [(0, 1, 2, 10, 9), (10, 2, 0, 1, 9)])
@pytest.mark.parametrize("among", [(0, 1, 2, 9, 10), (1, 2, 9), (2, 77), (1, 1000), (10,)])
def test_ends_are_those_of_the_epochs_asked_for(tmp_path, unit, order, among):
    """By number, not by text nor by place; those of a run killed between two writes are in one of two files."""
    content = rows_text(long_table(order, 1200))
    scale = 100 if unit == "step" else 1
    whole = read_rows(tmp_path, read=reading(content), unit=unit)
    known = sorted({scale * epoch for epoch in among} & {row.epoch for row in whole})
    for epochs, kept in (("ends", {known[0], known[-1]}), ("last", {known[-1]})):
        found = read_rows(tmp_path, epochs, [scale * epoch for epoch in among], reading(content), unit)
        assert found == tuple(row for row in whole if row.epoch in kept)
    assert {row.epoch for row in whole} == {scale * epoch for epoch in order}


def test_ends_of_lines_that_another_program_wrote(tmp_path):
    rows = long_table((0, 1), 3)
    for content in (rows_text(rows).replace(b"\n", b"\r\n"), rows_text(rows).replace(b"stem", b'"stem"')):
        assert read_rows(tmp_path, read=reading(content)) == tuple(rows)


def test_without_a_common_epoch_all_is_read(tmp_path):
    rows = tuple(long_table((1, 2), 3))
    assert read_rows(tmp_path, "ends", (7,), reading(rows_text(rows))) == rows


LINE = "0,,train,0,stem,pfc1,0.5,,"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (LINE.replace("0,,", "inf,,", 1), "line 2: an epoch must be finite, got inf"),
        (LINE.replace("0,,", "nan,,", 1), "line 2: an epoch must be finite, got nan"),
        (LINE.replace("0.5", "much"), "line 2: could not convert string to float: 'much'"),
        (LINE.replace("0,,", "0,1.5,", 1), "line 2: invalid literal for int"),
        (LINE + "\n" + LINE, "holds one twice at 0"),
    ],
)
def test_a_line_that_is_none_is_told(tmp_path, line, words):
    with pytest.raises(ReportError, match=words):
        read_rows(tmp_path / "measurements.csv", read=reading(f"{ROWS}\n{line}\n".encode()))


def test_a_limit_that_other_code_sets_ends_in_our_error(tmp_path):
    before = csv.field_size_limit(20)
    try:
        with pytest.raises(ReportError, match=r"line 2 is no record \(field larger than field limit \(20\)\)"):
            read_rows(tmp_path, read=reading(f"{ROWS}\n{LINE.replace('stem', chr(34) + 30 * 'x' + chr(34))}\n".encode()))
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(("text", "epoch"), [("", None), ("-1", -1), ("7", 7), ("0.5", 0.5), ("1e2", 100.0)])
def test_an_epoch_is_a_whole_number_where_it_can_be(tmp_path, text, epoch):
    (row,) = read_rows(tmp_path, read=reading(f"{ROWS}\n{text}{LINE[1:]}\n".encode()))
    assert (row.epoch, type(row.epoch)) == (epoch, type(epoch))


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("end", ["", "\n", f"\n{LINE.replace('0,', '1,', 1)}\n"], ids=["cut", "last", "followed"])
def test_a_record_has_at_most_131072_characters(tmp_path, quote, end):
    """The end of its line included, which the last one may lack."""
    for length in (131_070, 131_071, 131_072):
        name = quote + "x" * (length - len(LINE) + len("stem") - 2 * len(quote)) + quote
        content = reading(f"{ROWS}\n{LINE.replace('stem', name)}{end}".encode())
        if length + len(end[:1]) <= 131_072:
            assert read_rows(tmp_path, read=content)[0].layer == name.strip(quote)
        else:
            with pytest.raises(ReportError, match="has a record of more than 131072 characters"):
                read_rows(tmp_path, read=content)


def test_a_record_of_many_lines_has_an_end(tmp_path):
    lines = "x\n" * 70_000
    with pytest.raises(ReportError, match="has a record of more than 131072 characters"):
        read_rows(tmp_path, read=reading(f'{ROWS}\n{LINE}\n"{lines}"{LINE[1:]}\n'.encode()))


def test_a_header_is_shown_in_part(tmp_path):
    with pytest.raises(ReportError, match=rf"needs the columns {re.escape(HISTORY)}, has x{{200}}\. ") as caught:
        read_history(tmp_path, reading(b"x" * 1000))
    assert "x" * 201 not in str(caught.value)


def test_numbers_without_a_value_are_kept(tmp_path):
    (row,) = read_rows(tmp_path, read=reading(f"{ROWS}\n{LINE.replace('0.5', 'nan')}\n".encode()))
    assert math.isnan(row.value)
