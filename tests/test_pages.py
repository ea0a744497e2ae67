"""The code of each page runs in a fresh process of its own, with no names but its own, and prints what the page says."""

import ast
import re

import pytest

import fresh
from ncollapse import __version__
from ncollapse.records import read_run
from pages import PAGES, ROOT, blocks

DOCS = ROOT / "docs"


def printed_by(page, *, before="", after="", here=None):
    """What the page's code prints. What runs before it gives it no name; what runs after it has its names."""
    code = "\n".join([*blocks("python", page), after])
    program = f"{before}\nexec(compile({code!r}, {page.name!r}, 'exec'), {{'__name__': '__main__'}})"
    # Tables fold to the terminal: to one as wide as the page.
    return fresh.python("-c", program, here=here, imported=fresh.OF_PAGES, COLUMNS="128")


def told(printed, name):
    """The rest of the line that begins with this word."""
    return re.search(rf"^{name} (.*)", printed, re.MULTILINE)[1]


# A small network in place of torchvision's own, which tests/zoo measures.
SMALL_RESNET = """
import sys, torch
from types import SimpleNamespace

def small_resnet(num_classes):
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4, num_classes))

sys.modules["torchvision"] = SimpleNamespace(models=SimpleNamespace(resnet18=small_resnet))
"""


def test_the_readme_measures_a_network_of_torchvision():
    assert "100 samples of 10 classes" in printed_by(ROOT / "README.md", before=SMALL_RESNET)


def test_code_without_an_import_fails(tmp_path):
    """As in README's code: what runs before it, and the process that is forked, have imported torch."""
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(torch.ones(1))\n```\n")
    with pytest.raises(AssertionError, match="name 'torch' is not defined"):
        printed_by(page, before=SMALL_RESNET)


# What the page says that the measurement has.
METHODS = "m.value('pfc1', '7'), m.curve('pfc1'), m.effective_depth(0.005), m.to_pandas()"


def test_the_page_on_measuring_prints_what_it_says(tmp_path):
    page = DOCS / "measuring.md"
    code, _ = blocks("python", page)
    assert len([line for line in code.splitlines() if line.strip()]) == 12
    changed = tmp_path / page.name
    changed.write_text(page.read_text().replace("print(nc.measure(net,", "print(m := nc.measure(net,"))
    assert ":= " in changed.read_text()
    (expected,) = [text for text in blocks("text", page) if text.startswith("4 layers")]
    (*printed, stored), said = printed_by(changed, after=METHODS).splitlines(), expected.splitlines()
    assert stored.startswith("{'1': ")
    assert printed[:2] == said[:2]
    table, expected_table = printed[2:], said[2:]
    assert [line.split()[0] for line in table] == [line.split()[0] for line in expected_table]
    numbers, expected_numbers = ([float(x) for line in rows[1:] for x in line.split()[1:]] for rows in (table, expected_table))
    # A thousand steps of training let the rounding of another processor grow into the second digit.
    assert numbers == pytest.approx(expected_numbers, rel=0.1)


def test_networks_and_data_are_loaded_by_name(tmp_path):
    after = "print('RUN', run)\nprint('MEASURED', nc.measure(network, data, num_classes=10)['pfc1'])"
    printed = printed_by(DOCS / "command-line.md", after=after, here=tmp_path)
    last = {
        row.layer: row.value for row in read_run(tmp_path / told(printed, "RUN")).rows if (row.epoch, row.metric) == (3, "pfc1")
    }
    assert ast.literal_eval(told(printed, "MEASURED")) == pytest.approx(last)


def test_the_page_of_results_draws_every_picture_that_it_shows(tmp_path):
    page = DOCS / "results.md"
    printed = printed_by(page, here=tmp_path)
    shown = {name.removeprefix("figures/results_") for name in re.findall(r"\]\((figures/[^)]+)\)", page.read_text())}
    assert shown == {file.name for file in tmp_path.glob("*.png")}
    assert printed.startswith("This is a network that was measured, not trained here.")


def test_the_page_of_diagnosis_runs():
    page = DOCS / "diagnosis.md"
    said = printed_by(page, after="print('METRICS', *{row.metric for row in found.rows})")
    distances = [float(word) for word in re.findall(r"2 tags: distance ([\d.]+)", said)]
    assert distances[1] < distances[0] / 2
    assert "Detect noise at" in said
    assert "cut at 1, linear head: train accuracy" in said
    first_cells = re.findall(r"^\| (.+?) \|", page.read_text(), flags=re.MULTILINE)
    metrics = {metric.replace("noise", "NAME").replace("parity", "NAME") for metric in told(said, "METRICS").split()}
    metrics = {re.sub(r"NAME\.\w+$", "NAME.SCORE", metric) for metric in metrics}
    assert metrics == set(re.findall(r"`([^`]+)`", " ".join(first_cells)))


def test_the_page_on_discovery_prints_what_it_says():
    page = DOCS / "discovery.md"
    assert printed_by(page) == blocks("text", page)[0]


def test_the_page_on_testing_prints_what_it_says():
    page = DOCS / "testing.md"
    printed, said = printed_by(page).splitlines(), blocks("text", page)[0].splitlines()
    # The distance from exact collapse is rounding, which differs between machines.
    assert [line for line in printed if " at collapse " not in line] == [line for line in said if " at collapse " not in line]


def test_the_run_that_can_be_stopped_is_run(tmp_path):
    printed_by(DOCS / "clusters.md", here=tmp_path)
    assert read_run(tmp_path / "runs" / "short").status.state == "finished"


# What the page's reader has: a frame, features and labels.
FRAME = """
import ncollapse as nc, torch
from ncollapse.etf import simplex_etf

K, frame = 4, simplex_etf(4, 6)
h, y = frame.repeat(3, 1), torch.arange(4).repeat(3)
"""


def test_the_metric_with_a_frame_of_your_own_is_measured(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{FRAME}```\n{(DOCS / 'how-to-choose.md').read_text()}")
    assert float(printed_by(page, after="print(m.value('pfc2_mine'))")) == pytest.approx(0, abs=1e-7)


def test_the_first_page_prints_what_it_says():
    page = DOCS / "index.md"
    assert f"version = {{{__version__}}}" in page.read_text()
    printed, said = printed_by(page).split(), blocks("text", page)[0].split()
    # Rounding differs between machines.
    assert [word for word in printed if "." not in word] == [word for word in said if "." not in word]
    numbers, expected = ([float(word) for word in words if re.fullmatch(r"\d+\.\d+", word)] for words in (printed, said))
    assert numbers == pytest.approx(expected, rel=1e-2)


def test_every_page_with_code_is_run():
    # Some in tests/integrations/test_examples.py and tests/distributed/test_torchrun.py.
    stems = "command-line measuring clusters diagnosis discovery how-to-choose index integrations processes results testing"
    assert {page.name for page in PAGES if blocks("python", page)} == {"README.md", *(f"{stem}.md" for stem in stems.split())}


def test_inline_code_names_what_exists():
    assert fresh.python(str(ROOT / "tests" / "inline_code.py"), *map(str, PAGES)) == ""
