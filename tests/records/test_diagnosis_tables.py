"""The tables of a diagnosis: each number of a class or a pair stands on its own line, with the split that it is of."""

import csv
import math

import pytest

from ncollapse.records.csv_tables import class_text, pair_text
from ncollapse.records.rows import CLASS_COLUMNS, PAIR_COLUMNS, ClassFinding, DiagnosisRecord, PairFinding, Row


def diagnosis(decided="test", judged="train"):
    """Two classes and one pair at the last of three layers."""
    classes = (
        ClassFinding(3, "cat", 10, "many", 0.25, 5, 0.5, 0.125, 1.0, 0.75),
        ClassFinding(5, "dog", 20, "few", 0.5, 3, 0.5, 0.0625, 0.9, 0.8),
    )
    rows = [
        Row.measured(split, depth, layer, "ncc", value, None, ())
        for split, values in (("train", (0.9, 1.0)), ("test", (0.5, 0.75)))
        for depth, (layer, value) in enumerate(zip(("stem", "head"), values, strict=True))
    ]
    return DiagnosisRecord(
        layers=("stem", "body", "head"), dims=(4, 4, 4), notes={}, rows=tuple(rows), accuracy={}, decided=decided,
        judged=judged, num_samples={}, effective_depth=None, names={3: "cat", 5: "dog"}, classes=classes, groups=(),
        pairs=(PairFinding(3, 5, 2.0, 0.1, 0.05),), merged=(), distances=(), cka=(), strangers=(), tasks=(), chosen="",
    )  # fmt: skip


def read(content, columns):
    header, *lines = csv.reader(content.decode().splitlines())
    assert tuple(header) == columns
    return [tuple(line) for line in lines]


def test_values_are_found_by_metric_layer_and_split():
    found = diagnosis()
    assert found.value("ncc", "head") == found.value("ncc", "head", "test") == 0.75
    assert (found.value("ncc", "stem", "train"), found.value("ncc", "stem")) == (0.9, 0.5)
    assert diagnosis("train").value("ncc", "head") == 1.0
    assert math.isnan(found.value("pfc1", "head"))
    assert math.isnan(found.value("ncc", "head", "other"))


@pytest.mark.parametrize("decided", ["test", "train"])
def test_numbers_of_classes(decided):
    lines = read(class_text(diagnosis(decided).class_lines()), CLASS_COLUMNS)
    expected = [("", "train", "head", "3", metric, value) for metric, value in (
        ("count", "10"), ("variance", "0.25"), ("ncc", "1.0"), ("nearest_distance", "0.5"), ("cdnv", "0.125"),
    )]  # fmt: skip
    # Without held-out samples there is no number of them.
    expected += [("", "test", "head", "3", "ncc", "0.75")] if decided == "test" else []
    assert lines[: len(lines) // 2] == expected
    assert [(line[3], *line[4:]) for line in lines if line[1] == "test"] == (
        [("3", "ncc", "0.75"), ("5", "ncc", "0.8")] if decided == "test" else []
    )
    assert len(lines) == 2 * len(expected)


@pytest.mark.parametrize("judged", ["test", "train"])
def test_numbers_of_pairs(judged):
    """Which classes are taken for one another is counted on the split that merged classes are about."""
    assert read(pair_text(diagnosis(judged=judged).pair_lines()), PAIR_COLUMNS) == [
        ("", "train", "head", "3", "5", "distance", "2.0"),
        ("", "train", "head", "3", "5", "cdnv", "0.1"),
        ("", judged, "head", "3", "5", "confusion", "0.05"),
    ]
