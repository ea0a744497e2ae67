"""The page of a run in a real browser: its controls, its values, its console, and nothing from the network."""

import csv
import io
import math
import re

import pytest
import torch

import ncollapse as nc
from ncollapse.drawing.wording import POSITIONS, number
from ncollapse.records import read_run
from ncollapse.report import write_page

EPOCHS = 5


def record(folder, epochs, layers=6):
    """Train a small network and record every epoch; return the folder and what ``measure`` gives for the last weights."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 8) + 3 * torch.eye(3, 8)[labels]
    blocks = [module for _ in range(layers) for module in (torch.nn.Linear(8, 8), torch.nn.ReLU())]
    net = torch.nn.Sequential(*blocks, torch.nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    recorder = nc.Recorder(folder, net, num_classes=3, epochs=epochs, every=1, optimizer=optimizer)
    recorder.epoch(0, [(inputs, labels)])
    for epoch in range(1, epochs + 1):
        for _ in range(9):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
        recorder.epoch(epoch, [(inputs, labels)])
    return recorder.path, nc.measure(net, [(inputs, labels)], num_classes=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return record(tmp_path_factory.mktemp("browser") / "mine", EPOCHS)


@pytest.fixture(scope="module")
def recorded(trained):
    return trained[0]


@pytest.fixture(scope="module")
def run(recorded):
    return read_run(recorded)


@pytest.fixture(scope="module")
def opened(browser, recorded):
    """The page in the browser, what it asked for, and what it complained of."""
    file = write_page(recorded, recorded / "report.html")
    page, asked, complaints = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.clock.install()
    page.goto(file.as_uri())
    yield page, asked, complaints
    assert complaints == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {file.as_uri()}


@pytest.fixture
def page(opened):
    """The page as after loading."""
    opened[0].reload()
    return opened[0]


def shown(page):
    """For PFC1, PFC2 and PFC3: the dots, each with its label, place and height, and the numbered lines of the grid."""
    return {
        svg["metric"]: svg
        for svg in page.evaluate("""() => [...document.querySelectorAll(".interactive .chart")].map((svg) => ({
            metric: svg.dataset.metric,
            caption: svg.parentElement.querySelector(".error").textContent,
            dots: [...svg.querySelectorAll("circle")].map((dot) => ({
              label: dot.parentElement.getAttribute("aria-label"), x: +dot.getAttribute("cx"), y: +dot.getAttribute("cy"),
            })),
            ticks: [...svg.querySelectorAll("line.grid + text")].map((text) => {
              const line = text.previousElementSibling;
              return { text: text.textContent, across: line.getAttribute("x1") === line.getAttribute("x2"),
                       x: +line.getAttribute("x1"), y: +line.getAttribute("y1") };
            }),
        }))""")
    }


def read_off(places, ticks, log=False):
    """What an axis says at these places, by the first and the last of its numbers."""
    bend, unbend = (math.log, math.exp) if log else (float, float)
    (a, first), (b, last) = ((place, bend(float(text))) for place, text in (ticks[0], ticks[-1]))
    return [unbend(first + (place - a) / (b - a) * (last - first)) for place in places]


def check(page, run, epoch, position="projection"):
    """Compare what is drawn of an epoch with its files: the values in words to the last digit, and the heights of the dots."""
    assert page.inner_text(".epoch") == str(epoch)
    places = [place for place in run.records[epoch].positions[position]]
    for metric, chart in shown(page).items():
        values = run.over_depth(metric, epoch)
        drawn = [i for i, value in enumerate(values) if value > 0 or metric == "pfc3"]
        labels = [f"{run.layers[i]}: {number(values[i], 4)}" for i in drawn]
        assert [dot["label"] for dot in chart["dots"]] == labels, (metric, epoch)
        upright = [(tick["y"], tick["text"]) for tick in chart["ticks"] if not tick["across"]]
        heights = read_off([dot["y"] for dot in chart["dots"]], upright, log=metric != "pfc3")
        assert heights == pytest.approx([values[i] for i in drawn], rel=1e-3)
        level = [(tick["x"], tick["text"]) for tick in chart["ticks"] if tick["across"]]
        assert read_off([dot["x"] for dot in chart["dots"]], level) == pytest.approx([places[i] for i in drawn], abs=1e-3)


def test_the_slider_shows_each_epoch_as_measured(page, run):
    check(page, run, EPOCHS)
    slider = page.locator(".slider")
    slider.focus()
    for key, epoch in (("Home", 0), ("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1), ("End", EPOCHS)):
        page.keyboard.press(key)
        assert slider.get_attribute("aria-valuetext") == f"epoch {epoch}"
        check(page, run, epoch)
    slider.fill("3")
    check(page, run, 3)


def test_play_shows_one_epoch_after_the_other_and_ends(page, run):
    button = page.locator(".play")
    # From here on time passes only where it is told to.
    page.clock.pause_at("2100-01-01")
    button.click()
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Pause", "true")
    for epoch in range(3):
        check(page, run, epoch)
        page.clock.run_for(450)
    button.press("Space")
    page.clock.run_for(4500)
    assert button.inner_text() == "Play"
    check(page, run, 3)
    button.press("Enter")
    page.clock.run_for(450 * EPOCHS)
    assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Play", "false")
    check(page, run, EPOCHS)
    # Who moves the slider takes over.
    button.click()
    page.locator(".slider").fill("2")
    page.clock.run_for(4500)
    assert button.inner_text() == "Play"
    check(page, run, 2)


def test_layers_are_placed_as_chosen(page, run):
    choice = page.locator(".position")
    assert choice.locator("option").all_inner_texts() == [POSITIONS[key] for key in run.last.positions]
    choice.focus()
    for position in run.last.positions:
        choice.select_option(position)
        check(page, run, EPOCHS, position)
        captions = {metric: chart["caption"] for metric, chart in shown(page).items()}
        assert re.match(r"off by [\d.e-]+ decades \(line\), [\d.e-]+ \(baseline\)", captions["pfc1"]), captions


def test_a_dot_says_its_layer_and_value_under_the_pointer_and_by_keyboard(page, run):
    dots, values = page.locator('.interactive .chart[data-metric="pfc1"] .layer'), run.over_depth("pfc1", EPOCHS)
    tips = [dots.nth(depth).locator(".tip") for depth in range(6)]
    assert [tip.text_content() for tip in tips] == [f"{run.layers[i]}: {number(values[i], 4)}" for i in range(6)]
    shown_tips = page.locator(".tip:visible")
    assert shown_tips.count() == 0
    # The last dot lies above all others.
    dots.last.locator("circle").hover()
    assert shown_tips.all_text_contents() == [tips[5].text_content()]
    page.mouse.move(0, 0)
    assert shown_tips.count() == 0
    page.locator(".position").focus()
    page.keyboard.press("Tab")  # to the name of the metric, which leads to its words
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#term-pfc1"
    for depth in range(6):
        page.keyboard.press("Tab")
        assert shown_tips.all_text_contents() == [tips[depth].text_content()]
        box, frame = tips[depth].bounding_box(), page.locator('.interactive .chart[data-metric="pfc1"]').bounding_box()
        assert frame["x"] - 1 <= box["x"]
        assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def test_chosen_layers_stand_out_in_all_panels(page, run):
    """The names below the figures are switches: of the layers that are chosen, lines and dots keep their color."""
    names = page.locator(".key").first.get_by_role("button")
    assert names.all_inner_texts() == [f"{depth} {layer}" for depth, layer in enumerate(run.measured_layers)]

    def faint():
        return page.evaluate("""() => [...document.querySelectorAll(".panels svg")]
            .filter((svg) => svg.innerHTML.includes("--depth-") && svg.getClientRects().length).map((svg) =>
            [...new Set([...svg.querySelectorAll(".faint")].map((node) => /--depth-(\\d+)/.exec(node.outerHTML)[1]))]
                .sort().join(""))""")

    assert faint() == [""] * 6
    names.nth(1).click()
    assert faint() == ["02345"] * 6
    # All legends of the page say the same, and what is drawn anew follows.
    assert page.locator('.key [aria-pressed="true"]').count() == page.locator(".key").count()
    page.locator(".slider").fill("1")
    assert faint() == ["02345"] * 6
    names.nth(4).focus()
    page.keyboard.press("Enter")
    assert faint() == ["0235"] * 6
    for depth in (1, 4):
        names.nth(depth).press("Space")
    assert faint() == [""] * 6


def test_the_table_on_the_page_is_what_measure_gives_for_the_same_weights(page, trained):
    for summary in page.locator("summary").all():
        summary.click()
    rows = page.evaluate("""() => [...document.querySelectorAll("table.metrics tbody tr")].map((row) => [
        row.firstChild.firstChild.textContent, [...row.querySelectorAll("td")].map((cell) => cell.firstChild?.textContent)])""")
    values = {(row.metric, row.depth): row.value for row in trained[1].rows}
    assert len(rows) > 30
    for metric, cells in rows:
        for depth, cell in enumerate(cells):
            value = values.pop((metric, depth), None)
            assert cell == (None if value is None else "undef." if math.isnan(value) else number(value, 4)), (metric, depth)
    assert values == {}


def test_the_download_holds_every_row(page, run):
    with page.expect_download() as waited:
        page.locator(".csv").click()
    with open(waited.value.path(), encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(io.StringIO(file.read(), newline="")))
    assert list(lines[0]) == ["epoch", "split", "depth", "layer", "metric", "value", "flags"]
    found = {(int(line["epoch"]), int(line["depth"]), line["metric"]): (line["value"], line["flags"]) for line in lines}
    assert len(found) == len(lines) == len(run.rows)
    for row in run.rows:
        value, flags = found[row.epoch, row.depth, row.metric]
        assert flags == ";".join(row.flags)
        assert float(value) == pytest.approx(row.value, rel=1e-8, nan_ok=True)


def test_a_log_axis_of_any_range_has_numbers(page):
    """Also where none of 1, 1.5, 2, 3, … lies in it, such as PFC2 of a thousand classes."""
    for low, high in ((1.12, 1.4), (0.62, 0.68), (1.2401, 1.2466), (0.01, 3)):
        ticks = page.evaluate(f"logTicks({low}, {high})")
        assert 2 <= len(ticks) <= 6
        assert low <= min(ticks) < max(ticks) <= high


@pytest.mark.slow
def test_a_page_of_six_layers_and_forty_epochs_is_below_a_megabyte(tmp_path):
    """`test_large_run_stays_below_a_megabyte` has more layers and fewer metrics."""
    folder, _ = record(tmp_path / "long", 40)
    assert write_page(folder, folder / "report.html").stat().st_size < 1_000_000
