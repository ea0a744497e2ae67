"""The comparison: a column a run on common axes, and sweeps by their settings."""

import json
import re

import pytest
from matplotlib.figure import Figure

from ncollapse.cli import main
from ncollapse.drawing.panels import PROGRESSIVE, draw_over_depth, draw_over_epochs, shown_over_depth, shown_over_epochs
from ncollapse.records import ReportError, read_run
from ncollapse.records.recipe_settings import differing_settings
from ncollapse.report import write_comparison


def test_a_column_a_run_and_a_row_a_metric_twice(make_run, edit, tmp_path):
    runs = [make_run(f"run{seed}", seed=seed, epochs=(0, 150)) for seed in range(2)]
    edit(runs[1] / "recipe.json", lambda recipe: recipe["train"].update(weight_decay=0.5))
    html = write_comparison(runs, tmp_path / "pages" / "compare.html").read_text(encoding="utf-8")
    assert html.count('role="img"') == 2 * 3 * 2
    assert html.count("train.<wbr>weight_<wbr>decay=<wbr>0.5<small>run1, seed 1, epoch 150</small>") == 2
    assert "PFC1: error of the straight line" in html
    assert "baseline 0.233: the line is better by a factor of 3.48" in html
    assert "<script" not in html
    assert html.count('<span class="layer"><i class="dot"') == 2 * 6
    assert html.count("Epoch 0 is before training.") == 1
    assert write_comparison(runs, tmp_path / "pages" / "compare.html").read_text(encoding="utf-8") == html
    # Layers of one color on every page, by run.
    assert all(f".run-{index}{{--depth-0:" in html for index in range(2))


def test_headings_are_short_where_much_differs(make_run, edit, tmp_path, without_drawings):
    runs = [make_run(f"run{index}", layers=("stem", "blocks.0"), epochs=(0, 5)) for index in range(2)]
    model = {"kind": "transformer", "width": 32, "patch": 4, "pool": "cls", "norm_scale": "unit"}
    edit(runs[1] / "recipe.json", lambda recipe: recipe.update(name="tokens", model=model))
    html = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert re.findall(r'<th scope="col">([^<]+)<small>(run\d)', html) == 2 * [("A: demo", "run0"), ("B: tokens", "run1")]
    assert "What sets the runs apart: 7 settings" in html
    for field, first, second in (("model.width", "64", "32"), ("model.kind", "not set", "transformer")):
        assert f'<tr><th scope="row">{field}</th><td class="words">{first}</td><td class="words">{second}</td></tr>' in html
    edit(runs[1] / "recipe.json", lambda recipe: recipe.update(json.loads((runs[0] / "recipe.json").read_text()), seed=1))
    assert "sets the runs apart" not in write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")


def test_runs_over_steps_are_called_so_and_settings_are_spelled_as_numbers_are(make_run, edit, tmp_path, without_drawings):
    runs = [make_run(name, layers=("stem", "blocks.0"), epochs=(0, 5)) for name in "ab"]
    edit(runs[1] / "recipe.json", lambda recipe: recipe["train"].update(weight_decay=5e-5))
    assert "train.<wbr>weight_<wbr>decay=<wbr>5e-5<small>" in write_comparison(runs, tmp_path / "compare.html").read_text(
        encoding="utf-8"
    )
    for run in runs:
        edit(run / "status.json", lambda status: status.update(unit="step"))
        _, *lines = (run / "measurements.csv").read_text().splitlines()
        cells = [line.split(",") for line in lines]
        table = ["epoch,step,split,depth,layer,metric,value,standard_error,flags"]
        table += [",".join([row[0], *row[:-1], "", row[-1]]) for row in cells]
        (run / "measurements.csv").write_text("\n".join(table) + "\n")
    html = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    words = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "at the last step" in words
    assert "Step 0 is before training" in words
    assert "seed 0, step 5" in words
    assert "epoch" not in re.sub(r'id="[^"]*"|url\([^)]*\)|#run\d[^"]*', "", words)


def test_settings_that_differ_are_named(make_run, edit):
    runs = [make_run(name, layers=("stem", "blocks.0"), epochs=(0, 5), seed=seed) for seed, name in enumerate(("one", "two"))]
    edit(runs[1] / "recipe.json", lambda content: content["train"].update(learning_rate=0.05, momentum=0.8))
    assert differing_settings([read_run(run) for run in runs]) == [
        [("train.learning_rate", "0.1"), ("train.momentum", "not set")],
        [("train.learning_rate", "0.05"), ("train.momentum", "0.8")],
    ]


@pytest.mark.parametrize("panel", PROGRESSIVE, ids=lambda panel: panel.key)
def test_runs_share_an_axis_that_holds_both(make_run, panel):
    early, late = (make_run(name, epochs=(0, 5)) for name in "ab")
    # One layer of the second run is far from all of the first.
    table = (late / "measurements.csv").read_text()
    changed = re.sub(rf"(?m)^(5,train,2,[^,]*,{panel.key}),[^,]*,", r"\1,0.001,", table)
    (late / "measurements.csv").write_text(changed)
    early, late = read_run(early), read_run(late)
    kinds = [
        (shown_over_epochs, lambda axes, run, shared: draw_over_epochs(axes, run, panel, shared)),
        (shown_over_depth, lambda axes, run, shared: draw_over_depth(axes, run, panel, "index", shared)),
    ]
    for shown, draw in kinds:
        shared = [value for run in (early, late) for value in shown(run, panel)]
        limits = []
        for run, others in ((early, ()), (early, shared), (late, shared)):
            axes = Figure().subplots()
            draw(axes, run, others)
            limits.append(axes.get_ylim())
        assert limits[1] == limits[2] != limits[0]
        assert limits[1][0] <= min(shared)
        assert max(shared) <= limits[1][1]
        drawn = [value for line in axes.get_lines() for value in line.get_ydata()]
        assert max(value for value in drawn if value == value) <= max(*shared, 1)


def test_the_frames_of_a_grid_are_of_one_size(make_run, edit, tmp_path):
    """A layer at the upper edge has its number above the frame, and the numbers of one axis are longer than others'."""
    runs = [make_run(name, layers=("stem", "blocks.0", "blocks.1"), epochs=(0, 5)) for name in ("one", "two")]
    table = (runs[1] / "measurements.csv").read_text()
    (runs[1] / "measurements.csv").write_text(re.sub(r"(?m)^(5,train,1,[^,]*,pfc[12]),[^,]*,", r"\1,9.0,", table))
    page = write_comparison(runs, tmp_path / "compare.html").read_text(encoding="utf-8")
    edges = []
    for row in re.findall(r'<tr><th scope="row">PFC[123].*?</tr>', page, flags=re.DOTALL):
        for drawing in re.findall(r"<svg.*?</svg>", row, flags=re.DOTALL):
            lines = re.findall(r'd="M ([\d.]+) ([\d.]+) L ([\d.]+) ([\d.]+) "', drawing)
            left = max((float(y), float(b), float(x)) for x, y, a, b in lines if x == a)
            edges.append((left, max(float(a) - float(x) for x, y, a, b in lines if y == b)))
    assert len(edges) == 12
    # The rows over depth and those over epochs are two grids.
    assert len(set(edges[:6])) == len(set(edges[6:])) == 1


def test_a_sweep_stands_for_the_first_finished_seed_of_each_setting(tmp_path, write_sweep, edit, without_drawings):
    sweep = write_sweep(tmp_path, ("1", "2"), seeds=2)
    edit(sweep / "train.weight_decay=2_seed=0" / "status.json", lambda status: status.update(state="running"))
    html = write_comparison([sweep], tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "2 runs side by side" in html
    assert "A sweep is represented by the first finished seed of each setting." in html
    assert re.findall(r"<small>(train\.weight_decay=\d_seed=\d), seed", html)[:2] == [
        "train.weight_decay=1_seed=0",
        "train.weight_decay=2_seed=1",
    ]


def test_every_position_is_an_option(make_run, tmp_path, capsys, without_drawings):
    runs = [str(make_run(name, layers=("stem", "blocks.0"), epochs=(0, 5))) for name in ("one", "two")]
    out = tmp_path / "run.html"
    for position, words in (("projection", "projection on the chord"), ("arclength", "arc length")):
        main(["compare", *runs, "--out", str(out), "--position", position])
        assert f"placed at its {words}" in out.read_text(encoding="utf-8")
    assert capsys.readouterr().out.splitlines() == [f"Page: {out}"] * 2
    with pytest.raises(ReportError, match=r"needed a position of index, projection, arclength.*'nowhere'"):
        write_comparison(runs, out, position="nowhere")


def test_nothing_to_compare(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [{"name": "a", "settings": {}, "seed": 0}]}))
    with pytest.raises(ReportError, match=r"needs at least one finished run, found none in .*\. Name run directories"):
        write_comparison([tmp_path], tmp_path / "run.html")
