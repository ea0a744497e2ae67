"""What a run that was read answers: its split, epochs, layers, single values; and what belongs to no run at all."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import pytest

from ncollapse.records import ReportError, Row, read_run
from ncollapse.records.depth import DepthRecord, EffectiveDepth, PredictionError
from ncollapse.records.run_files import ObjectiveRecord, RecipeSummary, Recording, Status


def rows(*places, value=0.5, metric="pfc1"):
    """Rows at (epoch, split, depth, layer)."""
    return tuple(Row(epoch, None, split, depth, layer, metric, value, None, ()) for epoch, split, depth, layer in places)


def records(*epochs, layers=("stem", "head"), **parts):
    return {epoch: replace(DepthRecord.without_results(epoch, layers), **parts) for epoch in epochs}


@pytest.fixture(scope="module")
def run(shared_run):
    return read_run(shared_run)


def test_a_split_other_than_train_is_the_one_that_was_measured_first(run):
    found = replace(run, rows=rows((1, "val", 0, "stem"), (1, "test", 0, "stem"), (2, "test", 0, "stem")))
    assert found.split == "val"
    assert replace(run, rows=(*found.rows, *rows((3, "train", 0, "stem")))).split == "train"


def test_epochs_are_those_of_both_files_on_the_split_in_order(run):
    measured = rows((9, "train", 0, "stem"), (0, "train", 0, "stem"), (4, "test", 0, "stem"), (7, "train", 0, "stem"))
    found = replace(run, rows=measured, records=records(0, 4, 9, 10))
    assert found.epochs == (0, 9)
    assert found.last == found.records[9]
    assert repr(found).endswith("finished, 2 layers, 2 measured epochs up to 9)")
    assert repr(replace(found, records={})) == f"Run({str(run.path)!r}, nothing measured)"
    assert repr(replace(found, status=replace(run.status, unit="step"))).endswith("2 measured steps up to 9)")


def test_layers_are_those_of_the_last_epoch_on_the_split_by_depth(run):
    measured = rows(
        (9, "train", 2, "head"), (9, "train", 0, "stem"), (9, "train", 1, "pool"), (9, "test", 3, "x"), (0, "train", 4, "y")
    )  # fmt: skip
    found = replace(run, rows=(*rows((4, "train", 0, "z")), *measured), records=records(0, 4, 9))
    assert (found.layers, found.measured_layers, found.depths) == (("stem", "head"), ("stem", "pool", "head"), (0, 2))
    assert found.over_depth("pfc1") == [0.5, 0.5]
    assert found.has_depth is False
    assert run.has_depth is True


@pytest.mark.parametrize(("first", "expected"), [(None, None), (0, 0), (150, 150), (151, None)])
def test_the_first_perfect_epoch_lies_within_the_measured_ones(run, first, expected):
    assert replace(run, status=replace(run.status, first_perfect_epoch=first)).perfect_epoch == expected


def test_a_value_is_finite_or_none(run):
    for value, expected in ((0.0, 0.0), (math.nan, None), (math.inf, None), (-math.inf, None)):
        found = replace(run, rows=rows((0, "train", 0, "stem"), (2, "train", 0, "stem"), value=value), records=records(0, 2))
        assert found.value("pfc1", 0) == found.value("pfc1", 0, 0) == found.value("pfc1", 0, 2, "train") == expected
        assert found.value("pfc1", 0, split="test") is found.value("pfc1", 1) is found.value("pfc2", 0) is None
        assert found.over_epochs("pfc1", 0) == [expected] * 2


@pytest.mark.parametrize("epsilon", ["0", "0.001", "0.005", "0.05"])
def test_an_error_that_is_one_minus_pfc3_meets_a_threshold_as_a_fraction_does(run, epsilon):
    for n in (3, 7, 20, 199, 200, 1000):
        for wrong in range(n // 10 + 1):
            table = rows((2, "train", 0, "stem"), value=(n - wrong) / n, metric="pfc3")
            error = replace(run, rows=table, records=records(2)).value("pfc3_error", 0)
            assert (error <= float(epsilon)) == (Fraction(wrong, n) <= Fraction(epsilon))


def test_results_over_depth_are_found_by_position_and_epoch(run):
    errors = [{"index": PredictionError({"pfc1": e}, {"pfc1": 2 * e}, {"pfc2": 3 * e})} for e in (0.1, 0.3, 0.2)]
    found = replace(
        run,
        rows=rows((0, "train", 0, "stem"), (1, "train", 0, "stem"), (2, "train", 0, "stem")),
        records={epoch: records(epoch, prediction_error=error)[epoch] for epoch, error in zip((0, 1, 2), errors, strict=True)},
    )
    assert found.prediction_errors("pfc1", "index") == (0.2, 0.4)
    assert found.prediction_errors("pfc1", "index", 0) == (0.1, 0.2)
    assert found.prediction_errors("pfc2", "index") == found.prediction_errors("pfc1") == (None, None)
    assert (found.flow_error("index"), found.flow_error()) == (pytest.approx(0.6), None)
    depths = tuple(EffectiveDepth(epsilon, depth, True) for depth, epsilon in enumerate((0.0, 0.005, 0.05)))
    assert replace(run, records=records(150, effective_depth=depths)).effective_depth.depth == 1


def test_an_objective_belongs_to_the_last_epoch(run):
    known = {epoch: ObjectiveRecord(epoch, 0.1, 1.0, 1.0, 2.0, 1.0, float(epoch)) for epoch in (0, 150)}
    assert replace(run, objective=known).last_objective.excess == 150
    assert replace(run, objective={0: known[0]}).last_objective is run.last_objective is None


def test_how_the_network_was_trained(run):
    recorded = replace(run, recording=Recording({}, ()))
    bare = replace(run, recipe_entries={}, history=())
    assert (run.is_recorded, recorded.is_recorded) == (False, True)
    assert [found.is_measured_only for found in (run, recorded, bare, replace(bare, recording=Recording({}, ())))] == [
        False, False, True, False
    ]  # fmt: skip
    assert not replace(run, recipe_entries={}).is_measured_only
    assert (
        replace(run, recipe=RecipeSummary("demo", "Digits", changed=("seed=1",))).title == "Recipe demo with changed settings"
    )


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ReportError, match=rf"^{tmp_path}: needed a run directory or a sweep, found neither\. Name a folder"):
        read_run(tmp_path)


def test_results_over_depth_without_an_epoch(run_dir):
    (run_dir / "depth.json").write_text('{"epochs": []}')
    with pytest.raises(ReportError, match=r"depth\.json: needed at least one measured epoch, found none"):
        read_run(run_dir)


def test_a_run_of_a_recipe_has_results_over_depth_but_not_a_recorded_one(run_dir):
    whole = read_run(run_dir)
    (run_dir / "depth.json").unlink()
    with pytest.raises(ReportError, match=r"depth\.json: is missing"):
        read_run(run_dir)
    (run_dir / "recording.json").write_text('{"arguments": {"layers": "all"}, "times": []}')
    run = read_run(run_dir)
    assert (run.recording.arguments, run.epochs, run.layers) == ({"layers": "all"}, whole.epochs, whole.layers)
    assert run.records[0] == DepthRecord.without_results(0, whole.layers)
    # Of a part of the epochs there are as many records.
    assert list(read_run(run_dir, "ends").records) == list(whole.epochs)


def test_an_epoch_that_is_a_fraction_has_no_record(run_dir):
    for name in ("depth.json", "recipe.json"):
        (run_dir / name).unlink()
    table = run_dir / "measurements.csv"
    table.write_text(table.read_text() + "0.5,train,0,stem,pfc1,0.5,\n")
    run = read_run(run_dir)
    assert 0.5 not in run.epochs
    assert run.rows[-1].epoch == 0.5


def test_where_steps_are_counted_they_stand_for_epochs(run_dir, edit):
    edit(run_dir / "status.json", lambda status: status.update(unit="step"))
    table = run_dir / "measurements.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for line in lines:
        line[1:1] = ["step" if line[0] == "epoch" else line[0]]
        line[0] = line[0] if line[0] == "epoch" else "0.5"
        line[7:7] = ["standard_error" if line[0] == "epoch" else ""]
    table.write_text("".join(",".join(line) + "\n" for line in lines))
    run = read_run(run_dir)
    assert (run.unit, run.epochs[-1], run.value("pfc1", 0)) == ("step", 150, run.value("pfc1", 0, 150))


def test_the_files_of_a_save_that_is_under_way_may_say_different_accuracies(run_dir, edit):
    """The status comes last."""
    from ncollapse.records.manifest import Mark, sealed
    from ncollapse.records.saving import held_files

    edit(run_dir / "status.json", lambda status: status.update(train_accuracy=0.5))
    with pytest.raises(ReportError, match="says that the train accuracy at epoch 150 is 0"):
        read_run(run_dir)
    held = held_files(run_dir)
    under_way = replace(held, files={**held.files, "status.json": Mark("0" * 64, 1)}, previous=held.files)
    (run_dir / "manifest.json").write_bytes(sealed(under_way))
    assert read_run(run_dir).status.train_accuracy == 0.5


def test_a_status_beyond_its_end_is_refused(run_dir, edit):
    edit(run_dir / "status.json", lambda status: status.update(epochs=149))
    with pytest.raises(ReportError, match=r"status\.json: says epoch 150 of 149"):
        read_run(run_dir)
    edit(run_dir / "status.json", lambda status: status.update(epochs=150))
    assert read_run(run_dir).status == Status(**json.loads((run_dir / "status.json").read_text()))
