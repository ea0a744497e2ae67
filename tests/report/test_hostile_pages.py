"""Pages of run directories from anybody: nothing is written through a link, no name ends as markup, no file breaks them."""

import json
import re
from contextlib import suppress
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import FUZZED, OFTEN, damaged
from ncollapse.records import ReportError
from ncollapse.report import write_comparison, write_depth_page, write_page, write_report, write_sweep_page
from run_files import write_run

NAMES = {
    "a script": "</script><script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "the end of an attribute": "\" onload='alert(1)' x=\"",
    "a comment": "<!-- --><![CDATA[ ]]>",
    "a style": "}</style><style>*{background:url(http://x)}",
    "a link": "javascript:alert(1)",
    "an SVG": "</text></svg><svg onload=alert(1)>",
    "a template": "{{ 12345 * 6789 }}{% include '/etc/passwd' %}",
    "a formula": "$\\sqrt{x$ \\input{/etc/passwd} $^{$",
    "control characters": "\x1b[31m\x07\x00\u202e\u2028\x85",
    "a long name": "w" * 5000,
    "nothing": " ",
}


class Markup(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs


def markup(path):
    html = path.read_text(encoding="utf-8")
    page = Markup(html)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [value for name, value in page.attributes if name in {"href", "src", "xlink:href", "action"}]
    assert [value for value in links if not re.match(r"data:image/svg\+xml,%3Csvg |[#\w%.,=+~/-]*(\.html)?$", value)] == []
    assert not {"img", "iframe", "object", "form", "base"} & set(page.tags)
    assert page.tags.count("link") == 1
    assert "url(http" not in re.sub(r"&[^;]*;", "", html) or "style>*{background" not in html
    return page.tags, html


def rename(run, name):
    """Put a name in every place where a run directory has words."""
    for file in ("recipe", "environment", "glossary"):
        path = run / f"{file}.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, name: {name: [name]}}))
    recipe = json.loads((run / "recipe.json").read_text())
    recipe |= {"name": name, "title": name, "description": name, "changed": [name, f"{name}={name}"]}
    (run / "recipe.json").write_text(json.dumps(recipe))
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "reason": name}))
    glossary = {"metrics": {"pfc1": name, name: name}, "flags": {name: name, "empty_class": name}}
    (run / "glossary.json").write_text(json.dumps(glossary))
    return run


def hostile_run(folder, name, **options):
    return rename(write_run(folder, layers=("stem", name, "blocks.1"), epochs=(0, 2), **options), name)


@pytest.mark.parametrize("key", NAMES)
def test_a_name_is_text_on_the_page_of_a_run(tmp_path, key, request):
    # Drawings take seconds: those of names that mean something in SVG or in formulas.
    drawn = key in {"an SVG", "a formula"}
    if not drawn:
        request.getfixturevalue("without_drawings")
    tags, html = markup(write_page(hostile_run(tmp_path / "run", NAMES[key]), tmp_path / "report.html"))
    assert (tags.count("script"), tags.count("style")) == (2, 1)
    assert tags.count("svg") == (16 if drawn else 4)
    assert "83810205" not in html


@pytest.mark.parametrize("key", ["a script", "the end of an attribute", "a template", "control characters", "nothing"])
def test_a_name_is_text_on_pages_of_several_runs(tmp_path, key, without_drawings):
    name = NAMES[key]
    sweep, folder = tmp_path / "sweep", name.replace("/", "|").replace("\0", "") or "x"
    runs = []
    for seed in range(2):
        run = f"{folder}{seed}"
        hostile_run(sweep / run, name, seed=seed)
        runs.append({"name": run, "settings": {name: name}, "seed": seed})
    runs.append({"name": f"{folder}2", "settings": {name: name}, "seed": 2})
    (sweep / "sweep.json").write_text(json.dumps({"runs": runs}))
    for page in (
        write_sweep_page(sweep),
        sweep / "claims.html",
        write_comparison([sweep / item["name"] for item in runs[:2]], tmp_path / "compare.html"),
        write_page(sweep / runs[0]["name"], tmp_path / "report.html"),
    ):
        tags, html = markup(page)
        assert tags.count("script") == (2 if page.name == "report.html" else 0)
        assert "83810205" not in html
    with pytest.raises(ReportError, match="needed a sweep over"):
        write_depth_page([sweep], tmp_path / "depth.html")


def test_a_report_writes_through_no_link(tmp_path, without_drawings):
    run = write_run(tmp_path / "run", layers=("stem", "blocks.0"), epochs=(0, 2))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    for name in ("report.html", ".report.html.tmp", "claims.html", "claims.json", "compare.html"):
        (run / name).symlink_to(mine / "notes.txt")
    # The ledger beside a run is read as well.
    with pytest.raises(ReportError, match=r"claims\.json: needed a file, got a link\."):
        write_report([run])
    (run / "claims.json").unlink()
    assert write_report([run]).is_file()
    assert not (run / "report.html").is_symlink()
    assert [path.name for path in mine.iterdir()] == ["notes.txt"]
    assert (mine / "notes.txt").read_text() == "mine"


def test_names_in_a_ledger_lead_nowhere(tmp_path, without_drawings):
    run = write_run(tmp_path / "run", layers=("stem", "blocks.0"), epochs=(0, 2))
    evidence = {"setting": "<u>", "statistic": "<u>", "seeds": 1, "value": None, "interval": [None, None], "verdict": "<u>"}
    evidence |= {
        "why": "<u>",
        "counts": True,
        "supporting": [".", "a\0b", "w" * 100_000, "../" * 1000],
        "opposing": ["/dev/zero"],
    }
    claim = {"key": "<u>", "statement": "<u>", "source": "<u>", "tested": "<u>", "verdict": "<u>", "why": "<u>"}
    ledger = {"paper": "<u>", "runs": [], "left_out": [], "claims": [{**claim, "evidence": [evidence]}]}
    (run / "claims.json").write_text(json.dumps(ledger))
    assert "<u>" not in markup(write_page(run, tmp_path / "report.html"))[1]


@pytest.mark.parametrize(("length", "number", "place"), [(2001, 1, r"claims\[0\]\.statement"), (1, 1001, "claims")])
def test_a_ledger_is_not_longer_than_a_page_shows(tmp_path, without_drawings, length, number, place):
    run = write_run(tmp_path / "run", layers=("stem", "blocks.0"), epochs=(0, 2))
    claim = {"key": "", "statement": "w" * length, "source": "", "tested": "", "verdict": "holds", "why": "", "evidence": []}
    (run / "claims.json").write_text(json.dumps({"runs": [], "left_out": [], "claims": [claim] * number}))
    words = rf"claims\.json: {place}: needed a length of at most (2000|1000)\. Write it again with `ncollapse claims`"
    with pytest.raises(ReportError, match=words):
        write_page(run, tmp_path / "report.html")


FILES = ("recipe.json", "environment.json", "status.json", "glossary.json", "depth.json", "history.csv", "measurements.csv")


def write_damaged(run, name, data):
    valid = (run / name).read_bytes()
    (run / name).write_bytes(data.draw(damaged(valid)))
    try:
        with suppress(ReportError):
            markup(write_page(run, run.parent / "report.html"))
            markup(write_comparison([run, run], run.parent / "compare.html"))
    finally:
        (run / name).write_bytes(valid)


@pytest.fixture
def small(tmp_path):
    return write_run(tmp_path / "run", layers=("stem", "blocks.0"), epochs=(0, 2))


@pytest.mark.parametrize("name", FILES)
@settings(FUZZED, max_examples=8)
@given(data=st.data())
def test_damaged_files_break_no_page(small, name, without_drawings, data):
    write_damaged(small, name, data)


def write_damaged_sweep(sweep, name, data):
    valid = (sweep / name).read_bytes()
    (sweep / name).write_bytes(data.draw(damaged(valid)))
    try:
        with suppress(ReportError):
            markup(write_page(sweep / "model.width=1_seed=0", sweep / "report.html"))
            markup(write_sweep_page(sweep))
    finally:
        (sweep / name).write_bytes(valid)


@pytest.fixture
def sweep(tmp_path, write_sweep, without_drawings):
    sweep = write_sweep(tmp_path / "sweep", ("1", "2"), field="model.width", seeds=1)
    write_sweep_page(sweep)
    return sweep


@pytest.mark.parametrize("name", ["sweep.json", "claims.json"])
@settings(FUZZED, max_examples=8)
@given(data=st.data())
def test_damaged_lists_break_no_page(sweep, name, data):
    write_damaged_sweep(sweep, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep.json", "claims.json"])
@OFTEN
@given(data=st.data())
def test_many_damaged_lists_break_no_page(sweep, name, data):
    write_damaged_sweep(sweep, name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@OFTEN
@given(data=st.data())
def test_many_damaged_files_break_no_page(small, name, without_drawings, data):
    write_damaged(small, name, data)
