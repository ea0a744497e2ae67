"""The page that fits: of a run, of several, of a sweep, of sweeps over depth; what does not fit is an error that says why."""

import re
from pathlib import Path

import pytest

from ncollapse.cli import main
from ncollapse.records import ReportError
from ncollapse.report import write_report
from ncollapse.report.comparison_page import comparison_place

SMALL = {"layers": ("stem", "blocks.0", "blocks.1"), "epochs": (0, 5)}


def title(page):
    return re.search(r"<h1>(.*?)</h1>", page.read_text(encoding="utf-8"))[1]


def test_a_run_has_its_page_and_figures(make_run):
    run = make_run("run", **SMALL)
    assert write_report([run]) == run / "report.html"
    assert title(run / "report.html") == "Digits"
    assert (run / "figures" / "pfc_over_depth.svg").is_file()


def test_nothing_is_written_but_the_page_that_was_named(make_run, tmp_path, without_drawings):
    runs = [make_run(name, **SMALL) for name in ("one", "two")]
    before = [sorted(run.rglob("*")) for run in runs]
    out = tmp_path / "pages" / "page.html"
    for folders in (runs, runs[:1]):
        assert write_report(folders, out) == out
        assert [sorted(run.rglob("*")) for run in runs] == before
    # Beside the runs: in the first one, a comparison with another would take its place.
    assert write_report(runs) == tmp_path / "compare.html"
    assert [sorted(run.rglob("*")) for run in runs] == before
    (tmp_path / "sweep.json").write_text("{}")
    assert write_report(runs) == runs[0] / "compare.html"


def test_several_runs_are_compared_and_linked_where_they_have_pages(make_run, tmp_path, without_drawings):
    runs = [make_run(name, **SMALL) for name in ("one", "two & <b>", "three")]
    for run in runs[:2]:
        write_report([run])
    html = write_report(runs, tmp_path / "pages" / "side.html").read_text(encoding="utf-8")
    assert "3 runs side by side" in html
    cells = re.findall(r'<small>(?:<a href="(.*?)">)?(?:one|two|three)\b', html)[:3]
    assert cells == ["../one/report.html", "../two%20%26%20%3Cb%3E/report.html", ""]


def test_report_and_compare_write_the_same_page_of_several_runs(make_run, tmp_path, capsys, monkeypatch, without_drawings):
    runs = [make_run(name, **SMALL) for name in ("one", "two")]
    pages = []
    for command in ("report", "compare"):
        main([command, *map(str, runs)])
        pages.append((tmp_path / "compare.html").read_bytes())
    assert pages[0] == pages[1]
    assert capsys.readouterr().out.splitlines()[-1] == f"Page: {tmp_path / 'compare.html'}, in the place of an earlier one"
    monkeypatch.chdir(runs[0])
    assert comparison_place([Path("."), Path("../two")]) == tmp_path / "compare.html"
    assert comparison_place([Path("../one"), Path("../two")]) == Path("../compare.html")


def test_a_sweep_has_its_page_wherever_it_lies(write_sweep, tmp_path, without_drawings):
    sweep = write_sweep(tmp_path / "sweep", ("1", "2"), seeds=1)
    assert write_report([sweep]) == sweep / "sweep.html"
    assert title(sweep / "sweep.html") == "Sweep of train.weight_decay"
    page = write_report([sweep], tmp_path / "elsewhere.html")
    assert '<a href="sweep/claims.html">' in page.read_text(encoding="utf-8")


def test_sweeps_over_depth_are_drawn_against_it(write_sweep, tmp_path, without_drawings):
    sweeps = [write_sweep(tmp_path / name, ("1", "2"), field="model.num_blocks", seeds=1) for name in "ab"]
    assert write_report(sweeps) == sweeps[0] / "depth.html"
    assert write_report(sweeps[1:]) == sweeps[1] / "depth.html"
    assert title(sweeps[0] / "depth.html") == "Collapse against depth"


def test_what_does_not_fit_is_refused(make_run, write_sweep, tmp_path):
    run, sweep = make_run("run", **SMALL), write_sweep(tmp_path / "sweep", ("1", "2"), seeds=1)
    deep = write_sweep(tmp_path / "deep", ("1", "2"), field="model.num_blocks", seeds=1)
    with pytest.raises(ReportError, match=r"needs at least one folder, got none\. Name run directories"):
        write_report([])
    with pytest.raises(ReportError, match=r"got both: \S*sweep is a sweep, \S*run is a run\. Name one kind at a time"):
        write_report([run, sweep])
    with pytest.raises(ReportError, match=r"over model\.num_blocks alone, but \S*sweep is over train\.weight_decay\. Name one"):
        write_report([deep, sweep])
