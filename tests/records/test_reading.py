"""Reading a run directory: what is read, and an error that names the file for everything that can be wrong with it."""

import math
import re
import shutil

import pytest

from ncollapse.drawing import plot_last_layer, plot_over_depth, plot_over_epochs
from ncollapse.drawing.findings import findings
from ncollapse.drawing.sentences import describe, summarize
from ncollapse.drawing.style import depth_colors
from ncollapse.records import ReportError, read_run
from ncollapse.records.csv_tables import read_rows, rows_text
from ncollapse.records.depth import EPSILON
from ncollapse.records.recipe_settings import differing_settings
from ncollapse.records.rows import Row
from ncollapse.records.run_files import RecipeSummary
from ncollapse.report import write_comparison, write_page
from ncollapse.report.payload import build_payload
from ncollapse.report.tables import metric_tables
from run_files import keep_stage, set_train_accuracy

FILES = ("environment.json", "status.json", "depth.json", "history.csv", "measurements.csv")


def test_values_of_the_table_are_found_by_metric_depth_and_epoch(run_dir):
    run = read_run(run_dir)
    lines = (run_dir / "measurements.csv").read_text().splitlines()
    written = next(line.split(",")[5] for line in lines if line.startswith("74,train,3,blocks.2,pfc2,"))
    assert run.value("pfc2", 3, 74) == float(written)
    assert run.over_depth("pfc1") == [run.value("pfc1", depth, 150) for depth in range(6)]
    assert run.over_epochs("pfc1", 5) == [run.value("pfc1", 5, epoch) for epoch in run.epochs]
    assert run.epochs[0] == 0
    assert run.epochs[-1] == 150
    assert run.layers[0] == "stem"
    assert len(run.history) == 150


def test_undefined_and_unmeasured_values_are_none(run_dir):
    run = read_run(run_dir)
    assert run.value("rank_within", 0) is None
    assert run.value("nc3", 0) is None
    assert next(row.flags for row in run.rows if row.metric == "rank_within") == ("empty_class",)


def test_the_nearest_center_error_is_found_where_the_table_holds_pfc3_alone(run_dir):
    table, before = run_dir / "measurements.csv", read_run(run_dir)
    lines = [line for line in table.read_text().splitlines() if ",pfc3_error," not in line]
    # 1 - 0.995 is 0.0050000000000000044 in floating point, and the effective depth asks for at most 0.005.
    lines = ["150,train,1,blocks.0,pfc3,0.995," if line.startswith("150,train,1,blocks.0,pfc3,") else line for line in lines]
    table.write_text("\n".join(lines) + "\n")
    run = read_run(run_dir)
    assert run.value("pfc3_error", 1) == EPSILON == 0.005
    others = [depth for depth in range(6) if depth != 1]
    errors = [[found.value("pfc3_error", depth) for depth in others] for found in (before, run)]
    assert errors[1] == pytest.approx(errors[0], abs=1e-15)


def test_effective_depth_and_prediction_errors_are_those_of_the_last_epoch(run_dir, edit):
    assert read_run(run_dir).effective_depth.depth == 2
    assert read_run(run_dir).prediction_errors("pfc1") == (0.067, 0.233)
    assert read_run(run_dir).prediction_errors("pfc1", "nowhere") == (None, None)
    edit(run_dir / "depth.json", lambda content: content["epochs"][-1].update(effective_depth=[]))
    assert read_run(run_dir).effective_depth is None


def test_training_split_is_what_the_figures_are_about(make_run):
    assert read_run(make_run("both", splits=("test", "train"))).split == "train"
    assert read_run(make_run("test", splits=("test",), flagged=False)).split == "test"


def test_unknown_entries_are_ignored_and_null_is_undefined(run_dir, edit):
    def change(content):
        content["epochs"][-1]["later"] = 1
        content["epochs"][-1]["straightness"] = None
        content["epochs"][-1]["curve"]["pfc1"][3] = None

    edit(run_dir / "depth.json", change)
    record = read_run(run_dir).last
    assert record.straightness is None
    assert record.curve.pfc1[3] is None


def test_run_killed_between_two_files_ends_at_the_last_common_epoch(run_dir):
    lines = (run_dir / "measurements.csv").read_text().splitlines(keepends=True)
    (run_dir / "measurements.csv").write_text("".join(line for line in lines if not line.startswith("150,")))
    run = read_run(run_dir)
    assert run.epochs[-1] == 100
    assert run.last.epoch == 100


def test_names_may_hold_commas_quotes_and_line_separators(make_run):
    layers = ("a,b", 'say "c"', "line\u2028separator\x85", "new\nline")
    assert read_run(make_run(layers=layers)).layers == layers


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named_with_what_to_do(run_dir, name):
    (run_dir / name).unlink()
    with pytest.raises(ReportError, match=rf"{re.escape(name)}: is missing\. Finish the run with .*--resume"):
        read_run(run_dir)


@pytest.mark.parametrize("name", FILES)
def test_binary_file_is_named(run_dir, name):
    (run_dir / name).write_bytes(b"\xff\xfe\x00")
    words = r"not UTF-8 text \(invalid start byte at byte 0\)" if name.endswith(".csv") else r"not valid JSON \(.*byte 0\)\)"
    with pytest.raises(ReportError, match=rf"{re.escape(name)}: is {words}\. Finish"):
        read_run(run_dir)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_truncated_json_is_named_with_its_place(run_dir, name):
    (run_dir / name).write_text('{"epochs":')
    with pytest.raises(ReportError, match=rf"{re.escape(name)}: is not valid JSON \(Input data was truncated\)\. Finish"):
        read_run(run_dir)
    (run_dir / name).write_text("[]")
    with pytest.raises(ReportError, match=rf"{re.escape(name)}: needed object, got array\. Finish"):
        read_run(run_dir)


def test_folder_that_is_none(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere: needed a run directory, found nothing\. Name the folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=r"file: needed a run directory, found a file"):
        read_run(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("curve"), r"depth\.json: epochs\[2\] is missing the required field curve\. Finish"),
        (lambda e: e.update(epoch=1.5), r"depth\.json: epochs\[2\]\.epoch: needed int, got float\. Finish"),
        (lambda e: e.update(epoch=True), r"epochs\[2\]\.epoch: needed int, got bool"),
        (lambda e: e.update(layers="stem"), r"epochs\[2\]\.layers: needed array, got str"),
        (lambda e: e["curve"].update(pfc1=["x"]), r"epochs\[2\]\.curve\.pfc1\[0\]: needed float \| null, got str"),
        (lambda e: e["theorem1"].update(holds=1), r"epochs\[2\]\.theorem1\.holds: needed bool \| null, got int"),
        (lambda e: e["positions"].update(index=5), r"epochs\[2\]\.positions\[\.\.\.\]: needed array, got int"),
        (lambda e: e.update(progression=[]), r"epochs\[2\]\.progression: needed object, got array"),
        (lambda e: e["layers"].__setitem__(0, 3), r"epochs\[2\]\.layers\[0\]: needed str, got int"),
        (lambda e: e["curve"]["pfc1"].pop(), r"epochs\[2\]\.curve\.pfc1 needs 101 numbers, has 100"),
        (lambda e: e["null"]["pfc3"].pop(), r"epochs\[2\]\.null\.pfc3 needs 101 numbers, has 100"),
        (lambda e: e["positions"]["index"].pop(), r"epochs\[2\]\.positions\.index needs 6 numbers, has 5"),
        (lambda e: e["layers"].__setitem__(0, "x"), r"lists other layers at epoch 2 than at epoch 150"),
        (
            lambda e: e["energy"].update(efficiency=float("nan")),
            r"depth\.json: is not valid JSON \(invalid character \(byte \d+\)\)",
        ),
    ],
)
def test_broken_depth_file_names_the_place(run_dir, edit, change, message):
    edit(run_dir / "depth.json", lambda content: change(content["epochs"][2]))
    with pytest.raises(ReportError, match=message):
        read_run(run_dir)


def test_other_layers_in_the_table_than_in_the_curves(run_dir, edit):
    edit(run_dir / "depth.json", lambda content: [e["layers"].__setitem__(0, "root") for e in content["epochs"]])
    with pytest.raises(
        ReportError, match=r"depth\.json: lists the layers root, blocks\.0, .* but measurements\.csv stem, blocks\.0"
    ):
        read_run(run_dir)


def add_layers(run_dir, *names):
    """Layers behind those of the curves, with one metric and one of the classifier."""
    epochs = read_run(run_dir).epochs
    with (run_dir / "measurements.csv").open("a", encoding="utf-8") as file:
        for depth, name in enumerate(names, start=6):
            file.writelines(
                f"{epoch},train,{depth},{name},{metric},{0.5 / (1 + epoch)},\n"
                for epoch in epochs
                for metric in ("pfc1", "nc3")
            )


def test_what_the_classifier_takes_is_measured_behind_the_layers_of_the_curves(run_dir, tmp_path):
    """As with a convolutional network, whose head sees the pooled features of its last layer."""
    layers = read_run(run_dir).layers
    add_layers(run_dir, "head.input")
    run = read_run(run_dir)
    assert run.layers == layers
    assert run.measured_layers == (*layers, "head.input")
    assert len(run.over_depth("pfc1")) == len(layers) == 6
    (table,) = metric_tables(run)
    cells = {row.metric: row.cells for row in table.rows}
    assert cells["nc3"][6] == ("0.003311", "")
    assert cells["pfc2"][6] == ("", "")
    lines = plot_last_layer(run).axes[2].lines
    assert any(line.get_ydata()[-1] == pytest.approx(0.5 / 151) for line in lines)
    html = write_page(run_dir, tmp_path / "run.html").read_text()
    assert "The features of layer head.input and the classifier that reads them. They are computed from those of layer" in html
    assert '<span class="quiet">6</span> head.<wbr>input' in html
    said = (
        "The classifier reads layer head.input, which is computed from layer blocks.4. It has another dimension, so it is not "
        "part of the depth: "
    )
    assert f"{said}PFC1 0.00331, PFC2 undefined, nearest-center error undefined." in describe(run)


def test_curves_may_run_through_a_stage_in_the_middle(run_dir, edit, tmp_path):
    whole = read_run(run_dir)
    edit(run_dir / "depth.json", lambda content: keep_stage(content, 2, 5))
    run = read_run(run_dir)
    assert (run.layers, run.depths) == (("blocks.1", "blocks.2", "blocks.3"), (2, 3, 4))
    assert run.measured_layers == whole.layers
    assert run.over_depth("pfc1") == whole.over_depth("pfc1")[2:5]
    assert build_payload(run)["depths"] == (2, 3, 4)
    over_depth, over_epochs = plot_over_depth(run, "projection"), plot_over_epochs(run)
    assert [text.get_text() for text in over_depth.axes[0].texts] == ["2", "3", "4"]
    assert [text.get_text() for text in over_depth.legends[0].get_texts()][:3] == ["2  blocks.1", "3  blocks.2", "4  blocks.3"]
    assert [line.get_color() for line in over_depth.axes[0].lines[2:]] == depth_colors(6)[2:5]
    assert [text.get_text() for text in over_epochs.legends[0].get_texts()][5] == "5  blocks.4"
    assert any(line.startswith("Over depth (3 of 6 layers, blocks.1 to blocks.3): PFC1") for line in summarize(run))
    said = "All this is about 3 of 6 layers, blocks.1 to blocks.3, which have one dimension. At the last layer, blocks.4: PFC1 "
    assert any(line.startswith(said) for line in describe(run))
    part = "; 3 of 6 layers, blocks.1 to blocks.3"
    html = write_comparison([run_dir], tmp_path / "compare.html").read_text()
    assert html.count(part) == len(findings(run)) - 1
    assert "A sweep is represented" not in html
    html = write_page(run_dir, tmp_path / "run.html").read_text()
    assert html.count(part) == len(findings(run)) - 1
    assert not any(part in cell.remark for cell in findings(whole))
    assert "layer blocks.4 and the classifier that reads them. They have another dimension than the layers" in html


def test_layers_in_another_order_than_in_the_table_are_a_contradiction(run_dir, edit):
    edit(run_dir / "depth.json", lambda content: [e["layers"].reverse() for e in content["epochs"]])
    with pytest.raises(ReportError, match=r"lists the layers blocks\.4, .* but measurements\.csv stem, "):
        read_run(run_dir)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("measurements.csv", "split", "part", r"measurements\.csv: needs the columns epoch,step,split,.*, has epoch,part,"),
        ("history.csv", "epoch,loss", "", r"history\.csv: needs the columns epoch,loss,.*, has ,accuracy"),
        (
            "measurements.csv",
            "0,train,0,stem,pfc1",
            "zero,train,0,stem,pfc1",
            r"measurements\.csv: line 2: could not convert string to float: 'zero'",
        ),
        (
            "measurements.csv",
            "0,train,0,stem,pfc1,",
            "0,train,0,stem,pfc1,,",
            r"measurements\.csv: line 2 needs 7 fields, has 8",
        ),
        ("history.csv", "1,2.3,", "1,low,", r"history\.csv: line 2: could not convert string to float: 'low'"),
    ],
)
def test_broken_table_names_the_line(run_dir, name, old, new, message):
    text = (run_dir / name).read_text()
    assert old in text
    (run_dir / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ReportError, match=message):
        read_run(run_dir)


def test_empty_files_of_a_run_that_has_not_measured_yet(run_dir):
    table = run_dir / "measurements.csv"
    header = table.read_text().splitlines()[0]
    table.write_text("")
    with pytest.raises(ReportError, match=r"measurements\.csv: needs the columns .*, has none"):
        read_run(run_dir)
    table.write_text(header + "\n")
    with pytest.raises(ReportError, match=r"measurements\.csv: needed at least one measured epoch, found none"):
        read_run(run_dir)
    table.write_text(header + "\n9999,train,0,stem,pfc1,0.5,\n")
    with pytest.raises(ReportError, match=r"depth\.json: has no epoch in common with measurements\.csv"):
        read_run(run_dir)


def test_glossary_explains_what_it_holds_and_may_be_absent(run_dir, edit):
    assert read_run(run_dir).glossary.metrics["pfc1"].startswith("within- over between-class variance")
    (run_dir / "glossary.json").unlink()
    assert read_run(run_dir).glossary.metrics == {}
    (run_dir / "glossary.json").write_text('{"metrics": 3}')
    with pytest.raises(ReportError, match=r"glossary\.json: metrics: needed object, got int"):
        read_run(run_dir)


def test_a_run_of_another_maker_needs_no_recipe(run_dir):
    (run_dir / "recipe.json").unlink()
    run = read_run(run_dir)
    assert (run.recipe, run.recipe_entries, run.title) == (RecipeSummary(), {}, "run")


def test_only_the_last_epoch_or_both_ends_are_read_where_that_is_enough(run_dir):
    """The last one that both files hold; all else of the run is as it was."""
    whole, last = read_run(run_dir), read_run(run_dir, epochs="last")
    assert (last.epochs, last.last, last.layers, last.status) == ((150,), whole.last, whole.layers, whole.status)
    assert repr(last.rows) == repr(tuple(row for row in whole.rows if row.epoch == 150))
    ends = read_run(run_dir, epochs="ends")
    assert (ends.epochs, ends.records) == ((0, 150), {epoch: whole.records[epoch] for epoch in (0, 150)})
    assert repr(ends.rows) == repr(tuple(row for row in whole.rows if row.epoch in {0, 150}))
    lines = (run_dir / "measurements.csv").read_text().splitlines(keepends=True)
    (run_dir / "measurements.csv").write_text("".join(line for line in lines if not line.startswith("150,")))
    assert read_run(run_dir, epochs="last").epochs == (100,)
    assert read_run(run_dir, epochs="ends").epochs == (0, 100)
    (run_dir / "measurements.csv").write_text(
        "".join(lines).replace("150,train,5,blocks.4,pfc1,", "150,train,5,blocks.4,pfc1,x")
    )
    with pytest.raises(ReportError, match=r"measurements\.csv: line \d+: could not convert string to float: 'x"):
        read_run(run_dir, epochs="last")


def test_title_falls_back_to_name_and_folder(run_dir, edit, tmp_path):
    edit(run_dir / "recipe.json", lambda content: content.pop("title"))
    assert read_run(run_dir).title == "demo"
    edit(run_dir / "recipe.json", lambda content: content.update(name=""))
    shutil.move(run_dir, tmp_path / "moved")
    assert read_run(tmp_path / "moved").title == "moved"


def test_epochs_may_be_fractions_or_absent(tmp_path):
    rows = [Row(epoch, None, "train", 0, "stem", "pfc1", 0.5, None, ()) for epoch in (None, 0.5, 3)]
    file = tmp_path / "measurements.csv"
    file.write_bytes(rows_text(rows))
    assert list(read_rows(file)) == rows


def test_without_recipe_results_over_depth_may_be_missing(run_dir):
    whole = read_run(run_dir)
    for name in ("depth.json", "recipe.json"):
        (run_dir / name).unlink()
    run = read_run(run_dir)
    assert (run.has_depth, whole.has_depth) == (False, True)
    assert (run.epochs, run.layers, repr(run.rows)) == (whole.epochs, whole.layers, repr(whole.rows))
    assert run.over_depth("pfc1") == whole.over_depth("pfc1")
    for found in (summarize(run), describe(run)):
        assert found[-1].startswith("Results over depth are missing because the samples were not followed through the layers.")
        assert not any("Effective depth" in sentence or "Theorem" in sentence for sentence in found)
    assert [cell.name for cell in findings(run)] == ["Train accuracy", "PFC1", "PFC2", "Nearest-center error"]
    assert findings(run)[1].value == findings(whole)[1].value


def test_a_run_is_a_line(run_dir):
    assert repr(read_run(run_dir)) == f"Run({str(run_dir)!r}, 'Digits', finished, 6 layers, 15 measured epochs up to 150)"


def test_the_accuracy_on_test_samples_is_none_of_the_status(make_run):
    run = make_run("both", splits=("train", "test"))
    table = run / "measurements.csv"
    table.write_text(re.sub(r"^(150,test,.*,accuracy),1\.0,", r"\1,0.5,", table.read_text(), flags=re.MULTILINE))
    assert [read_run(run).value("accuracy", 5, split=split) for split in ("train", "test")] == [1.0, 0.5]


def test_an_undefined_accuracy_is_none_in_the_status(run_dir, edit):
    set_train_accuracy(run_dir, math.nan)
    (run_dir / "status.json").write_text((run_dir / "status.json").read_text().replace("NaN", "null"))
    edit(run_dir / "status.json", lambda status: status.update(first_perfect_epoch=None))
    run = read_run(run_dir)
    assert (run.status.train_accuracy, run.value("accuracy", 5)) == (None, None)
    edit(run_dir / "status.json", lambda status: status.update(train_accuracy=0.5))
    with pytest.raises(ReportError, match=r"train accuracy at epoch 150 is 0\.5, measurements\.csv says nan"):
        read_run(run_dir)


@pytest.mark.parametrize("state", ["stopped", "failed", "finished"])
def test_every_state_is_read(run_dir, edit, state):
    edit(run_dir / "status.json", lambda status: status.update(state=state))
    assert read_run(run_dir).status.state == state


def test_what_somebody_elses_recipe_does_not_say_is_not_presumed(make_run, edit):
    """A recipe of ours that lacks a younger field means its default; that of another training may mean anything."""
    runs = [make_run("says", flagged=False), make_run("lacks", flagged=False)]
    edit(runs[0] / "recipe.json", lambda recipe: recipe["train"].update(balance="none"))
    assert differing_settings([read_run(run) for run in runs]) == [[], []]
    # A run without a recipe differs in nothing that is known.
    bare = make_run("bare", flagged=False)
    (bare / "recipe.json").unlink()
    assert differing_settings([read_run(runs[0]), read_run(bare)]) == [[], []]
    for run in runs:
        (run / "recording.json").write_text('{"arguments": {}, "times": []}')
    assert differing_settings([read_run(run) for run in runs]) == [[("train.balance", "none")], [("train.balance", "not set")]]
