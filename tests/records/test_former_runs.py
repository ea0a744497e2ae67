"""Run directories of version 0.1: a table of seven columns, and results over depth that lack what came later."""

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from ncollapse.drawing.sentences import describe
from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.records import EpochRecord, Row, read_run
from ncollapse.records.json_files import depth_text, read_depth
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Status

FORMER = Path(__file__).with_name("run_0_1")
# One epoch of a residual network, with transport and the bound of weight decay; curves thinned.
FORMER_DEPTH = Path(__file__).with_name("depth_0_1.json")


def lists(value):
    """JSON values, as `json` reads them: no tuples."""
    return json.loads(json.dumps(value))


def test_a_former_run_is_read_to_the_last_digit():
    run = read_run(FORMER)
    with (FORMER / "measurements.csv").open(newline="") as file:
        table = [line | {"step": "", "standard_error": ""} for line in csv.DictReader(file)]
    assert len(run.rows) == len(table) == 150
    for row, line in zip(run.rows, table, strict=True):
        assert (row.epoch, row.depth, row.value) == (int(line["epoch"]), int(line["depth"]), float(line["value"]))
        assert (row.split, row.layer, row.metric) == (line["split"], line["layer"], line["metric"])
        assert (row.step, row.standard_error, ";".join(row.flags)) == (None, None, line["flags"])
    assert run.epochs == (10, 20)
    assert run.value("pfc1", 2) == 0.45200458015653694
    assert run.history[0] == EpochRecord(*map(float, (FORMER / "history.csv").read_text().splitlines()[1].split(",")))
    assert run.last_objective.excess == 1.569226800148428
    assert run.last.theorem2.relative_cost == 0.40703141108219376
    assert any(sentence.startswith("The objective with λ = 0.005 is 2.04454") for sentence in describe(run))


@pytest.mark.parametrize("file", [FORMER / "depth.json", FORMER_DEPTH])
def test_former_results_over_depth_keep_every_value(file, tmp_path):
    """What is read and written again holds all that is in the file; besides it, only what later versions added, undefined."""

    def compare(read, written, place):
        if isinstance(written, dict):
            assert read.keys() >= written.keys(), place
            added = {key: read[key] for key in read.keys() - written.keys()}
            assert all(value in (None, {}) for value in added.values()), (place, added)
            for key, value in written.items():
                compare(read[key], value, f"{place}.{key}")
        elif isinstance(written, list):
            assert len(read) == len(written), place
            for index, pair in enumerate(zip(read, written, strict=True)):
                compare(*pair, f"{place}[{index}]")
        else:
            assert read == written, place

    records = read_depth(file)
    (tmp_path / "depth.json").write_bytes(depth_text(records.values()))
    compare(json.loads((tmp_path / "depth.json").read_text()), json.loads(file.read_text()), "")
    assert read_depth(tmp_path / "depth.json") == records
    last = list(records.values())[-1]
    assert lists(asdict(last.baseline)) == json.loads(file.read_text())["epochs"][-1]["null"]


def test_a_former_run_goes_on_in_the_columns_of_today(tmp_path):
    shutil.copytree(FORMER, tmp_path, dirs_exist_ok=True)
    directory = RunDirectory(tmp_path)
    assert not directory.take_up()
    directory.load(last_epoch=10)
    directory.save(Status("running", 10, 20), recipe=recipe_fingerprint(json.loads(directory.recipe.read_text())))
    lines = (tmp_path / "measurements.csv").read_text().splitlines()
    assert lines[0] == ",".join(Row._fields) == "epoch,step,split,depth,layer,metric,value,standard_error,flags"
    former = [line for line in (FORMER / "measurements.csv").read_text().splitlines() if line.startswith("10,")]
    assert [line.replace("10,,", "10,", 1) for line in lines[1:]] == [",,".join(line.rsplit(",", 1)) for line in former]
    assert (tmp_path / "history.csv").read_text().splitlines() == (FORMER / "history.csv").read_text().splitlines()[:11]
    assert [record.epoch for record in directory.depth] == [record.epoch for record in directory.objective] == [10]
