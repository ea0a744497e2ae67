"""The page of a sweep: its numbers are those of the run directories, whatever is missing is named, nothing can be injected."""

import json
import math
import re
import statistics

import pytest
from matplotlib.figure import Figure
from scipy import stats

from ncollapse.claims.estimates import spread
from ncollapse.claims.quantities import QUANTITIES, setting_rows, slope_of
from ncollapse.drawing.sweeps import Axis, SettingRow, axis_of, draw_against
from ncollapse.records import ReportError, read_run
from ncollapse.records.sweep import read_sweep
from ncollapse.report import write_run_pages, write_sweep_page
from run_files import set_train_accuracy

EVIL = "</script><script>alert(1)</script>$x_1$"
PFC1, PFC3_ERROR, STRAIGHTNESS, LINE, NULL = (
    next(item for item in QUANTITIES if item.key == key)
    for key in ("pfc1", "pfc3_error", "straightness", "line pfc1", "baseline pfc1")
)  # fmt: skip


def change(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def groups_of(sweep):
    return [runs for _, runs in sweep.by_setting()]


def links(html):
    """Where the page leads to or loads from, outside itself."""
    return [link for link in re.findall(r'(?:href|src)="([^"]*)"', html) if not link.startswith(("#", "data:"))]


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory, write_sweep):
    return write_sweep(tmp_path_factory.mktemp("sweep"), ("0", "0.5", "2", "4"))


@pytest.fixture(scope="module")
def html(sweep_dir):
    page = write_sweep_page(sweep_dir)
    assert page == sweep_dir / "sweep.html"
    return page.read_text(encoding="utf-8")


def test_rows_are_mean_and_deviation_over_seeds(sweep_dir):
    rows = setting_rows(read_sweep(sweep_dir), PFC1)
    assert [row.values for row in rows] == [pytest.approx((0.1 / w, 0.11 / w)) for w in (1, 0.5, 2, 4)]
    assert rows[2].mean == pytest.approx(0.0525)
    assert rows[2].deviation == pytest.approx(statistics.stdev([0.05, 0.055]))
    run = read_run(sweep_dir / "train.weight_decay=2_seed=1")
    assert STRAIGHTNESS.read(run) == 0.961
    assert (LINE.read(run), NULL.read(run)) == (0.067, 0.233)


def test_slope_is_over_the_runs_with_positive_settings(sweep_dir):
    sweep = read_sweep(sweep_dir)
    axis = axis_of(sweep)
    assert axis == ("train.weight_decay", (0.0, 0.5, 2.0, 4.0), ("0", "0.5", "2", "4"), True)
    u = [math.log(w) for w in (0.5, 2, 4) for _ in range(2)]
    v = [math.log(0.1 * (1 + seed / 10) / w) for w in (0.5, 2, 4) for seed in range(2)]
    reference = stats.linregress(u, v)
    half = stats.t.ppf(0.975, 4) * reference.stderr
    assert slope_of(axis, PFC1, groups_of(sweep)) == pytest.approx((-1, -1 - half, -1 + half, 6), rel=1e-6)
    # An error of 0 has no logarithm: no slope rather than one without these runs.
    assert slope_of(axis, PFC3_ERROR, groups_of(sweep)) is None


def test_no_slope_where_it_would_say_nothing_about_learning(tmp_path, write_sweep, sweep_dir, without_drawings):
    sweep = read_sweep(sweep_dir)
    groups, tau = groups_of(sweep), next(item for item in QUANTITIES if item.key == "τ")
    # The settings decide the weight-decay time by themselves.
    assert slope_of(axis_of(sweep), tau, groups) is None
    assert slope_of(axis_of(sweep), PFC1, groups) is not None
    two = read_sweep(write_sweep(tmp_path / "two", ("0", "0.5", "2")))
    assert slope_of(axis_of(two), PFC1, groups_of(two)) is None
    unfit = write_sweep(tmp_path / "unfit", ("0.5", "2", "4"))
    set_train_accuracy(unfit / "train.weight_decay=4_seed=1", 0.999)
    assert slope_of(axis_of(read_sweep(unfit)), PFC1, groups_of(read_sweep(unfit))) is None
    page = write_sweep_page(unfit).read_text(encoding="utf-8")
    assert "No slopes are given, because 1 of 6 finished runs did not classify every training sample right." in page


def test_accuracy_and_loss_come_first_and_titles_are_words(html):
    titles = re.findall(r"<figcaption><b>(.*?)</b>", html)
    assert titles[:3] == ["Train accuracy", "Train loss", "Variability within over between classes (pfc1)"]
    assert all(" " in title or title in {"Straightness", "Energy"} for title in titles), titles


def test_one_setting_is_a_table_without_panels(tmp_path, write_sweep):
    html = write_sweep_page(write_sweep(tmp_path, ("5e-4",))).read_text(encoding="utf-8")
    assert 'role="img"' not in html
    mean, deviation = statistics.fmean([200.0, 220.0]), statistics.stdev([200.0, 220.0])
    cells = f"<td>{mean:.0f}</td><td>{deviation:.1f}</td><td>2</td>"
    assert re.search(rf"Variability within over between classes \(pfc1\)<small>[^<]*</small></th>{cells}", html)


def test_a_setting_is_spelled_one_way(tmp_path, write_sweep, without_drawings):
    html = write_sweep_page(write_sweep(tmp_path, ("5e-4", "5e-3"), seeds=1)).read_text(encoding="utf-8")
    shown = re.sub(r"train\.weight_decay=\S*seed=\d", "", html[html.index("<main>") :])
    assert '<th scope="row">0.0005</th>' in shown
    assert "<td>0.0005</td>" in shown
    assert "5e-4" not in shown


def test_page_says_the_numbers(sweep_dir, html):
    assert '<tr><th scope="row">2</th><td>0.0525</td><td>0.00354</td><td>2</td></tr>' in html
    assert re.search(
        r"Log-log slope with train\.weight_decay: -1, 95 % interval -1\.0\d* to -0\.9\d* \(6 runs at 3 positive", html
    )
    # What no run has is named, not shown.
    assert "the minimizers of that model" not in html
    undefined = (
        "Objective, Floor of the objective (floor), Floor of the objective at this depth (depth_floor), "
        "Objective above its floor (excess), Objective above its floor, over the weight decay (excess/λ), "
        "Objective above its floor, over the floor (excess/floor), "
        "Gradient of the objective over those of its two parts (relative_gradient), "
        "Distance from the minimizers (distance), Error of the flow of class means in PFC2 (flow pfc2), "
        "Distance of straight line and flow in PFC2 (line to flow), Exponent of the class means&#39; path (path exponent), "
        "Cost of the class means&#39; path over the least (mean path cost), "
        "Optimality of the network&#39;s pairing (transport_score), "
        "Excess energy by uneven speed (speed_share), Excess energy by bends (bend_share), "
        "Excess energy by the pairing (pairing_share), Wasserstein-2 distances over the layers, added up (detour), "
        "Cost of a random pairing over the best (random_ratio), Alignment, "
        "Last class means against first, directions (misalignment), Last class means against first, ratios (ratio_defect), "
        "Last class means against an ETF (etf_distance), Last class means against the aligned ETF (polar_distance), "
        "Tightness of the bound of weight decay (decay bound)"
    )
    assert f'<p class="quiet">{undefined}.</p>' in html
    assert html.count('role="img"') == len(QUANTITIES) - 40
    assert "<td>–</td><td>–</td><td>0</td>" not in html
    assert "8 finished" in html
    assert "Not counted" not in html
    assert write_sweep_page(sweep_dir).read_text(encoding="utf-8") == html


def test_page_names_the_recipe_and_what_all_runs_changed(tmp_path, write_sweep, html, without_drawings):
    assert "Recipe <b>demo</b>: Digits.</p>" in html
    sweep_dir = write_sweep(tmp_path, ("2",), seeds=2)
    for seed in range(2):
        changed = ["train.weight_decay=2", "train.epochs=5", f"data.per_class={seed}"]
        change(sweep_dir / f"train.weight_decay=2_seed={seed}" / "recipe.json", changed=changed)
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    # Of changed settings the title may not be true.
    assert "Recipe <b>demo</b>. Changed relative to the recipe in all runs: train.epochs=5.</p>" in html


def test_finished_runs_get_the_pages_that_they_lack(tmp_path, write_sweep, without_drawings):
    sweep_dir = write_sweep(tmp_path, ("1", "2", "3"), seeds=1)
    runs = [sweep_dir / f"train.weight_decay={value}_seed=0" for value in (1, 2, 3)]
    change(runs[0] / "status.json", state="running", epoch=3)
    # Otherwise the ledger takes it for the second run again.
    change(runs[2] / "recipe.json", train={"weight_decay": 3.0})
    (runs[1] / "report.html").write_text("a page")
    seen = []
    write_sweep_page(sweep_dir)
    pages = write_run_pages(sweep_dir, on_progress=lambda done, total: seen.append((done, total)))
    assert pages == [runs[2] / "report.html"]
    assert seen == [(1, 1)]
    assert (runs[1] / "report.html").read_text() == "a page"
    assert not (runs[0] / "report.html").exists()
    page = pages[0].read_text(encoding="utf-8")
    assert "../claims.html" in links(page)
    linked = links(write_sweep_page(sweep_dir).read_text(encoding="utf-8"))
    assert linked[1:] == [f"train.weight_decay%3D{value}_seed%3D0/report.html" for value in (2, 3)]
    assert write_run_pages(sweep_dir) == []


def axes_of(*values, signed=False):
    """A panel with one setting."""
    axes, deviation = Figure().subplots(), spread(values)
    row = SettingRow(values, statistics.fmean(values), deviation)
    draw_against(axes, Axis("a", (1.0,), ("1",), True), [row], signed=signed)
    return axes, min(axes.get_lines()[1].get_ydata()), statistics.fmean(values) - deviation


def test_bars_end_at_0_where_there_is_nothing_below():
    axes, low, below = axes_of(0.0, 0.0, 3.0)
    assert below < 0 == low
    # Room for the dots alone.
    assert axes.get_ylim()[0] > below
    assert axes_of(0.0, 0.0, 3.0, signed=True)[1] == pytest.approx(below)
    # Of a quantity that was negative nothing else is known.
    _, low, below = axes_of(-1.0, 0.0, 5.0)
    assert below < low == -1
    _, low, below = axes_of(2.0, 2.1, 2.2)
    assert low == pytest.approx(below)


def test_values_equal_up_to_rounding_have_no_deviation_and_a_readable_axis():
    axes, _, _ = axes_of(1.0, 1.0 - 4e-15, 1.0 + 4e-15)
    low, high = axes.get_ylim()
    assert high - low > 0.05


def test_page_holds_the_ledger_of_its_runs(sweep_dir, html):
    assert "Training reaches the terminal phase" in html
    # No run has anything to say about it.
    assert "random labels" not in html
    kept = json.loads((sweep_dir / "claims.json").read_text())
    # The made-up runs differ in their seeds alone.
    assert len(kept["runs"]) == 2
    assert (sweep_dir / "claims.html").is_file()


def test_page_loads_and_runs_nothing(html):
    assert "<script" not in html
    assert "script-src" not in html
    assert "default-src 'none'" in html
    assert links(html) == ["claims.html"]


def test_unfinished_runs_are_named_and_not_counted(tmp_path, write_sweep, without_drawings):
    sweep_dir = write_sweep(tmp_path, ("1", "2"), seeds=3)
    change(sweep_dir / "train.weight_decay=1_seed=0" / "status.json", state="running", epoch=3)
    (sweep_dir / "train.weight_decay=1_seed=1" / "depth.json").unlink()
    for file in sorted((sweep_dir / "train.weight_decay=2_seed=2").iterdir()):
        file.unlink()
    (sweep_dir / "train.weight_decay=2_seed=2").rmdir()
    (sweep_dir / "train.weight_decay=2_seed=0" / "report.html").write_text("a page")
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    assert "3 finished" in html
    assert "train.weight_decay=1_seed=0: dead at epoch 3 of 5" in html
    assert re.search(r"train\.weight_decay=1_seed=1: \S+depth\.json: is missing", html)
    assert "train.weight_decay=2_seed=2: not begun" in html
    assert '<th scope="row">1</th><td>0.12</td><td>–</td><td>1</td>' in html
    assert links(html) == ["claims.html", "train.weight_decay%3D2_seed%3D0/report.html"]
    assert "Runs without a link have no page yet: <code>ncollapse report DIR</code> writes it." in html


def test_sweep_without_any_finished_run_has_a_page(tmp_path):
    runs = [{"name": "a", "settings": {"model.width": "8"}, "seed": 0}]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    html = write_sweep_page(tmp_path).read_text(encoding="utf-8")
    assert "a: not begun" in html
    assert 'role="img"' not in html
    assert '<p class="quiet">Train accuracy, Train loss, ' in html


def test_words_get_a_place_each_and_cannot_break_the_page(tmp_path, write_sweep):
    sweep_dir = write_sweep(tmp_path, ("none", "batch"), field="model.normalization", seeds=1)
    content = json.loads((sweep_dir / "sweep.json").read_text())
    for run in content["runs"]:
        run["settings"] = {EVIL: run["settings"]["model.normalization"] + EVIL}
    content["runs"].append({"name": EVIL.replace("/", ""), "settings": {EVIL: "x"}, "seed": 0})
    (sweep_dir / "sweep.json").write_text(json.dumps(content))
    axis = axis_of(read_sweep(sweep_dir))
    assert (axis.places, axis.numeric) == ((1.0, 2.0, 3.0), False)
    assert slope_of(axis, PFC1, groups_of(read_sweep(sweep_dir))) is None
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    assert "<script" not in html


def test_what_goes_with_the_swept_field_is_shown_and_is_no_axis(tmp_path, write_sweep, without_drawings):
    sweep_dir = write_sweep(tmp_path, ("1", "2"), seeds=1)
    content = json.loads((sweep_dir / "sweep.json").read_text())
    for run, rate in zip(content["runs"], ("0.1", "1e-3"), strict=True):
        run["tied"] = {"train.learning_rate": rate}
    (sweep_dir / "sweep.json").write_text(json.dumps(content))
    assert axis_of(read_sweep(sweep_dir)) == ("train.weight_decay", (1.0, 2.0), ("1", "2"), True)
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    assert "Sweep of train.weight_decay with train.learning_rate" in html
    assert '<th scope="row">2</th><td>2</td><td>0.001</td>' in html
    del content["runs"][0]["tied"]
    (sweep_dir / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(ReportError, match="needed runs that all set the same fields"):
        read_sweep(sweep_dir)


def test_groups_of_imbalanced_classes_have_panels(tmp_path, write_sweep, without_drawings):
    sweep = write_sweep(tmp_path, ("1", "10"))
    before = write_sweep_page(sweep).read_text(encoding="utf-8")
    assert ".few" not in before
    for run in sweep.glob("*/measurements.csv"):
        lines = run.read_text().splitlines()
        last = lines[-1].split(",")
        last[lines[0].split(",").index("metric")], last[lines[0].split(",").index("value")] = "accuracy.few", "0.625"
        run.write_text("\n".join([*lines, ",".join(last)]) + "\n")
    html = write_sweep_page(sweep).read_text(encoding="utf-8")
    assert "Accuracy.few" in html
    assert "share classified right, of the classes with few samples" in html
    assert "0.625" in html


def test_settings_of_two_fields_are_numbered(tmp_path, write_sweep, without_drawings):
    sweep_dir = write_sweep(tmp_path, ("1", "2"), seeds=1)
    content = json.loads((sweep_dir / "sweep.json").read_text())
    for run in content["runs"]:
        run["settings"]["model.num_blocks"] = "7"
    (sweep_dir / "sweep.json").write_text(json.dumps(content))
    axis = axis_of(read_sweep(sweep_dir))
    assert axis == ("setting", (1.0, 2.0), ("1", "2"), False)
    assert '<tr><th scope="row">2</th><td>2</td><td>7</td></tr>' in write_sweep_page(sweep_dir).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"sweep\.json: needed the list of a sweep's runs, found nothing\. Name the folder that `ncollapse sweep`"),
        ("{", r"sweep\.json: is not valid JSON .*Run `ncollapse sweep` again with the same --out"),
        ("[]", r"sweep\.json: needed object, got array\. Run `ncollapse sweep` again"),
        ('{"runs": []}', r"needed runs that all set the same fields, found no run\. Run `ncollapse sweep` again"),
        (
            '{"runs": [{"name": "a", "settings": {}, "seed": 0}, {"name": "b", "settings": {"x": "1"}, "seed": 0}]}',
            "found runs with different fields",
        ),
    ],
)
def test_broken_lists_are_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        write_sweep_page(tmp_path)
