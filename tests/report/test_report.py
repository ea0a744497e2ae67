"""The page that fits: of a run, of several, of a sweep, of sweeps over depth; what does not fit is an error that says why."""

import re

import pytest

from ncollapse.records import ReportError
from ncollapse.report import write_report

SMALL = {"layers": ("stem", "blocks.0", "blocks.1"), "epochs": (0, 5)}


def title(page):
    return re.search(r"<h1>(.*?)</h1>", page.read_text(encoding="utf-8"))[1]


def test_a_run_has_its_page_and_figures(make_run):
    run = make_run("run", **SMALL)
    assert write_report([run]) == run / "report.html"
    assert title(run / "report.html") == "Digits"
    assert (run / "figures" / "pfc_over_depth.svg").is_file()


def test_several_runs_are_compared_and_each_has_its_page(make_run, tmp_path, without_drawings):
    runs = [make_run(name, **SMALL) for name in ("one", "two & <b>")]
    assert write_report(runs) == runs[0] / "compare.html"
    assert title(runs[0] / "compare.html") == "2 runs side by side"
    assert all((run / "report.html").is_file() for run in runs)
    html = write_report(runs, tmp_path / "pages" / "side.html").read_text(encoding="utf-8")
    assert re.findall(r'<small><a href="(.*?)">', html)[:2] == ["../one/report.html", "../two%20%26%20%3Cb%3E/report.html"]


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
