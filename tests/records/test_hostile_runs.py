"""Run directories from anybody: links, pipes, bombs, nesting; damaged bytes end in a run or in our error alone."""

import json
import os
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import FUZZED, OFTEN, damaged, memory_below
from ncollapse.records import ReportError, read_run
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.sweep import read_sweep
from ncollapse.studies.held_recipe import held_recipe
from run_files import set_train_accuracy, write_run

MIB = 1 << 20
FILES = ("recipe.json", "environment.json", "status.json", "glossary.json", "depth.json", "history.csv", "measurements.csv")
OF_SETTINGS = FILES[:4]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("small") / "run", layers=("stem", "blocks.0"), epochs=(0, 2), flagged=False)


@pytest.fixture
def small(small_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes((small_run / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_not_read(small, tmp_path, name):
    (tmp_path / "secret").write_bytes((small / name).read_bytes())
    (small / name).unlink()
    (small / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ReportError, match=rf"{name}: needed a file, got a link\. ncollapse does not write such a file: put"):
        read_run(small)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_does_not_block(small, name):
    (small / name).unlink()
    os.mkfifo(small / name)
    with pytest.raises(ReportError, match=rf"{name}: needed a file, got a pipe\."):
        read_run(small)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_terabyte_is_refused_by_its_size(small, name):
    os.truncate(small / name, 1 << 40)
    with memory_below(8 * MIB), pytest.raises(ReportError, match=rf"{name}: needed at most \d+ bytes, got 1099511627776\."):
        read_run(small)


def test_the_first_byte_that_is_no_text_is_counted_from_the_beginning(small):
    table = small / "history.csv"
    table.write_bytes(table.read_bytes() + b"3,1,1,1,1\n" * 5000 + b"\xff")
    place = table.stat().st_size - 1
    with pytest.raises(ReportError, match=rf"history\.csv: is not UTF-8 text \(invalid start byte at byte {place}\)"):
        read_run(small)


@pytest.mark.parametrize("name", ["history.csv", "measurements.csv"])
@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (b",", "has a record of more than 131072 characters"),
        (b'"\n",', "has a record of more than 131072 characters"),
        (b",\n", "needs the columns"),
        (b"\n", "needs the columns"),
    ],
)
def test_a_table_of_commas_fills_no_memory(small, name, piece, message):
    (small / name).write_bytes(piece * (8 * MIB // len(piece)))
    # Its bytes, and no more than a few records.
    with memory_below(11 * MIB), pytest.raises(ReportError, match=rf"{name}: {message}"):
        read_run(small)


@pytest.mark.parametrize(
    ("name", "begin", "piece", "end", "message"),
    [
        ("depth.json", b'{"epochs": [', b"{},", b"{}]}", "holds more than 4000000 values"),
        ("history.csv", b"epoch,loss,accuracy,learning_rate,grad_norm\n", b"\n", b"", "has more than 3000000 lines"),
    ],
)
def test_what_would_become_many_times_its_size_is_refused(small, name, begin, piece, end, message):
    (small / name).write_bytes(begin + piece * 4_000_001 + end)
    with memory_below(32 * MIB), pytest.raises(ReportError, match=rf"{name}: {message}\. ncollapse does not write such a file"):
        read_run(small)


def test_a_long_table_takes_little_more_than_its_numbers(small):
    header, line = (small / "history.csv").read_text().splitlines()[:2]
    numbers = line.partition(",")[2]
    (small / "history.csv").write_text("\n".join([header, *(f"{epoch},{numbers}" for epoch in range(1, 50_001)), ""]))
    # Five numbers of 24 bytes and a tuple a line; as texts they took three times as much.
    with memory_below(16 * MIB):
        assert len(read_run(small).history) == 50_000


@pytest.mark.parametrize("levels", [30, 900, 1_000_000])
@pytest.mark.parametrize("name", OF_SETTINGS)
def test_deep_nesting_is_refused(small, name, levels):
    known = json.loads((small / name).read_text())
    words = json.dumps({**known, "deep": "here"}).replace('"here"', "[" * levels + "]" * levels)
    (small / name).write_text(words)
    if name in {"status.json", "glossary.json"} and levels < 1000:
        # What no record declares is passed over.
        assert read_run(small).epochs == (0, 2)
        return
    with memory_below(16 * MIB), pytest.raises(ReportError, match=rf"{name}: nests deeper than 20 levels\."):
        read_run(small)


@pytest.mark.parametrize("name", ["recipe.json", "environment.json"])
def test_bytes_that_are_no_text_inside_a_name(small, name):
    (small / name).write_bytes(b'{"a\x80": 1}')
    # The parser's words differ between its versions.
    with pytest.raises(ReportError, match=rf"{name}: is not valid JSON \(.*(0x80|UTF-8)"):
        read_run(small)


EXCESS = {"speed": [1, 1], "bend": [1], "step_wasserstein2": [1]}


def said(**entries):
    """A lie of ``status.json``."""
    return lambda status: status.update(entries)


def in_first(change):
    """A lie of the first record of ``depth.json``."""
    return lambda content: change(content["epochs"][0])


@pytest.mark.parametrize(
    ("name", "lie", "message"),
    [
        ("status.json", said(epoch=-1), "epoch: needed int >= 0"),
        ("status.json", said(epochs=2**70), "epochs: "),
        ("status.json", said(epochs=1), "says epoch 2 of 1"),
        ("status.json", said(state="famous"), "state: needed str matching regex"),
        ("status.json", said(seconds=-1.0), "seconds: needed float >= 0"),
        ("status.json", said(train_accuracy=100.0), r"train_accuracy: needed float <= 1\.0"),
        ("status.json", said(train_accuracy=0.5), r"the train accuracy at epoch 2 is 0\.5, measurements\.csv says 1\.0"),
        ("depth.json", lambda content: content["epochs"].append(content["epochs"][0]), "lists epoch 0 twice"),
        ("depth.json", in_first(lambda record: record.update(epoch=-1)), "lists epoch -1 before 0"),
        ("depth.json", in_first(lambda record: record["curve"]["t"].reverse()), r"epochs\[0\]\.curve\.t must ascend"),
        ("depth.json", in_first(lambda record: record["null"]["t"].__setitem__(-1, 7.0)), r"epochs\[0\]\.null\.t must ascend"),
        ("depth.json", in_first(lambda record: record["null"]["t"].__setitem__(1, 0.0)), r"epochs\[0\]\.null\.t must ascend"),
        (
            "depth.json",
            in_first(lambda record: record["progression"]["pfc1"]["violations"].append("x")),
            r"progression\.pfc1 names 'x', which is none of its layers",
        ),
        (
            "depth.json",
            in_first(lambda record: record["progression"]["pfc2"]["violations_tol"].append("x")),
            r"progression\.pfc2 names 'x', which is none of its layers",
        ),
        (
            "depth.json",
            in_first(lambda record: record["effective_depth"][0].update(depth=-1)),
            "effective_depth needs indices of its 2 layers",
        ),
        (
            "depth.json",
            in_first(lambda record: record["effective_depth"][0].update(depth=2)),
            "effective_depth needs indices of its 2 layers",
        ),
        (
            "depth.json",
            in_first(lambda record: record.update(excess=dict.fromkeys(("energy", "identity_cost", "wasserstein2")) | EXCESS)),
            r"excess\.speed needs 1 numbers, has 2",
        ),
    ],
)  # fmt: skip
def test_what_contradicts_itself_or_another_file_is_refused(small, name, lie, message, edit):
    read_run(small)
    edit(small / name, lie)
    with pytest.raises(ReportError, match=rf"{name}: .*{message}"):
        read_run(small)


def test_an_objective_that_is_listed_twice_is_refused(small):
    record = {"epoch": 2, "weight_decay": 0.1, "loss": 1.0, "penalty": 1.0, "objective": 2.0, "floor": 1.0, "excess": 1.0}
    (small / "objective.json").write_text(json.dumps({"epochs": [record]}))
    assert read_run(small).last_objective.objective == 2.0
    (small / "objective.json").write_text(json.dumps({"epochs": [record, record]}))
    with pytest.raises(ReportError, match=r"objective\.json: lists epoch 2 twice"):
        read_run(small)


def test_a_first_perfect_epoch_that_the_table_denies_is_refused(small):
    set_train_accuracy(small, 0.5, first_perfect_epoch=0)
    read_run(small)
    set_train_accuracy(small, 0.5, first_perfect_epoch=2)
    with pytest.raises(ReportError, match=r"the train accuracy at epoch 2 is 1\.0, measurements\.csv says 0\.5"):
        read_run(small)


@pytest.mark.parametrize(
    ("name", "lie", "message"),
    [
        ("history.csv", lambda header, first, second, *_: [header, second, first], "must list epochs in ascending order"),
        ("history.csv", lambda header, first, *_: [header, first, first], "must list epochs in ascending order"),
        ("history.csv", lambda header, first, *_: [header, first[1:]], "must list epochs in ascending order"),
        ("measurements.csv", lambda *lines: [*lines, lines[1]], "a metric of a layer and split once .* holds one twice at 0"),
        ("measurements.csv", lambda *lines: [*lines, "0,train,-1,x,nc1,1,"], "a depth must be at least 0, got -1"),
        ("measurements.csv", lambda *lines: [*lines, "0,train,0,x,nc9,1,"], "names the layer at depth 0 both stem and x at 0"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(small, name, lie, message):
    (small / name).write_text("\n".join([*lie(*(small / name).read_text().splitlines()), ""]))
    with pytest.raises(ReportError, match=rf"{name}: .*{message}"):
        read_run(small)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\ufeff{}", '{"seed": ' + "9" * 5000 + "}", '{"model": "\\ud800"}'])
def test_a_recipe_that_is_none(small, content):
    (small / "recipe.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"recipe\.json"):
        held_recipe(RunDirectory(small))


@pytest.mark.parametrize("name", ["../other", "/etc", "..", ".", "", "a/b", "a\0b", "linked"])
def test_a_sweep_has_its_runs_in_its_own_folder(tmp_path, name):
    (tmp_path / "sweep" / "x").mkdir(parents=True)
    (tmp_path / "sweep" / "linked").symlink_to(tmp_path)
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"runs": [{"name": name, "settings": {}, "seed": 0}]}))
    with pytest.raises(ReportError, match=r"sweep\.json: needed names of folders in the sweep, found"):
        read_sweep(tmp_path / "sweep")


def read_damaged(folder, name, data):
    valid = (folder / name).read_bytes()
    (folder / name).write_bytes(data.draw(damaged(valid)))
    try:
        with suppress(ReportError):
            read_run(folder)
        if name == "recipe.json":
            with suppress(RunDirectoryError):
                held_recipe(RunDirectory(folder)).fingerprint()
    finally:
        (folder / name).write_bytes(valid)


@pytest.mark.parametrize("name", FILES)
@settings(FUZZED, max_examples=20)
@given(data=st.data())
def test_damaged_files_end_in_our_error(small, name, data):
    read_damaged(small, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@OFTEN
@given(data=st.data())
def test_many_damaged_files_end_in_our_error(small, name, data):
    read_damaged(small, name, data)
