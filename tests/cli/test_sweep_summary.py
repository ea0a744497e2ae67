"""The live summary of a sweep: a row a setting, means of what its runs have measured; below the bar on a terminal only."""

import csv
import io

import pytest
from rich.console import Console
from rich.table import Table

from ncollapse.cli.progress import progress
from ncollapse.cli.sweep_summary import SweepSummary
from ncollapse.studies import override, plan_sweep, recipe_by_name, run_recipe

SMALL = ["data.per_class=10", "train.epochs=3", "measure.epochs=[0,1]", "model.width=8", "train.checkpoint_every=1"]


def lines(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def last_layer(run, metric):
    if metric == "pfc3_error":
        return 1 - last_layer(run, "pfc3")
    rows = [row for row in csv.DictReader((run.path / "measurements.csv").read_text().splitlines()) if row["metric"] == metric]
    return float(max(rows, key=lambda row: (int(row["epoch"]), int(row["depth"])))["value"])


def test_settings_fill_as_their_runs_are_measured(tmp_path):
    recipe = override(recipe_by_name("deep_rn1_small"), SMALL)
    runs = plan_sweep(recipe, ["model.num_blocks=1,2"], 2, tmp_path)
    summary = SweepSummary(runs)
    headings = ["model.num_blocks", "finished", "epochs"]
    assert lines(summary.table()) == [headings, ["1", "0/2", "0/6"], ["2", "0/2", "0/6"]]
    assert summary.words() == "0 of 4 runs finished"
    for count, run in enumerate(runs[:2], start=1):
        run_recipe(run.recipe, run.path)
        means = [sum(last_layer(run, metric) for run in runs[:count]) / count for metric in ("pfc1", "pfc2", "pfc3_error")]
        heading, one, two = lines(summary.table())
        assert heading == [*headings, "measured", "at", "pfc1", "pfc2", "pfc3_error", "excess"]
        assert one[:-1] == ["1", f"{count}/2", f"{3 * count}/6", "epoch", "3", *(f"{mean:.3g}" for mean in means)]
        assert float(one[-1]) > 0
        assert two == ["2", "0/2", "0/6"]
    assert summary.words() == "2 of 4 runs finished"


def test_means_do_not_mix_epochs(tmp_path):
    recipe = override(recipe_by_name("deep_rn1_small"), SMALL)
    runs = plan_sweep(recipe, ["model.num_blocks=1"], 2, tmp_path)
    for run in runs:
        run_recipe(run.recipe, run.path)
    behind = runs[1].path
    rows = (behind / "measurements.csv").read_text().splitlines()
    (behind / "measurements.csv").write_text("\n".join(row for row in rows if not row.startswith("3,")) + "\n")
    (_, (*_, at, pfc1, _, _, _)) = lines(SweepSummary(runs).table())
    assert (at, pfc1) == ("3", f"{last_layer(runs[0], 'pfc1'):.3g}")


def test_the_last_line_is_the_final_state(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "")
    with progress("a sweep") as show:
        show(5, 10, "0 of 2 runs finished")
        show(10, 10, "1 of 2 runs finished")
        show(10, 10, "2 of 2 runs finished")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["a sweep: epoch 10/10, 1 of 2 runs finished", "a sweep: epoch 10/10, 2 of 2 runs finished"]
    with progress("a run") as show:
        show(10, 10, "loss 1")
    assert capsys.readouterr().err == "a run: epoch 10/10, loss 1\n"
    with progress("pfc:x") as show:
        show(10, 10, "layer [bold]")
    assert capsys.readouterr().err == "pfc:x: epoch 10/10, layer [bold]\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_is_for_terminals(terminal, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1" if terminal else "")
    with progress("a sweep", lambda: Table("made for a terminal")) as show:
        show(5, 10, "half [of] it:x:")
    said = capsys.readouterr().err
    assert ("made for a terminal" in said) is terminal
    assert ("a sweep: epoch 5/10, half [of] it:x:" in said) is not terminal
    assert "half [of] it:x:" in said
