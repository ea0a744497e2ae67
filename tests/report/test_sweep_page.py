"""The page of a sweep: its numbers are those of the run directories, whatever is missing is named, nothing can be injected."""

import json
import math
import re
import statistics

import pytest
from scipy import stats

from ncollapse.report import ReportError, read_run, write_sweep_page
from ncollapse.report.sweep_quantities import QUANTITIES, axis_of, setting_rows, slope_of
from ncollapse.report.sweep_reading import read_sweep

EVIL = "</script><script>alert(1)</script>$x_1$"
PFC1, PFC3_ERROR, STRAIGHTNESS, LINE, NULL = (
    next(item for item in QUANTITIES if item.key == key)
    for key in ("pfc1", "pfc3_error", "straightness", "line pfc1", "null pfc1")
)  # fmt: skip


def change(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


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
    axis, rows = axis_of(sweep), setting_rows(sweep, PFC1)
    assert axis == ("train.weight_decay", (0.0, 0.5, 2.0, 4.0), ("0", "0.5", "2", "4"), True)
    u = [math.log(w) for w in (0.5, 2, 4) for _ in range(2)]
    v = [math.log(0.1 * (1 + seed / 10) / w) for w in (0.5, 2, 4) for seed in range(2)]
    reference = stats.linregress(u, v)
    half = stats.t.ppf(0.975, 4) * reference.stderr
    assert slope_of(axis, rows) == pytest.approx((-1, -1 - half, -1 + half, 6), rel=1e-6)
    # An error of 0 has no logarithm: no slope rather than one without these runs.
    assert slope_of(axis, setting_rows(sweep, PFC3_ERROR)) is None


def test_page_says_the_numbers(sweep_dir, html):
    assert '<tr><th scope="row">2</th><td>0.0525</td><td>0.00354</td><td>2</td></tr>' in html
    assert re.search(
        r"Log-log slope with train\.weight_decay: -1, 95 % interval -1\.0\d* to -0\.9\d* \(6 runs at 3 positive", html
    )
    # Runs without a floor of their objective show nothing of it.
    assert html.count('role="img"') == sum(not quantity.optional for quantity in QUANTITIES) == 26
    assert "GUFM" not in html
    assert "8 finished" in html
    assert "Not counted" not in html
    assert write_sweep_page(sweep_dir).read_text(encoding="utf-8") == html


def test_page_holds_the_ledger_of_its_runs(sweep_dir, html):
    assert "The assumption of Theorem 1 is valid" in html
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
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:href|src)="([^"]*)"', html))


def test_unfinished_runs_are_named_and_not_counted(tmp_path, write_sweep):
    sweep_dir = write_sweep(tmp_path, ("1", "2"), seeds=3)
    change(sweep_dir / "train.weight_decay=1_seed=0" / "status.json", state="running", epoch=3)
    (sweep_dir / "train.weight_decay=1_seed=1" / "depth.json").unlink()
    for file in sorted((sweep_dir / "train.weight_decay=2_seed=2").iterdir()):
        file.unlink()
    (sweep_dir / "train.weight_decay=2_seed=2").rmdir()
    (sweep_dir / "train.weight_decay=2_seed=0" / "report.html").write_text("a page")
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    assert "3 finished" in html
    assert "train.weight_decay=1_seed=0: running at epoch 3 of 5" in html
    assert re.search(r"train\.weight_decay=1_seed=1: \S+depth\.json: is missing", html)
    assert "train.weight_decay=2_seed=2: not begun" in html
    assert '<th scope="row">1</th><td>0.12</td><td>–</td><td>1</td>' in html
    assert [link for link in re.findall(r'href="([^"]*)"', html) if not link.startswith(("#", "data:"))] == [
        "train.weight_decay%3D2_seed%3D0/report.html"
    ]


def test_sweep_without_any_finished_run_has_a_page(tmp_path):
    runs = [{"name": "a", "settings": {"model.width": "8"}, "seed": 0}]
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    html = write_sweep_page(tmp_path).read_text(encoding="utf-8")
    assert "a: not begun" in html
    assert "undefined or not measured" in html


def test_words_get_a_place_each_and_cannot_break_the_page(tmp_path, write_sweep):
    sweep_dir = write_sweep(tmp_path, ("none", "batch"), field="model.normalization", seeds=1)
    content = json.loads((sweep_dir / "sweep.json").read_text())
    for run in content["runs"]:
        run["settings"] = {EVIL: run["settings"]["model.normalization"] + EVIL}
    content["runs"].append({"name": EVIL, "settings": {EVIL: "x"}, "seed": 0})
    (sweep_dir / "sweep.json").write_text(json.dumps(content))
    axis = axis_of(read_sweep(sweep_dir))
    assert (axis.places, axis.numeric) == ((1.0, 2.0, 3.0), False)
    assert slope_of(axis, setting_rows(read_sweep(sweep_dir), PFC1)) is None
    html = write_sweep_page(sweep_dir).read_text(encoding="utf-8")
    assert "<script" not in html


def test_settings_of_two_fields_are_numbered(tmp_path, write_sweep):
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
        ("{", r"sweep\.json is not JSON .*Run `ncollapse sweep` again with the same --out"),
        ("[]", r"sweep\.json: needed an object, got \[\]\. Run `ncollapse sweep` again"),
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
