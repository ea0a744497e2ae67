"""The page: self-contained, small, the same bytes for the same run, and safe whatever names the files hold."""

import ast
import base64
import csv
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import ncollapse.report
from ncollapse.claims import rule_on_claims
from ncollapse.drawing import describe, summarize
from ncollapse.drawing.axes import REPORTED, draw_training, training_curves
from ncollapse.drawing.kgon_html import to_script_json
from ncollapse.drawing.sentences import describe_by_topic
from ncollapse.drawing.style import GRID, INK, LINE, depth_colors
from ncollapse.drawing.theory_sentences import say_errors
from ncollapse.records import ReportError, read_run
from ncollapse.records.errors import RunDirectoryError
from ncollapse.report import write_claims_page, write_page
from ncollapse.report.payload import build_payload
from ncollapse.report.tables import estimate_tables, metric_tables, recipe_groups
from run_files import keep_stage, write_table

EVIL = "</script><script>alert(1)</script>"
ROOM = Path(ncollapse.report.__file__).parent
SCRIPT = ROOM / "templates" / "page.js"


class Page(HTMLParser):
    """The elements, attributes and scripts of a page, as a browser's tokenizer sees them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.words, self.inside = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        self.words.append(data)

    def attribute(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="session")
def html(shared_run, tmp_path_factory):
    return write_page(shared_run, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html):
    return Page(html)


@pytest.fixture
def evil_run(make_run, edit):
    run_dir = make_run(layers=("stem", EVIL, "a\u2028b & <!-- c"), epochs=(0, 5), title=f"{EVIL}<img src=x onerror=alert(2)>")

    def spoil(content):
        content["name"] = content["description"] = content["data"]["name"] = EVIL
        content[EVIL] = {EVIL: [EVIL]}

    edit(run_dir / "recipe.json", spoil)
    edit(run_dir / "environment.json", lambda content: content.update({EVIL: EVIL}))
    table = run_dir / "measurements.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("empty_class", EVIL), encoding="utf-8")
    return run_dir


def test_nothing_is_loaded_from_anywhere(html, page):
    for name in ("src", "href", "xlink:href", "srcset", "action"):
        assert all(value.startswith(("#", "data:")) for value in page.attribute(name))
    assert re.findall(r"url\((?!#)", html) == []
    assert "@import" not in html
    assert "script-src 'sha256-" in html
    assert "default-src 'none'" in html


def test_policy_allows_exactly_our_script(html, page):
    script = page.scripts[-1]
    assert script == SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == ["application/json", None]


def test_words_figures_controls_table_recipe_and_versions_are_there(html, page, shared_run):
    words = " ".join(page.words)
    for sentence in describe(read_run(shared_run)):
        assert sentence in words
    figures = [attributes["aria-label"] for tag, attributes in page.elements if tag == "svg"]
    # PFC1-3 twice over depth (for the slider, and drawn), PFC1-3 over epochs, the heat map, NC1-4, loss and accuracy.
    assert len(figures) == 3 + 3 + 3 + 1 + 4 + 2
    slider = next(attributes for tag, attributes in page.elements if attributes.get("type") == "range")
    assert (slider["max"], slider["value"]) == ("14", "14")
    options = [attributes for tag, attributes in page.elements if tag == "option"]
    assert [option["value"] for option in options if "selected" in option] == ["projection"]
    for expected in ("learning_rate", "0.333333, 0.666667", "2.13.0", "training time", "weight_decay", "rank_within", "undef."):
        assert expected in words
    assert "a class has no samples, so nothing over all classes is defined" in words


def test_drawings_take_the_page_colors(html):
    svgs = "".join(re.findall(r"<svg viewBox=.*?</svg>", html, flags=re.DOTALL))
    for color in (INK, GRID, LINE, *depth_colors(6)):
        assert color not in svgs
    assert "var(--depth-5)" in svgs
    assert "<text" in svgs
    assert "prefers-color-scheme: dark" in html
    assert f".run-0{{--depth-0:{depth_colors(6)[0]}" in html


def test_ids_are_unique_and_references_resolve(page):
    ids = page.attribute("id")
    assert len(ids) == len(set(ids))
    used = [value[1:] for name in ("href", "xlink:href") for value in page.attribute(name) if value.startswith("#")]
    used += [reference for value in page.attribute("clip-path") for reference in re.findall(r"url\(#(.*?)\)", value)]
    assert used
    assert set(used) <= set(ids)


def test_letters_lead_to_flags_and_captions_to_terms(page):
    assert {"#term-pfc1", "#term-pfc3", "#term-nc"} <= set(page.attribute("href"))
    assert "#metrics-0-flag-a" in page.attribute("href")
    assert "metrics-0-pfc1" in page.attribute("id")


def test_three_lines_come_first_and_terms_are_explained(html, page, shared_run):
    words = " ".join(page.words)
    lines = summarize(read_run(shared_run))
    assert [words.count(line) for line in lines] == [1, 1, 1]
    topics = re.findall(r"<summary>([^<]*)</summary>", html[: html.index("<h3>Over depth</h3>")])
    assert topics == [*describe_by_topic(read_run(shared_run))]
    assert html.index(lines[-1].replace("'", "&#39;")) < html.index("<summary>")
    # Nothing but three lines and the cards is before the first figure unless it is opened; tables are at the end.
    shown = re.sub(r"<details>.*?</details>", "", html[html.index("<main>") : html.index("<svg")], flags=re.DOTALL)
    assert "<li>" not in shown
    assert html.index("<table") > html.rindex("<h3>") > html.index('id="terms"')
    assert '<a href="#terms">Terms</a>' in html
    terms = re.findall(r"<dt[^>]*>([^<]*)</dt><dd>", html[html.index('id="terms"') :])
    assert terms[:3] == ["PFC1", "PFC2", "PFC3"]
    assert {"CDNV", "Baseline", "Decade", "τ"} <= set(terms)
    # On a narrow screen only the meanings of metrics give way.
    narrow = html[html.index("@media (max-width: 40rem)") : html.index("@media print")]
    assert re.findall(r"([^{}\n]*)\{ display: none", narrow) == ["  .metrics tr > :first-child small "]


def test_words_of_the_recipe_are_not_shown_for_changed_settings(make_run, edit, tmp_path, without_drawings):
    run_dir = make_run(epochs=(3,))
    edit(run_dir / "recipe.json", lambda content: content.update(changed=["data.name=mnist", "train.epochs=3"]))
    html = write_page(run_dir, tmp_path / "run.html").read_text(encoding="utf-8")
    assert "<h1>Recipe demo with changed settings</h1>" in html
    assert html.count("Changed relative to the recipe demo: data.name=mnist, train.epochs=3.") == 1
    assert "A small residual network on the handwritten digits." not in html
    assert "6 layers, measured at 1 epoch." in html


def test_captions_are_right_without_script_and_on_paper(html, shared_run, tmp_path, without_drawings):
    static = html[html.index('<div class="static">') :]
    run = read_run(shared_run)
    error = run.last.prediction_error["projection"]
    assert f'<p class="error">{say_errors(error.line["pfc1"], error.baseline["pfc1"])}</p>' in static
    assert "Epoch 150. Layers are placed at their projection on the chord." in static
    # What the script says of another position is said without it, too.
    other = write_page(shared_run, tmp_path / "index.html", position="index").read_text(encoding="utf-8")
    error = run.last.prediction_error["index"]
    assert f'<p class="error">{say_errors(error.line["pfc1"], error.baseline["pfc1"])}</p>' in other
    assert "Layers are placed at their block index l/L." in other


def test_plots_of_a_part_name_its_layers_only(run_dir, edit, tmp_path, without_drawings):
    edit(run_dir / "depth.json", lambda content: keep_stage(content, 1, 4))
    html = write_page(run_dir, tmp_path / "index.html").read_text(encoding="utf-8")
    depth, training = (html[html.index(f"<h3>{title}</h3>") :] for title in ("Over depth", "Over training"))
    assert "These are 3 of 6 layers, blocks.0 to blocks.2, which have one dimension." in depth
    keys = [re.findall(r'data-depth="(\d)"', part[: part.index("</ul>")]) for part in (depth, training)]
    assert keys == [list("123"), list("012345")]


def test_paper_shows_what_is_closed_and_keeps_legends_whole(html):
    paper = html[html.index("@media print") : html.index("</style>")]
    assert "details::details-content { content-visibility: visible" in paper
    whole = re.search(r"([^{}]*)\{ break-inside: avoid; \}", paper)[1]
    assert {"figure", "tr", ".key"} <= {part.strip() for part in whole.split(",")}
    # Nothing opens on paper, so nothing looks as if it did.
    assert "summary { list-style: none; }" in paper


def test_no_rule_takes_back_those_of_small_screens_and_of_paper():
    css = (ROOM / "templates" / "page.css").read_text(encoding="utf-8")
    assert ".paths text, .wide .chart text { font-size: 18px; }" in css[css.index("@media (max-width: 40rem)") :]
    assert css[css.rindex("@media") :].count("\n}\n") == 1
    assert css.endswith("\n}\n")


def test_an_epoch_that_was_not_measured_is_not_named(html, make_run, tmp_path, without_drawings):
    assert "Epoch 0 is before training." in html
    late = write_page(make_run("late", epochs=(5, 40)), tmp_path / "late.html").read_text(encoding="utf-8")
    assert "Epoch 0" not in late


def test_a_failed_run_shows_why(make_run, edit, tmp_path, without_drawings):
    run_dir = make_run(epochs=(0, 3))
    edit(run_dir / "status.json", lambda content: content.update(state="failed", reason="no <space> left"))
    html = write_page(run_dir, tmp_path / "run.html").read_text(encoding="utf-8")
    assert "This run failed: no &lt;space&gt; left. It was last saved at epoch 3 of 3." in html


def test_large_run_stays_below_a_megabyte(make_run, tmp_path):
    epochs = tuple(sorted({round(350 ** (i / 45)) for i in range(46)} | {0}))
    epochs = (*epochs, *(n for n in range(200, 350) if n not in epochs))[:41]
    run_dir = make_run(layers=("stem", *(f"blocks.{i}" for i in range(10))), epochs=tuple(sorted(epochs)))
    assert len(read_run(run_dir).epochs) == 41
    assert write_page(run_dir, tmp_path / "big.html").stat().st_size < 600_000


def test_same_run_gives_the_same_bytes(second_run, tmp_path):
    pages = [write_page(second_run, tmp_path / name).read_bytes() for name in ("one.html", "two.html")]
    assert pages[0] == pages[1]


def test_names_from_files_are_harmless(evil_run, tmp_path):
    html = write_page(evil_run, tmp_path / "evil.html").read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.scripts) == 2
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    payload = page.scripts[0]
    assert json.loads(payload)["layers"] == ["stem", EVIL, "a\u2028b & <!-- c"]
    assert not set("<>&\u2028") & set(payload)
    # Escaped, but shown: in the words, the legend, the table, the recipe, the versions and the flags.
    assert EVIL not in html
    assert html.count("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;") >= 10


def test_json_for_a_script_is_ascii_without_markup():
    text = to_script_json({"a": "</script><!--&\u2028\u2029é", "b": [1, None]})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028\u2029é", "b": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_script_json(float("nan"))


def test_embedded_table_holds_every_row(run_dir):
    table = run_dir / "measurements.csv"
    table.write_text(table.read_text().replace(",pfc1,0.6,", ",pfc1,inf,", 1))
    run = read_run(run_dir)
    embedded = build_payload(run)["table"]
    rows = {}
    for split, depth, layer, metric, values, flags in embedded["series"]:
        for i, value in enumerate(values):
            if value != "":
                rows[embedded["epochs"][i], split, depth, layer, metric] = (value, flags.get(i, ""))
    assert len(rows) == len(run.rows)
    for row in run.rows:
        value, flags = rows[row.epoch, row.split, row.depth, row.layer, row.metric]
        assert flags == ";".join(row.flags)
        assert float("nan" if value is None else value) == pytest.approx(row.value, rel=1e-8, nan_ok=True)


def test_embedded_epochs_hold_what_the_slider_draws(shared_run):
    run = read_run(shared_run)
    payload = build_payload(run)
    epoch = payload["epochs"][3]
    record = run.records[3]
    assert epoch["epoch"] == 3
    for metric in ("pfc1", "pfc2", "pfc3"):
        assert epoch["values"][metric] == pytest.approx(run.over_depth(metric, 3), rel=1e-3)
        assert epoch["curve"][metric] == pytest.approx(getattr(record.curve, metric)[::2], rel=1e-3)
        assert epoch["baseline"][metric] == pytest.approx(getattr(record.baseline, metric)[::2], rel=1e-3)
        assert epoch["noise"][metric] == [None] * 6
    assert epoch["curve"]["t"] == pytest.approx(record.curve.t[::2])
    assert (epoch["curve"]["t"][0], epoch["curve"]["t"][-1]) == (0, 1)
    assert epoch["positions"]["projection"] == pytest.approx(record.positions["projection"], rel=1e-3)
    assert epoch["errors"]["projection"]["pfc1"] == "off by 0.067 decades (line), 0.233 (baseline)"


def test_table_marks_flags_and_tells_undefined_from_unmeasured(run_dir):
    table = run_dir / "measurements.csv"
    text = table.read_text().replace("rank_within,nan,empty_class", "rank_within,nan,empty_class;novel_flag")
    text += "150,train,1,blocks.0,rank_within,inf,novel_flag\n150,test,0,stem,pfc1,1.23456789e-07,\n"
    table.write_text(text)
    train, test = metric_tables(read_run(run_dir))
    row = next(row for row in train.rows if row.metric == "rank_within")
    assert row.cells == (("undef.", "a b"), ("∞", "b"), ("", ""), ("", ""), ("", ""), ("", ""))
    assert train.flags == (
        ("a", "empty_class", "a class has no samples, so nothing over all classes is defined"),
        ("b", "novel_flag", "novel flag"),
    )
    assert (test.split, test.rows[0].metric, test.rows[0].cells[0]) == ("test", "pfc1", ("1.235e-7", ""))
    assert row.meaning == ""
    assert test.rows[0].meaning.startswith("within- over between-class variance")


def test_estimates_stand_beside_the_plain_values(make_run, tmp_path, without_drawings):
    run_dir = make_run(epochs=(0, 5), layers=("stem", "head"))
    assert estimate_tables(read_run(run_dir)) == []
    assert "Estimates for the population" not in write_page(run_dir, tmp_path / "a.html").read_text()
    table = run_dir / "measurements.csv"
    rows = list(csv.reader(table.read_text().splitlines()))[1:]
    kept = [[epoch, "", *row, "", flags] for epoch, *row, flags in rows if row[3] not in ("pfc1", "cdnv")]
    kept += [["5", "", "train", "0", "stem", *cells] for cells in (
        ("pfc1", "19", "", "undersampled"), ("pfc1.population", "159", "12.345", ""), ("cdnv", "0.1", "", ""),
        ("cdnv.population", "0.2", "", "unresolved"), ("cdnv.low", "0.15", "", ""), ("cdnv.high", "inf", "", "unbounded"),
        ("pfc3.leave_one_out", "0.5", "", ""),
    )]  # fmt: skip
    write_table(table, "epoch,step,split,depth,layer,metric,value,standard_error,flags", kept)
    (estimates,) = estimate_tables(read_run(run_dir))
    pfc3 = f"{read_run(run_dir).value('pfc3', 0):.4g}"
    assert {row.metric: row.cells for row in estimates.rows} == {
        "pfc1.population": (("19 → 159 ± 12", "a"), ("", "")),
        "cdnv.population": (("0.1 → 0.2 in [0.15, ∞]", "b c"), ("", "")),
        "pfc3.leave_one_out": ((f"{pfc3} → 0.5", ""), ("", "")),
    }
    assert [flag for _, flag, _ in estimates.flags] == ["undersampled", "unresolved", "unbounded"]
    page = write_page(run_dir, tmp_path / "b.html").read_text()
    assert "Estimates for the population" in page
    assert '19 → 159 ± 12<sup><a href="#estimates-0-flag-a">a</a></sup>' in page
    assert '<li id="estimates-0-flag-a"><sup>a</sup> <b>undersampled</b>' in page


def test_recipe_is_grouped_and_deeper_nesting_dotted(run_dir, edit):
    edit(run_dir / "recipe.json", lambda content: content.update(train={"loss": {"name": "mse", "scale": None}, "clip": True}))
    groups = recipe_groups(read_run(run_dir))
    assert groups["run"] == [("name", "demo"), ("seed", "0"), ("threads", "1")]
    assert groups["train"] == [("loss.name", "mse"), ("loss.scale", "null"), ("clip", "true")]


def test_errors_of_write_page(run_dir, tmp_path):
    with pytest.raises(ReportError, match=r"needed a position of index, projection"):
        write_page(run_dir, tmp_path / "none.html", position="time")
    (run_dir / "depth.json").unlink()
    with pytest.raises(ReportError, match=r"depth\.json: is missing"):
        write_page(run_dir, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_a_folder_in_the_place_of_a_page_is_told_and_nothing_is_left(second_run, tmp_path, without_drawings):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunDirectoryError, match=r"report\.html must be a file, got a folder"):
        write_page(second_run, tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_script_is_short_and_room_reads_files_only():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 240
    allowed = ("ncollapse.report", "ncollapse.claims", "ncollapse.drawing", "ncollapse.records")
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert "pyplot" not in name
                assert not name.startswith(("ncollapse", "torch", "numpy", "pandas")) or name.startswith(tuple(allowed)), (
                    file.name
                )


def test_a_run_in_a_ledger_shows_its_part(make_run, tmp_path, without_drawings):
    runs = [make_run(f"seed{seed}", seed=seed, epochs=(0, 150)) for seed in range(12)]
    page = runs[0] / "report.html"
    assert "<h3>Claims</h3>" not in write_page(runs[0], page).read_text(encoding="utf-8")
    write_claims_page(rule_on_claims(runs), tmp_path / "elsewhere" / "claims.html")
    folder = runs[0].parent
    write_claims_page(rule_on_claims(runs), folder / "claims.html")
    html = write_page(runs[0], page).read_text(encoding="utf-8")
    assert '<a href="../claims.html">The ledger</a>' in html
    part = re.search(r"PFC1 progresses over all measured layers</th><td>.*?holds</b></td><td>(.*?)</td>", html)
    assert part[1] == "agrees"
    # PFC2 rises into a layer of these runs, in every one of them.
    part = re.search(r"PFC2 progresses over all measured layers</th><td>.*?fails</b></td><td>(.*?)</td>", html)
    assert part[1] == "disagrees"
    # A ledger without a page is not linked.
    (folder / "claims.html").unlink()
    assert "The ledger</a>" not in write_page(runs[0], page).read_text(encoding="utf-8")
    (folder / "claims.json").write_text("{")
    with pytest.raises(
        ReportError, match=r"claims\.json: is not valid JSON .*Write it again with `ncollapse claims`, or remove it"
    ):
        write_page(runs[0], page)


def test_loss_and_accuracy_of_the_training_are_drawn(html, run_dir, tmp_path):
    """What the training reported, beside the accuracy measured on test data; nothing where nothing was reported."""
    axes = [Figure().subplots() for _ in REPORTED]
    run = read_run(run_dir)
    for place, name in zip(axes, REPORTED, strict=True):
        draw_training(place, run, name)
        reported = place.lines[0]
        assert reported.get_xdata().tolist() == [record.epoch for record in run.history]
        assert reported.get_ydata().tolist() == [getattr(record, name) for record in run.history]
    assert "<h3>Loss and accuracy</h3>" in html
    assert 'aria-label="loss over epochs"' in html
    assert "The accuracy on test data was measured." not in html
    tested = run.rows[0]._replace(metric="accuracy", split="test", epoch=150.0, value=0.75)
    curves = training_curves(replace(run, rows=(*run.rows, tested)), "accuracy")
    assert (list(curves), curves["test"]) == (["training", "test"], {150: 0.75})
    assert training_curves(replace(run, rows=(*run.rows, tested)), "loss").keys() == {"training"}
    later = replace(run, rows=(*run.rows, tested, tested._replace(epoch=100.0)), history=())
    draw_training(place := Figure().subplots(), later, "accuracy")
    assert [(line.get_label(), line.get_xdata().tolist()) for line in place.lines[:1]] == [("test", [100, 150])]
    assert place.get_legend() is not None
    unknown = tuple(record._replace(loss=math.nan, accuracy=math.nan) for record in run.history)
    assert training_curves(replace(run, history=unknown), "loss") == {}
