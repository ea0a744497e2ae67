"""The page of a diagnosis in a browser: its parts, what opens, and names that are no markup."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch

import ncollapse as nc
from ncollapse.records.rows import PairFinding
from ncollapse.report import layers_page, write_layers_page

EVIL = "</script><img src=x onerror=alert(1)>\"'"
NUM_CLASSES = 22


@pytest.fixture(scope="module")
def found():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {EVIL: torch.nn.Linear(4, 6), "act": torch.nn.ReLU(), "head": torch.nn.Linear(6, NUM_CLASSES)}
    net = torch.nn.Sequential(OrderedDict(parts))
    labels = torch.arange(6 * NUM_CLASSES) % NUM_CLASSES
    inputs = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0))
    names = [f"{EVIL} {k}" for k in range(NUM_CLASSES)]
    return nc.diagnose(net, [(inputs, labels)], num_classes=NUM_CLASSES, class_names=names, layers=[EVIL, "act"], k=3,
                       strangers={EVIL: [inputs[:9] * 3]}, new_labels={EVIL: [k % 2 for k in range(NUM_CLASSES)]})  # fmt: skip


def test_the_page_of_a_diagnosis(browser, found, tmp_path):
    file = write_layers_page(found.record, tmp_path / "layers.html", title=EVIL)
    page, asked, complaints = browser.new_page(viewport={"width": 400, "height": 800}), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    assert page.title().startswith(EVIL)
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator("h2").all_inner_texts() == [
        *("Verdicts", "Accuracy at each layer", "Where strangers are detected", "Where to transfer from", "Classes at act")
    ]
    assert page.locator("#verdicts + ul li").all_inner_texts() == found.verdicts()
    assert page.locator("h3").all_inner_texts()[:2] == [EVIL, EVIL]
    # Two matrices: distances of the classes, clustered, and the similarity of layers. Both are pictures that load.
    assert page.evaluate("() => [...document.images].map((image) => image.naturalWidth)") == [NUM_CLASSES, 2]
    # The hardest twenty classes are shown, and two open.
    rows = page.locator("tbody tr", has=page.locator("td.words"))
    assert (rows.count(), rows.locator("visible=true").count()) == (NUM_CLASSES, 20)
    page.locator("summary").last.click()
    shown = [name for name in rows.locator("th").all_inner_texts() if name]
    assert sorted(shown) == sorted(item.name for item in found.record.classes)
    # On a phone, tables scroll in themselves.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 400
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}
    page.close()


def test_rows_of_a_matrix_are_named_beside_them(browser, found, tmp_path):
    """Long names below the one matrix stretch the other's figure on a wide screen, but not its names."""
    few = {"classes": found.record.classes[:20], "distances": [row[:20] for row in found.record.distances[:20]]}
    file = write_layers_page(replace(found.record, **few), tmp_path / "layers.html")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(file.as_uri())
    height = "(matrix, part) => matrix.querySelector(part).getBoundingClientRect().height"
    heights = page.evaluate(
        f"() => [...document.querySelectorAll('.matrix')].map((m) => ['.rows', 'img'].map((part) => ({height})(m, part)))"
    )
    page.close()
    assert len(heights) == 2
    for rows, picture in heights:
        assert rows == pytest.approx(picture, abs=1)


def test_a_page_shows_the_pairs_that_matter_and_names_rows_where_there_is_room(found, tmp_path, monkeypatch):
    """Pairs that are confused, and the three closest; names beside matrices of up to twenty rows, else in the words."""
    monkeypatch.setattr(layers_page, "write_html", lambda out, template, **context: context)
    pairs = tuple(PairFinding(0, k + 1, 0.1, 0.1, confusion) for k, confusion in enumerate((0.25, 0.0, 0.0, 0.0, 0.125)))
    shown = [write_layers_page(replace(found.record, pairs=pairs[n:]), tmp_path)["pairs"] for n in (0, 1)]
    assert [[pair[0].rpartition(" ")[2] for pair in listed] for listed in shown] == [["1", "2", "3", "5"], ["2", "3", "4", "5"]]
    few = [row[:20] for row in found.record.distances[:20]]
    for record, named in ((found.record, 0), (replace(found.record, classes=found.record.classes[:20], distances=few), 20)):
        picture = write_layers_page(record, tmp_path)["pictures"][0]
        assert (len(picture["labels"]), "Order: " in picture["words"]) == (named, not named)
